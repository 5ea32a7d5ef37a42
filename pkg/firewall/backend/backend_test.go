package backend_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/backend"
)

// fake is a writer that notes what it is asked.
type fake struct {
	name    string
	asked   *[]string
	refuses error
	changed func() // tells Watch's caller
}

func (f *fake) note(what string) { *f.asked = append(*f.asked, f.name+" "+what) }

func (f *fake) Apply(_ context.Context, _ firewall.Desired, changes []firewall.Change) error {
	for _, c := range changes {
		if c.Remove {
			f.note("removes " + c.Network.Bridge)
		} else {
			f.note("sets " + c.Network.Bridge)
		}
	}
	return f.refuses
}

func (f *fake) Complete(context.Context, firewall.Desired, bool) (firewall.Report, error) {
	f.note("completes")
	return firewall.Report{Cause: firewall.CauseFlush}, f.refuses
}

func (f *fake) Purge(context.Context, firewall.Desired) error { f.note("purges"); return nil }

func (f *fake) RemoveLeftovers(context.Context, firewall.Network) error { return nil }

func (f *fake) Conditions(context.Context, []firewall.Network) ([]firewall.Condition, error) {
	return nil, nil
}

func (f *fake) Counts(context.Context, firewall.Network) (map[firewall.Rule]firewall.Count, error) {
	return nil, nil
}

func (f *fake) Lines(firewall.Network) []firewall.Line { return []firewall.Line{{Table: f.name}} }

func (f *fake) Watch(ctx context.Context, changed func()) error {
	f.changed = changed
	changed()
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Others() []string { return nil }

func (f *fake) Close() error { f.note("closes"); return nil }

// scene is two writers, of which old is in use.
type scene struct {
	old, next fake
	asked     []string
	choice    backend.Choice
	works     error
	writer    *backend.Writer
}

func newScene(t *testing.T, stands bool) *scene {
	t.Helper()
	s := &scene{choice: backend.Choice{Name: "old", Reason: "first"}}
	standing := ""
	if stands {
		standing = "next"
	}
	s.open(t, standing, "old")
	return s
}

// open makes the writer on a host on which rules of some stand. leave is Config.Leave.
func (s *scene) open(t *testing.T, standing, leave string) {
	t.Helper()
	s.old, s.next = fake{name: "old", asked: &s.asked}, fake{name: "next", asked: &s.asked}
	kind := func(f *fake) backend.Kind {
		return backend.Kind{
			Name:   f.name,
			Open:   func(context.Context) (firewall.Writer, error) { f.note("opens"); return f, nil },
			Stands: func(context.Context) bool { return strings.Contains(standing, f.name) },
			Works:  func(firewall.Writer) error { return s.works },
		}
	}
	w, err := backend.New(t.Context(), backend.Config{
		Kinds:  []backend.Kind{kind(&s.old), kind(&s.next)},
		Choose: func(context.Context, []firewall.Network) backend.Choice { return s.choice },
		Leave:  leave, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.writer = w
}

// others has somebody else change rules.
func (s *scene) others(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{})
	ended := make(chan error)
	go func() {
		once := false
		ended <- s.writer.Watch(ctx, func() {
			if !once {
				once = true
				close(told)
			}
		})
	}()
	<-told
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// expect compares what writers were asked since the last time.
func (s *scene) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, slices.Clone(s.asked)); diff != "" {
		t.Errorf("%s writers were asked (-want +got):\n%s", when, diff)
	}
	s.asked = nil
}

var desired = firewall.Desired{{Network: firewall.Network{Bridge: "virbr0"}}}

// What another writer left goes once the new rules are complete, and not before.
func TestFormerRulesAreSwept(t *testing.T) {
	s := newScene(t, true)
	s.expect(t, "at first", "old opens", "next opens")
	if err := s.writer.Apply(t.Context(), desired, []firewall.Change{{Network: firewall.Network{Bridge: "virbr1"}}}); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "for a network", "old sets virbr1")
	if err := s.writer.Apply(t.Context(), desired, []firewall.Change{{Network: firewall.Network{Bridge: "virbr1"}, Remove: true}}); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "for its end", "old removes virbr1", "next removes virbr1")
	if _, err := s.writer.Complete(t.Context(), nil, false); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "before any network is known", "old completes")
	s.old.refuses = errors.New("no")
	if _, err := s.writer.Complete(t.Context(), desired, false); err == nil {
		t.Fatal("an error is not told")
	}
	s.expect(t, "as the new rules fail", "old completes")
	s.old.refuses = nil
	report, err := s.writer.Complete(t.Context(), desired, false)
	if err != nil || report.Repaired() {
		t.Errorf("changing over is told as a repair: %+v, %v", report, err)
	}
	s.expect(t, "at last", "old completes", "next removes virbr0", "next purges", "next closes")
	if report, err = s.writer.Complete(t.Context(), desired, false); err != nil || !report.Repaired() {
		t.Errorf("a repair is not told: %+v, %v", report, err)
	}
	s.expect(t, "afterwards", "old completes")
}

// Networks change over where that is better by now, and only to what works.
func TestNetworksChangeOver(t *testing.T) {
	s := newScene(t, false)
	s.choice = backend.Choice{Name: "next", Reason: "better"}
	complete := func() {
		t.Helper()
		if _, err := s.writer.Complete(t.Context(), desired, false); err != nil {
			t.Fatal(err)
		}
	}
	complete()
	s.expect(t, "as nobody else changed rules", "old opens", "old completes")
	s.works = errors.New("is not installed")
	s.others(t)
	complete()
	s.expect(t, "as the other does not work", "next opens", "next closes", "old completes")
	s.works = nil
	complete()
	s.expect(t, "as nobody has changed rules since", "old completes")
	s.others(t)
	complete()
	s.expect(t, "as it works", "next opens", "next completes", "old removes virbr0", "old purges", "old closes")
	if name, reason := s.writer.Choice(); name != "next" || reason != "better" || s.writer.Lines(firewall.Network{})[0].Table != "next" {
		t.Errorf("chosen is %s, %s", name, reason)
	}
	s.choice = backend.Choice{Name: "old"}
	s.others(t)
	complete()
	s.expect(t, "as the first would do again", "next completes")
}

// Where it can't be told which kind is best, what stands stays, by a condition, until it can.
func TestDoubt(t *testing.T) {
	doubt := errors.New("no list")
	open := func(stands string, leave string) *scene {
		s := &scene{choice: backend.Choice{Name: "old", Reason: "nothing stands", Doubt: doubt}}
		s.open(t, stands, leave)
		return s
	}
	expect := func(s *scene, name, reason string, kinds ...firewall.Kind) {
		t.Helper()
		if _, err := s.writer.Complete(t.Context(), desired, false); err != nil {
			t.Fatal(err)
		}
		if gotName, gotReason := s.writer.Choice(); gotName != name || gotReason != reason {
			t.Errorf("chosen is %s, %s; want %s, %s", gotName, gotReason, name, reason)
		}
		found, err := s.writer.Conditions(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []firewall.Kind
		for _, c := range found {
			got = append(got, c.Kind)
		}
		if diff := cmp.Diff(kinds, got); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
	}
	expect(open("", "next"), "old", "nothing stands", firewall.KindUndecided)
	expect(open("old next", "next"), "old", "nothing stands", firewall.KindUndecided)
	expect(open("old", "next"), "old", "its rules stand", firewall.KindUndecided)
	s := open("next", "next")
	expect(s, "next", "its rules stand", firewall.KindUndecided)
	s.choice = backend.Choice{Name: "next", Reason: "better"}
	expect(s, "next", "better")
	s.choice = backend.Choice{Name: "old", Doubt: doubt}
	s.others(t)
	expect(s, "next", "better", firewall.KindUndecided)
	s.choice = backend.Choice{Name: "old", Reason: "needed"} // nobody has changed rules since
	expect(s, "old", "needed")
	s = open("old", "next")
	s.choice = backend.Choice{Name: "next"}
	expect(s, "old", "its rules stand") // until a restart
}
