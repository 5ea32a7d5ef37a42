package ratelog_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vnetd/vnetd/internal/ratelog"
)

// TestLimiter says one thing again and again: it is logged at once, and after a
// while again, with how often it was left out.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		var l, other ratelog.Limiter
		for range 12 {
			l.Log(log, slog.LevelWarn, "full", "ip", "192.0.2.1")
			time.Sleep(time.Second)
		}
		other.Log(log, slog.LevelInfo, "another thing")
		time.Sleep(10 * time.Second)
		l.Log(log, slog.LevelWarn, "full")
		want := `level=WARN msg=full ip=192.0.2.1
level=WARN msg=full ip=192.0.2.1 suppressed=9
level=INFO msg="another thing"
level=WARN msg=full suppressed=1
`
		if text.String() != want {
			t.Errorf("logged:\n%swant:\n%s", text.String(), want)
		}
	})
}
