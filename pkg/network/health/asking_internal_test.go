package health

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
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
