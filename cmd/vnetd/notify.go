package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mdlayher/sdnotify"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/network"
)

// What sdnotify has no name for; see sd_notify(3).
const (
	notifyReloading = "RELOADING=1"
	notifyAlive     = "WATCHDOG=1"
)

// systemd is the service manager; where none runs, nothing is told.
type systemd struct {
	notifier *sdnotify.Notifier
	log      *slog.Logger
	manager  *network.Manager
	serves   atomic.Bool // READY=1 was sent
}

func newSystemd(m *network.Manager, log *slog.Logger) (*systemd, error) {
	notifier, err := sdnotify.New()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reaching systemd: %w", err)
	}
	return &systemd{notifier: notifier, log: log, manager: m}, nil
}

// tell sends notifications. That systemd can't be reached is no reason to fail.
func (s *systemd) tell(states ...string) {
	if err := s.notifier.Notify(states...); err != nil {
		s.log.Warn("notifying systemd", "states", states, "error", err)
	}
}

// ready tells systemd and the log that the daemon serves.
func (s *systemd) ready() {
	active, all := s.count()
	s.log.Info("ready", "networks", all, "active", active)
	s.serves.Store(true)
	s.tell(sdnotify.Ready, sdnotify.Statusf("%d of %d networks active", active, all))
}

func (s *systemd) count() (active, all int) {
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
func (s *systemd) reloading() {
	if !s.serves.Load() {
		return
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		s.log.Warn("notifying systemd of a reload", "error", err)
		return
	}
	s.tell(notifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond/time.Nanosecond)))
}

// reloaded ends what reloading announced.
func (s *systemd) reloaded() {
	if !s.serves.Load() {
		return
	}
	active, all := s.count()
	s.tell(sdnotify.Ready, sdnotify.Statusf("%d of %d networks active", active, all))
}

// watchdog tells systemd until ctx ends that the daemon lives, twice in each of
// its intervals. It looks at every network for that: when a lock of the hub is
// never given back, systemd hears nothing more and restarts the daemon.
func (s *systemd) watchdog(ctx context.Context) error {
	interval := watchdogInterval(os.Getenv, os.Getpid())
	if interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		active, all := s.count()
		s.tell(notifyAlive, sdnotify.Statusf("%d of %d networks active", active, all))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watchdogInterval is what sd_watchdog_enabled(3) tells; 0: no watchdog.
func watchdogInterval(getenv func(string) string, pid int) time.Duration {
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return 0
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}
