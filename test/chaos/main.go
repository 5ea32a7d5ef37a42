// Chaos has many clients of vnetd at work at random, by all of its protocols, while what
// vnetd depends on is broken at random: the process is killed, rules are flushed, bridges
// deleted, the bus restarted, the disk filled, memory and fsync withheld, the clock set. After each round all is left in peace, and
// then it must be as was acknowledged: each network, port and lease is there or was ended by
// its owner, nobody has another's address, the kernel has what is wanted, and nothing leaks.
//
//	go run ./test/chaos [-for 10m] [-seed N] [-backend iptables|nftables] [-log FILE] [-only FAULTS]
//
// runs in namespaces of its own; the machine is not touched. The seed is printed: with it,
// each client and the faults draw the same lots again, though not at the same moments. The
// exit code is 0 only if nothing was found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// options are those of the command line.
type options struct {
	span    time.Duration
	seed    uint64
	backend string
	log     string
	only    string
}

func main() {
	var o options
	flag.DurationVar(&o.span, "for", 10*time.Minute, "how long, at least one round")
	flag.Uint64Var(&o.seed, "seed", 0, "of the lots; 0: any")
	flag.StringVar(&o.backend, "backend", "", "who writes the rules; empty: by lot")
	flag.StringVar(&o.log, "log", "", "file for vnetd's log where something is found; empty: standard error")
	flag.StringVar(&o.only, "only", "", "faults by name, with commas between; empty: all")
	flag.Parse()
	os.Exit(nstest.Alone(func(ctx context.Context) int { return run(ctx, o) }))
}

// run returns the exit code.
func run(ctx context.Context, o options) int {
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	lots := lotsOf(o.seed, "backend")
	if o.backend == "" {
		o.backend = []string{"iptables", "nftables"}[lots.IntN(2)]
	}
	fmt.Printf("seed %d, rules by %s, for %v\n", o.seed, o.backend, o.span)
	log, err := openLog(o.log)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	begin := time.Now()
	err = nstest.Play(ctx, log, func(t nstest.TB) { newWorld(t, o).play(begin.Add(o.span)) })
	if err != nil {
		fmt.Printf("FAILED after %v: %v\nagain: -seed %d -backend %s\n", time.Since(begin).Round(time.Second), err, o.seed, o.backend)
		return 1
	}
	return 0
}

// openLog opens where logs go.
func openLog(path string) (io.Writer, error) {
	if path == "" {
		return os.Stderr, nil
	}
	return os.Create(path)
}

// lotsOf are the lots of one of those who draw any, always the same ones with one seed.
func lotsOf(seed uint64, who string) *rand.Rand {
	sum := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(who) {
		sum = (sum ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, sum))
}

// play goes on with rounds until the time is over, or something is found.
func (w *world) play(until time.Time) {
	for round := 1; round == 1 || time.Now().Before(until); round++ {
		begin := time.Now()
		var faults string
		w.disturb(func(ctx context.Context) { faults = w.faults(ctx) })
		worked := time.Since(begin)
		err := w.settle()
		if err == nil && (round%drainEvery == 0 || !time.Now().Before(until)) {
			err = w.leaks()
		}
		fmt.Printf("round %d: %v of faults, %v to check; %s\n  faults: %s\n", round, worked.Round(time.Millisecond), (time.Since(begin) - worked).Round(time.Millisecond), w.books.counts(), faults)
		if err = errors.Join(err, w.books.found()); err != nil {
			_ = unix.Kill(w.vnetd.PID(), unix.SIGQUIT) // tells what it is doing
			<-w.vnetd.Done()
			w.t.Fatalf("round %d: %w", round, err)
		}
		if w.t.Context().Err() != nil {
			break
		}
	}
	fmt.Printf("nothing was found\n%s", w.books.refusals())
}
