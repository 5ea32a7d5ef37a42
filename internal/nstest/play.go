package nstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// TB is the part of testing.TB on which this package builds, so that a program
// can do what a test does: see Alone and Play.
type TB interface {
	Helper()
	// Context is cancelled before the cleanups run.
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
}

// envAlone tells a re-executed program that it is in its namespaces.
const envAlone = "VNETD_ALONE"

// Alone calls body in namespaces of its own, as Run does for a test, by
// executing the running program again with the same arguments and standard
// files. It returns the program's exit code. An interrupt cancels body's
// context; a second one ends the program.
func Alone(body func(ctx context.Context) int) int {
	if os.Getenv(envAlone) == "" {
		return executeAlone()
	}
	if err := enter(); err != nil {
		fmt.Fprintf(os.Stderr, "preparing namespaces: %v\n", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return body(ctx)
}

// executeAlone is the outer half of Alone: it waits for the program in its
// namespaces, which receives the terminal's signals by itself.
func executeAlone() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "this program makes network namespaces: run it as root")
		return 1
	}
	signal.Ignore(os.Interrupt)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envAlone+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "running in namespaces: %v\n", err)
		return 1
	}
	return 0
}

// Play calls body with a TB that belongs to no test. Log lines go to w. It
// returns what body failed with, after the cleanups.
func Play(ctx context.Context, w io.Writer, body func(t TB)) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &player{ctx: ctx, log: w}
	done := make(chan struct{})
	go func() {
		defer close(done)
		body(p)
	}()
	<-done
	cancel()
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
	return p.err
}

// player is the TB of Play. It is used by one goroutine at a time.
type player struct {
	ctx      context.Context
	log      io.Writer
	cleanups []func()
	err      error
}

func (p *player) Helper()                  {}
func (p *player) Context() context.Context { return p.ctx }
func (p *player) Cleanup(f func())         { p.cleanups = append(p.cleanups, f) }
func (p *player) Failed() bool             { return p.err != nil }

func (p *player) Logf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.log, format+"\n", args...)
}

// Fatalf ends the goroutine in which body runs, like testing.TB's.
func (p *player) Fatalf(format string, args ...any) {
	p.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}
