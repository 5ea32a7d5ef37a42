package firewall

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Stats are counts since New.
type Stats struct {
	// Backend is by what rules are written, and Reason why by that, where the writer
	// tells.
	Backend, Reason string
	// Repairs is the number of times that rules were put back, ByCause the same by
	// cause, Rules the number of rules that were missing, and Zones the number of
	// bridges put back into firewalld's zones.
	Repairs uint64
	ByCause map[Cause]uint64
	Rules   uint64
	Zones   uint64
	// Checks is the number of times that the rules were compared.
	Checks uint64
	// Failed is the number of repairs that failed.
	Failed uint64
	// LastRepair is when the last one was, zero if there was none.
	LastRepair time.Time
	// Contended reports that somebody removes rules as fast as they are put back,
	// so that Watch repairs less often.
	Contended bool
}

// Stats returns the counts so far. It waits for nothing.
func (f *Firewall) Stats() Stats {
	f.counting.Lock()
	defer f.counting.Unlock()
	s := f.stats
	s.ByCause = maps.Clone(s.ByCause)
	if w, tells := f.writer.(interface{ Choice() (name, reason string) }); tells {
		s.Backend, s.Reason = w.Choice()
	}
	return s
}

// Repair lists the rules, puts back what is missing of every network that Set
// or Adopt knows of, and bridges into their zones of firewalld. Rules that are
// complete are not touched, nor are those of others. Nothing amiss is no error.
func (f *Firewall) Repair(ctx context.Context) (Report, error) {
	report, err := f.repair(ctx, finding{}, true)
	report.Zones = f.rebind(ctx)
	return report, err
}

// finding is what Watch has heard that may make a repair necessary.
type finding struct {
	cause   Cause // of firewalld, "" else
	process string
}

// repair is Repair of rules with what is known about the cause; afresh is
// Writer.Complete's.
func (f *Firewall) repair(ctx context.Context, found finding, afresh bool) (Report, error) {
	f.counting.Lock()
	f.stats.Checks++
	f.counting.Unlock()
	f.mu.Lock()
	report, err := f.writer.Complete(ctx, f.desired, afresh)
	f.mu.Unlock()
	if report.Repaired() && found.cause != "" {
		report.Cause = found.cause
	}
	report.Process = found.process
	f.count(report, err)
	if err != nil {
		return report, fmt.Errorf("repairing the firewall: %w", err)
	}
	return report, nil
}

// rebind puts bridges back into their zones of firewalld, and returns how many
// were not there.
func (f *Firewall) rebind(ctx context.Context) int {
	moved := f.zones.rebind(ctx, f.networks(), f.log)
	f.counting.Lock()
	defer f.counting.Unlock()
	f.stats.Zones += uint64(moved)
	return moved
}

// count keeps the counts and writes the log.
func (f *Firewall) count(r Report, err error) {
	f.counting.Lock()
	defer f.counting.Unlock()
	switch {
	case err != nil:
		f.stats.Failed++
		f.log.Error("firewall could not be repaired", "cause", string(r.Cause), "process", r.Process, "error", err)
	case r.Repaired():
		f.stats.Repairs++
		f.stats.Rules += uint64(len(r.Missing))
		if f.stats.ByCause == nil {
			f.stats.ByCause = map[Cause]uint64{}
		}
		f.stats.ByCause[r.Cause]++
		f.stats.LastRepair = time.Now()
		f.log.Warn("firewall repaired", "cause", string(r.Cause), "process", r.Process,
			"rules", len(r.Missing), "chains", strings.Join(r.Chains, " "))
	}
}
