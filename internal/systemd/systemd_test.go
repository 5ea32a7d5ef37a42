package systemd_test

import (
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/systemd"
)

func TestWatchdogInterval(t *testing.T) {
	const pid = 42
	for _, tt := range []struct {
		name, usec, of string
		want           time.Duration
	}{
		{"none", "", "", 0},
		{"ours", "30000000", "42", 30 * time.Second},
		{"of whoever asks", "500000", "", 500 * time.Millisecond},
		{"another process's", "30000000", "41", 0},
		{"nonsense", "soon", "42", 0},
		{"negative", "-1", "42", 0},
		{"beyond a day", "9223372036854775807", "42", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.of}
			if got := systemd.WatchdogInterval(func(key string) string { return env[key] }, pid); got != tt.want {
				t.Errorf("interval %v, want %v", got, tt.want)
			}
		})
	}
}
