package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// envClock has the test binary tell the time.
const envClock = "VNETD_CHAOS_CLOCK"

// TestMain tells the seconds of the wall clock, and those since the start, for each line that it
// is given, where it is run as the process whose clock jumps.
func TestMain(m *testing.M) {
	if os.Getenv(envClock) == "" {
		os.Exit(m.Run())
	}
	begin := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().Unix(), int(time.Since(begin).Seconds()))
	}
}

// TestClockJumps holds that the wall clock of another process is set, forwards and back, and
// no other clock and nobody else's.
func TestClockJumps(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envClock+"=yes")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	for _, by := range []time.Duration{0, 20 * time.Minute, -20 * time.Minute, 7 * time.Second, 0} {
		if err := setClock(cmd.Process.Pid, by); err != nil {
			t.Fatalf("setting the clock by %v: %v", by, err)
		}
		least := time.Now().Add(by).Unix()
		_, _ = fmt.Fprintln(in)
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatalf("after the clock was set by %v: %v", by, err)
		}
		most := time.Now().Add(by).Unix()
		wall, since, _ := strings.Cut(strings.TrimSpace(line), " ")
		if is, err := strconv.ParseInt(wall, 10, 64); err != nil || is < least || is > most {
			t.Errorf("set by %v, it tells %s, want %d to %d", by, wall, least, most)
		}
		if is, err := strconv.Atoi(since); err != nil || is < 0 || is > int(time.Since(begin).Seconds()) {
			t.Errorf("set by %v, %s s have passed, want at most %v", by, since, time.Since(begin))
		}
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process whose clock was set: %v", err)
	}
}
