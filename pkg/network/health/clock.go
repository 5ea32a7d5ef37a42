package health

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
)

// Clock is the source of jumps of the wall clock.
func Clock() Source {
	var c clock
	return Source{"clock", func(context.Context) ([]api.Condition, error) { return c.look(readClock()), nil }}
}

// A jump of the clock is reported for jumpMemory; smaller ones than jumpLeast are
// what time servers correct.
const (
	jumpLeast  = 30 * time.Second
	jumpMemory = time.Hour
)

// reading is what two clocks show at one moment: the wall clock, which may be
// set, and the time since boot, which may not.
type reading struct{ wall, boot time.Duration }

// readClock reads both clocks, which every Linux has.
func readClock() reading {
	var wall, boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return reading{time.Duration(wall.Nano()), time.Duration(boot.Nano())}
}

// clock notices that the wall clock was set. The zero clock has not looked yet.
type clock struct {
	last, jumped reading
	by           time.Duration
}

// look compares now with the last reading.
func (c *clock) look(now reading) []api.Condition {
	if by := (now.wall - c.last.wall) - (now.boot - c.last.boot); c.last != (reading{}) && by.Abs() >= jumpLeast {
		c.by, c.jumped = by.Round(time.Second), now
	}
	c.last = now
	if c.by == 0 || now.boot-c.jumped.boot > jumpMemory {
		return nil
	}
	return []api.Condition{{
		Kind: "clock-jump", Severity: api.SeverityWarning,
		Message:  "the clock was set: leases from before end by the new time, not when their guests expect it",
		Evidence: fmt.Sprintf("by %v, to %s", c.by, time.Unix(0, int64(c.jumped.wall)).UTC().Format(time.RFC3339)),
		Remedy:   "timedatectl",
	}}
}
