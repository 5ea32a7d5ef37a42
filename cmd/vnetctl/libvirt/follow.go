package libvirt

import (
	"bufio"
	"context"
	"time"

	"github.com/vnetd/vnetd/pkg/client"
)

// mirrorRetry is how long after a failure the mirrors are looked at again.
const mirrorRetry = 5 * time.Second

// Follow keeps the mirrors in step with what happens in vnetd and in libvirtd.
// Either may go and come: a vnetd that was stopped is not started.
func (m Mirrors) Follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
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
		lost <- m.Daemon.Watch(ctx, func(e client.Event) error {
			switch e.Kind {
			case client.NetworkAdded, client.NetworkChanged, client.NetworkRemoved, client.DaemonStarted:
				changed()
			}
			return nil
		})
	}()
	err := m.keep(ctx, dirty, lost)
	cancel()
	<-watched
	return err
}

// keep syncs whenever something may have changed, until the watch of vnetd
// ends. What is the matter is told once.
func (m Mirrors) keep(ctx context.Context, dirty <-chan struct{}, lost <-chan error) error {
	var retry <-chan time.Time
	told := make(map[string]bool)
	for {
		select {
		case err := <-lost:
			return err
		case <-retry:
		case <-dirty:
		}
		faults, err := m.sync(ctx)
		if ctx.Err() != nil {
			return <-lost
		}
		retry = nil
		if err != nil {
			retry = time.After(mirrorRetry)
			faults = append(faults, err)
		}
		told = m.tellOnce(faults, told)
	}
}

// tellOnce tells of faults that have not been told of the last time, and returns what
// is told now.
func (m Mirrors) tellOnce(faults []error, told map[string]bool) map[string]bool {
	now := make(map[string]bool)
	for _, fault := range faults {
		text := fault.Error()
		if now[text] = true; !told[text] {
			m.Tell(text)
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
