package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// flowsProgram is the name under which the bench is a program that opens TCP
// connections until its standard input ends.
const flowsProgram = "flows"

// A connection is begun at each interval. flowLimit is less than the time after
// which the kernel repeats a lost SYN, one second: what was refused stays so.
const (
	flowEvery = 5 * time.Millisecond
	flowLimit = 500 * time.Millisecond
)

// flow is an attempt to open a connection.
type flow struct {
	begin time.Duration // since the first one
	took  time.Duration
	lost  bool
}

// flows is what came of many attempts.
type flows struct {
	Tried, Lost int
	// Gap is the longest time, from one connection that was opened to the next
	// one, in which attempts were lost; 0 if none was.
	Gap     time.Duration
	Slowest time.Duration // of those that were opened
}

// summarize takes attempts in the order in which they began.
func summarize(attempts []flow) flows {
	sum := flows{Tried: len(attempts)}
	var opened time.Duration
	failing := false
	for i, a := range attempts {
		if a.lost {
			sum.Lost++
			failing = true
		}
		if failing && (!a.lost || i == len(attempts)-1) {
			sum.Gap = max(sum.Gap, a.begin-opened)
		}
		if !a.lost {
			opened, failing = a.begin, false
			sum.Slowest = max(sum.Slowest, a.took)
		}
	}
	return sum
}

// cells are the figures in the table's order.
func (f flows) cells() []any {
	gap := "none"
	if f.Gap > 0 {
		gap = millis(f.Gap)
	}
	return []any{strconv.Itoa(f.Tried), strconv.Itoa(f.Lost), gap, millis(f.Slowest)}
}

// flowsProbe is the program, running.
type flowsProbe struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bytes.Buffer
}

// self is the path under which the bench is the program of that name.
func (b *bench) self(program string) string {
	executable, err := os.Executable()
	if err != nil {
		b.Fatalf("finding the bench's program: %w", err)
	}
	dir, err := os.MkdirTemp(b.dir, program+"-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	path := filepath.Join(dir, program)
	b.link(executable, path)
	return path
}

// startFlows runs the program in guest.
func startFlows(b *bench, guest *nstest.NS, address string) *flowsProbe {
	p := &flowsProbe{cmd: guest.Command(b.Context(), b.self(flowsProgram), address), out: new(bytes.Buffer)}
	var err error
	p.cmd.Stdout, p.cmd.Stderr = p.out, os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		b.Fatalf("opening connections: %w", err)
	}
	return p
}

// end stops the program and returns what it found.
func (p *flowsProbe) end(b *bench) flows {
	var f flows
	_ = p.in.Close()
	err := p.cmd.Wait()
	if err == nil {
		err = json.Unmarshal(p.out.Bytes(), &f)
	}
	if err != nil {
		b.Fatalf("opening connections: %w", err)
	}
	return f
}

// openFlows is the program: its argument is an address and a port. It returns
// the exit code.
func openFlows(args []string) int {
	if len(args) != 1 {
		return 2
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	attempts := tryFlows(args[0], ended)
	if err := json.NewEncoder(os.Stdout).Encode(summarize(attempts)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// tryFlows begins a connection at each interval until ended is closed.
func tryFlows(address string, ended <-chan struct{}) []flow {
	var attempts []*flow
	var running sync.WaitGroup
	tick := time.NewTicker(flowEvery)
	defer tick.Stop()
	first := time.Now()
	for more := true; more; {
		a := &flow{begin: time.Since(first)}
		attempts = append(attempts, a)
		running.Go(func() { a.lost = !opens(address); a.took = time.Since(first) - a.begin })
		select {
		case <-tick.C:
		case <-ended:
			more = false
		}
	}
	running.Wait()
	all := make([]flow, len(attempts))
	for i, a := range attempts {
		all[i] = *a
	}
	return all
}

// opens opens a connection and drops it, which leaves no port of the guest's in
// TIME-WAIT.
func opens(address string) bool {
	conn, err := net.DialTimeout("tcp", address, flowLimit)
	if err != nil {
		return false
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	return conn.Close() == nil
}
