package health

import (
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

func TestClockJumps(t *testing.T) {
	var c clock
	now := reading{wall: 1_000_000 * time.Hour, boot: time.Hour}
	step := func(wall, boot time.Duration) []api.Condition {
		now.wall, now.boot = now.wall+wall, now.boot+boot
		return c.look(now)
	}
	for _, s := range []struct {
		what       string
		wall, boot time.Duration
		want       string // in the evidence; empty: no condition
	}{
		{"first look", 0, 0, ""},
		{"time passes", 2 * time.Second, 2 * time.Second, ""},
		{"the host slept", 8 * time.Hour, 8 * time.Hour, ""},
		{"a time server's correction", 2*time.Second + 800*time.Millisecond, 2 * time.Second, ""},
		{"set forth", 10 * time.Minute, 2 * time.Second, "by 9m58s"},
		{"later", 30 * time.Minute, 30 * time.Minute, "by 9m58s"},
		{"set back", -time.Hour, 2 * time.Second, "by -1h0m2s"},
		{"long ago", 61 * time.Minute, 61 * time.Minute, ""},
	} {
		got := step(s.wall, s.boot)
		if (s.want == "") != (len(got) == 0) || s.want != "" && !strings.Contains(got[0].Evidence, s.want) {
			t.Errorf("%s: %+v, want %q", s.what, got, s.want)
		}
	}
	if c.look(readClock()); readClock().boot <= 0 {
		t.Error("the clocks can't be read")
	}
}
