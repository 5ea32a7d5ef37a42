package main

import (
	"bufio"
	"context"
	"time"

	"github.com/vnetd/vnetd/pkg/client"
)

// mirrorRetry is how long after a failure the mirrors are looked at again.
const mirrorRetry = 5 * time.Second

// mirrorFollow keeps the mirrors in step with what happens in vnetd and in libvirtd.
// Either may go and come: a vnetd that was stopped is not started.
func (a *app) mirrorFollow(ctx context.Context, d daemon, _ []string) error {
	ctx, cancel := context.WithCancel(client.NoStart(ctx))
	defer cancel()
	dirty := make(chan struct{}, 1)
	changed := func() {
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
	watched, lost := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			watchLibvirtd(ctx, changed)
			pause(ctx, mirrorRetry)
		}
	}()
	go func() {
		lost <- d.Watch(ctx, func(e client.Event) error {
			switch e.Kind {
			case client.NetworkAdded, client.NetworkChanged, client.NetworkRemoved, client.DaemonStarted:
				changed()
			}
			return nil
		})
	}()
	err := a.keepMirrors(ctx, d, dirty, lost)
	cancel()
	<-watched
	return err
}

// keepMirrors syncs whenever something may have changed, until the watch of vnetd
// ends. What is the matter is told once.
func (a *app) keepMirrors(ctx context.Context, d daemon, dirty <-chan struct{}, lost <-chan error) error {
	var retry <-chan time.Time
	told := make(map[string]bool)
	for {
		select {
		case err := <-lost:
			return err
		case <-retry:
		case <-dirty:
		}
		faults, err := a.syncMirrors(ctx, d)
		if ctx.Err() != nil {
			return <-lost
		}
		retry = nil
		if err != nil {
			retry = time.After(mirrorRetry)
			faults = append(faults, err)
		}
		told = a.tellOnce(faults, told)
	}
}

// tellOnce tells of faults that have not been told of the last time, and returns what
// is told now.
func (a *app) tellOnce(faults []error, told map[string]bool) map[string]bool {
	now := make(map[string]bool)
	for _, fault := range faults {
		text := oneLine(fault.Error())
		if now[text] = true; !told[text] {
			a.tell("%s", text)
		}
	}
	return now
}

// watchLibvirtd calls changed when something has happened to libvirtd's networks, or
// may have: at the start, at each event, and when libvirtd goes. It returns then, or
// when ctx ends.
func watchLibvirtd(ctx context.Context, changed func()) {
	defer changed()
	cmd := virshCommand(ctx, "net-event", "--event", "lifecycle", "--loop")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return // syncing tells what is the matter
	}
	changed()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		changed()
	}
	_ = cmd.Wait()
}

// pause waits, or for ctx to end.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
