package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc/PID/stat, USER_HZ: 100 per second
// on every Linux that Go runs on.
const clockTick = time.Second / 100

// usage is what the processes of one program take.
type usage struct {
	processes int
	cpu       time.Duration // user and system, ended children included
	user      time.Duration // of that, outside of the kernel
	pss       int           // KiB
}

// usageOf adds up the processes whose program is called comm. All processes in
// the bench's PID namespace are the bench's.
func usageOf(comm string) (usage, error) {
	var u usage
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return u, err
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		name, cpu, user, err := parseStat(string(stat))
		if err != nil {
			return u, fmt.Errorf("reading %s: %w", path, err)
		}
		if name != comm {
			continue
		}
		rollup, err := os.ReadFile(filepath.Join(filepath.Dir(path), "smaps_rollup"))
		if err != nil {
			continue
		}
		u.processes++
		u.cpu, u.user = u.cpu+cpu, u.user+user
		u.pss += parsePSS(string(rollup))
	}
	return u, nil
}

// usageAt is what the process takes whose folder of /proc it is.
func usageAt(proc string) (usage, error) {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return usage{}, err
	}
	rollup, err := os.ReadFile(filepath.Join(proc, "smaps_rollup"))
	if err != nil {
		return usage{}, err
	}
	_, cpu, user, err := parseStat(string(stat))
	return usage{1, cpu, user, parsePSS(string(rollup))}, err
}

// processesOf are the processes whose program is called comm.
func processesOf(comm string) ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	var pids []int
	for _, path := range names {
		name, _ := os.ReadFile(path) // nothing if it ended
		if strings.TrimSpace(string(name)) != comm {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, err
}

// parseStat takes the program's name and CPU time, and what of that is the program's own,
// out of /proc/PID/stat, see proc(5).
func parseStat(stat string) (comm string, cpu, user time.Duration, err error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", 0, 0, fmt.Errorf("no program in %q", stat)
	}
	// The fields after the name are numbered from 3; 14 to 17 are utime, stime,
	// cutime and cstime.
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 15 {
		return "", 0, 0, fmt.Errorf("too few fields in %q", stat)
	}
	for i, field := range fields[14-3 : 17-3+1] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return "", 0, 0, err
		}
		cpu += time.Duration(ticks) * clockTick
		if i%2 == 0 {
			user += time.Duration(ticks) * clockTick
		}
	}
	return stat[open+1 : end], cpu, user, nil
}

// parsePSS takes the proportional set size in KiB out of smaps_rollup.
func parsePSS(rollup string) int {
	for line := range strings.Lines(rollup) {
		if rest, found := strings.CutPrefix(line, "Pss:"); found {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kib
		}
	}
	return 0
}

// memory prints the PSS.
func (u usage) memory() string { return fmt.Sprintf("%.1f MiB", float64(u.pss)/1024) }

// seconds prints CPU time.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
