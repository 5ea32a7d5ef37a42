package health

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// TestRestAfterStandingStill has this process stand still while a source is asked: it is asked again
// soon.
func TestRestAfterStandingStill(t *testing.T) {
	a := asking{
		Source: Source{Name: "host", Find: func(context.Context) ([]api.Condition, error) { return nil, nil }},
		log:    slog.New(slog.DiscardHandler),
	}
	const still = time.Hour
	if !a.begin(time.Now().Add(-still)) {
		t.Fatal("it is not asked at first")
	}
	a.ask(t.Context())
	if soon := time.Now().Add(still); !a.begin(soon) {
		t.Errorf("%v later it is not asked again", still)
	}
}

// TestAskedSoonAgain keeps what was found while rules change too fast to be listed, and while they
// were not listed in time, and asks again as soon as that makes sense.
func TestAskedSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := []api.Condition{{Kind: "found"}}
		var fails error
		a := asking{log: slog.New(slog.DiscardHandler)}
		a.Find = func(ctx context.Context) ([]api.Condition, error) {
			if errors.Is(fails, context.DeadlineExceeded) {
				<-ctx.Done()
			}
			return want, fails
		}
		for _, c := range []struct {
			fails error
			after time.Duration // it is asked again
			late  bool          // that it does not answer is told
		}{
			{nil, 0, false},
			{firewall.ErrChanging, 0, false},
			{context.DeadlineExceeded, giveUp, true},
			{firewall.ErrChanging, 0, true}, // it has not answered yet
			{nil, 0, false},
		} {
			fails = c.fails
			if !a.begin(time.Now()) {
				t.Fatalf("before %v: it is not asked again", c.fails)
			}
			a.ask(t.Context())
			if got := a.conditions(time.Now()); len(got) == 0 || got[0].Kind != "found" || len(got) == 2 != c.late {
				t.Errorf("%v: the conditions are %v", c.fails, got)
			}
			time.Sleep(c.after)
		}
	})
}
