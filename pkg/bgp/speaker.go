// Package bgp announces prefixes to routers by BGP (RFC 4271), so that they send this host what
// is for its guests. It takes no routes of others, and the kernel's are none of its business.
//
// BGP itself is spoken by a program of its own, vnet-bgp, which a Speaker runs, tells what there
// is to announce, and listens to: a host that announces nothing has nothing of it in memory, and
// what a router sends is not read by the process that has all networks. The program's end is no
// withdrawal: routers keep the routes for a time (RFC 4724), in which the next one takes over.
package bgp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Program is the name of the program that speaks BGP.
const Program = "vnet-bgp"

// Find finds the program: beside this one, where both were built, or where both are installed.
func Find() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, place := range []string{".", "../libexec/vnetd", "../lib/vnetd"} {
		path := filepath.Join(dir, place, Program)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s, which announces networks by BGP, is neither in %s nor in %s: install it, or take [bgp] out of vnetd.toml", Program, dir, filepath.Join(dir, "../libexec/vnetd"))
}

// State is how a speaker stands to its neighbours.
type State struct {
	RouterID   netip.Addr // invalid: not known yet
	Neighbours []Peer     // in the order of the configuration
	// Failure is why the program does not run; nil: it does, or has not been started.
	Failure error
}

// Speaker announces prefixes to neighbours. Its methods may be called concurrently.
type Speaker struct {
	cfg  Config
	path string
	log  *slog.Logger
	news chan struct{} // capacity 1: there is something to tell

	mu      sync.Mutex // guards what follows
	want    []netip.Prefix
	number  uint64 // of the last Announce; 0: nothing was said yet
	done    uint64 // of the last one that was carried out
	state   State
	settled chan struct{} // closed when done grows, or the program ends
	flaps   map[netip.Addr]uint64
}

// New makes a speaker of cfg, which has been checked, that has path run. Nothing is started: Run
// follows.
func New(cfg Config, path string, log *slog.Logger) *Speaker {
	s := &Speaker{cfg: cfg, path: path, log: log, news: make(chan struct{}, 1), settled: make(chan struct{}), flaps: make(map[netip.Addr]uint64)}
	s.down(nil)
	return s
}

// Config is what the speaker was made of.
func (s *Speaker) Config() Config { return s.cfg }

// Announce has those prefixes be announced, and no others. It returns at once.
func (s *Speaker) Announce(prefixes []netip.Prefix) {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Compare(b) })
	sorted = slices.Compact(sorted)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number > 0 && slices.Equal(sorted, s.want) {
		return
	}
	s.want = sorted
	s.number++
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Settle waits until neighbours whose sessions are up are told what was last announced, or until
// ctx ends. Where the program does not run there is nobody to tell.
func (s *Speaker) Settle(ctx context.Context) {
	s.mu.Lock()
	number := s.number
	s.mu.Unlock()
	for {
		s.mu.Lock()
		over, changed := s.done >= number || s.state.RouterID == netip.Addr{}, s.settled
		s.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// State is how the sessions stand.
func (s *Speaker) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	state.Neighbours = slices.Clone(state.Neighbours)
	for i := range state.Neighbours {
		state.Neighbours[i].Flaps += s.flaps[state.Neighbours[i].Address]
	}
	return state
}

// How long is waited before the program is started again, from one failure to the next.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// Run has the program run until ctx ends, from the first Announce on. What was announced then is
// left to the next one.
func (s *Speaker) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.news:
	}
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		began := time.Now()
		err := s.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		s.down(err)
		s.log.Error("networks are not announced by BGP: trying again", "error", err, "in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// endLimit is how long the program may take to end its sessions.
const endLimit = 5 * time.Second

// Withdraw has neighbours forget what a former speaker announced. It waits for those that are not
// reached until ctx ends; the error names them. No other speaker of this host may run.
func (s *Speaker) Withdraw(ctx context.Context) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.Announce(nil)
	<-s.news
	ended := make(chan error, 1)
	go func() { ended <- s.runOnce(running) }()
	for s.unreached() != nil && ctx.Err() == nil {
		s.mu.Lock()
		changed := s.settled
		s.mu.Unlock()
		if s.unreached() == nil {
			break
		}
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		case <-changed:
		}
	}
	missing := s.unreached()
	s.mu.Lock()
	s.number = 0 // which stands for the end
	s.mu.Unlock()
	s.news <- struct{}{}
	select {
	case err := <-ended:
		return errors.Join(missing, err)
	case <-time.After(endLimit):
		return errors.Join(missing, fmt.Errorf("%s does not end: it is killed, and routers keep routes until the restart time is over", s.path))
	}
}

// unreached names the neighbours that are not up.
func (s *Speaker) unreached() error {
	var errs []error
	for _, p := range s.State().Neighbours {
		if !p.Up {
			errs = append(errs, fmt.Errorf("BGP neighbour %v is not reached, and keeps routes until its restart time is over: %s", p.Address, p.Reason))
		}
	}
	return errors.Join(errs...)
}

// down notes that no session stands, and why; nil: nothing was tried yet.
func (s *Speaker) down(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.state
	s.state = State{Failure: why}
	for i := range s.cfg.Neighbours {
		p := Peer{Address: s.cfg.Neighbours[i].Address, Since: time.Now(), Reason: "not asked yet"}
		if why != nil {
			p.Reason = why.Error()
		}
		if i < len(was.Neighbours) {
			s.flaps[p.Address] += was.Neighbours[i].Flaps
			if was.Neighbours[i].Up {
				s.flaps[p.Address]++
			} else {
				p.Since = was.Neighbours[i].Since
			}
		}
		s.state.Neighbours = append(s.state.Neighbours, p)
	}
	s.progress()
}

// progress wakes who waits for done or the state. The caller holds s.mu.
func (s *Speaker) progress() {
	close(s.settled)
	s.settled = make(chan struct{})
}

// runOnce runs the program until it ends or ctx does, and returns why it ended; nil where it was
// told to.
func (s *Speaker) runOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	said := &lines{log: s.log}
	cmd := exec.CommandContext(ctx, s.path) // ended without a word: routers keep the routes
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.path, err)
	}
	var telling sync.WaitGroup
	telling.Go(func() { s.tell(ctx, in) })
	failure := s.hear(out)
	ended := cmd.Wait()
	cancel()
	telling.Wait()
	switch {
	case failure != "":
		return errors.New(failure)
	case ended != nil:
		return fmt.Errorf("%s ended: %w: %s", s.path, ended, said.last())
	}
	return nil
}

// tell tells the program what to announce, first with its configuration.
func (s *Speaker) tell(ctx context.Context, in io.WriteCloser) {
	defer in.Close()
	encoder := json.NewEncoder(in)
	cfg := &s.cfg
	for {
		s.mu.Lock()
		order := Order{Config: cfg, Prefixes: slices.Clone(s.want), Number: s.number, End: s.number == 0}
		s.mu.Unlock()
		if encoder.Encode(order) != nil || order.End {
			return // it has ended, or is about to
		}
		cfg = nil
		select {
		case <-ctx.Done():
			return
		case <-s.news:
		}
	}
}

// hear takes in what the program says until it says nothing more, and returns what it failed
// with, "" for nothing.
func (s *Speaker) hear(out io.Reader) (failure string) {
	decoder := json.NewDecoder(out)
	for {
		var r Report
		if decoder.Decode(&r) != nil {
			return failure
		}
		if r.Error != "" {
			failure = r.Error
			continue
		}
		s.mu.Lock()
		for _, p := range r.Neighbours {
			s.logChange(p)
		}
		s.done, s.state = r.Number, State{RouterID: r.RouterID, Neighbours: r.Neighbours}
		s.progress()
		s.mu.Unlock()
	}
}

// logChange says in the log that a session comes or goes. The caller holds s.mu.
func (s *Speaker) logChange(p Peer) {
	for _, was := range s.state.Neighbours {
		switch {
		case was.Address != p.Address || was.Up == p.Up:
		case p.Up:
			s.log.Info("BGP neighbour is up", "neighbour", p.Address.String())
		default:
			s.log.Warn("BGP neighbour is down", "neighbour", p.Address.String(), "reason", p.Reason)
		}
	}
}

// lines logs what the program writes to standard error, line by line, and keeps the last.
type lines struct {
	log  *slog.Logger
	mu   sync.Mutex
	rest string
	said string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest += string(p)
	for {
		line, rest, whole := strings.Cut(l.rest, "\n")
		if !whole {
			l.rest = line[max(0, len(line)-4096):]
			return len(p), nil
		}
		l.rest = rest
		if line = strings.TrimSpace(line); line != "" {
			l.said = line
			l.log.Warn("said by "+Program, "text", line)
		}
	}
}

// last is what was said last.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.said
}
