package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine says on what the figures were taken. The state of the servers is in
// dir.
func machine(dir string) string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	load, _ := os.ReadFile("/proc/loadavg")
	average, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%d cores (%s), Linux %s, %s, load average %s, fsync of 4 KiB: %s",
		runtime.NumCPU(), processor(), unix.ByteSliceToString(uts.Release[:]), runtime.Version(), average, fsyncTime(dir))
}

// processor is the model of the first core.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// fsyncTime is the median and the worst time of some small durable writes in
// dir: no server can put a lease on disk faster.
func fsyncTime(dir string) string {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	var times []time.Duration
	for i := range int64(100) {
		begin := time.Now()
		if _, err := f.WriteAt(make([]byte, 4096), i*4096); err != nil {
			return err.Error()
		}
		if err := f.Sync(); err != nil {
			return err.Error()
		}
		times = append(times, time.Since(begin))
	}
	return fmt.Sprintf("median %s, worst %s", millis(quantile(times, 0.5)), millis(quantile(times, 1)))
}
