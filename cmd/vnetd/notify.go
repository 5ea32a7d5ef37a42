package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/systemd"
	"github.com/vnetd/vnetd/pkg/network"
)

// notifier tells the service manager how the daemon fares (sd_notify(3)).
type notifier struct {
	systemd *systemd.Manager
	log     *slog.Logger
	manager *network.Manager
	serves  atomic.Bool // READY=1 was sent
}

// tell sends notifications. That systemd can't be reached is no reason to fail.
func (s *notifier) tell(states ...string) {
	if err := s.systemd.Tell(strings.Join(states, "\n")); err != nil {
		s.log.Warn("notifying systemd", "states", states, "error", err)
	}
}

// ready tells systemd and the log that the daemon serves.
func (s *notifier) ready() {
	active, all := s.count()
	s.log.Info("ready", "networks", all, "active", active)
	s.serves.Store(true)
	s.tell("READY=1", status(active, all))
}

func status(active, all int) string {
	return fmt.Sprintf("STATUS=%d of %d networks active", active, all)
}

func (s *notifier) count() (active, all int) {
	networks := s.manager.Networks()
	for _, n := range networks {
		if n.Info().Active {
			active++
		}
	}
	return active, len(networks)
}

// reloading announces a reload. sd_notify(3): with Type=notify-reload the time
// tells systemd that the answer is to its own signal, not to an earlier one. A
// daemon that does not serve yet is still starting, whatever it reloads.
func (s *notifier) reloading() {
	if !s.serves.Load() {
		return
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.log.Warn("notifying systemd of a reload", "error", err)
		return
	}
	s.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond/time.Nanosecond)))
}

// reloaded ends what reloading announced.
func (s *notifier) reloaded() {
	if !s.serves.Load() {
		return
	}
	active, all := s.count()
	s.tell("READY=1", status(active, all))
}

// watchdog tells systemd until ctx ends that the daemon lives, twice in each of
// its intervals. It looks at every network for that: when a lock of the hub is
// never given back, systemd hears nothing more and restarts the daemon.
func (s *notifier) watchdog(ctx context.Context) error {
	interval := systemd.WatchdogInterval(os.Getenv, os.Getpid())
	if interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		active, all := s.count()
		s.tell("WATCHDOG=1", status(active, all))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
