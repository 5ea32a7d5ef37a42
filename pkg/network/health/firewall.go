package health

import (
	"context"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Rules is what the firewall's source asks; *firewall.Firewall is the real one.
type Rules interface {
	Conditions(ctx context.Context, others ...firewall.Network) ([]firewall.Condition, error)
	Stats() firewall.Stats
}

// Firewall is the source of what other programs' rules do to guests; unruled are the active
// networks that have no rules.
func Firewall(rules Rules, active func() []Network, unruled func() []firewall.Network) Source {
	return Source{"firewall", func(ctx context.Context) ([]api.Condition, error) {
		found, err := rules.Conditions(ctx, unruled()...)
		return byNetwork(found, active()), err
	}}
}

// Repairs is the source of whether somebody undoes repairs of rules: it needs no list of them, which
// there is none of while they change all the time.
func Repairs(rules Rules) Source {
	return Source{"repairs", func(context.Context) (all []api.Condition, err error) {
		if rules.Stats().Contended {
			all = append(all, api.Condition{
				Kind: "firewall-contended", Severity: api.SeverityWarning,
				Message:  "another program removes the networks' firewall rules as fast as they are put back",
				Evidence: "repairs follow each other without end",
				Remedy:   "journalctl -u vnetd -g 'firewall repaired'",
			})
		}
		return all, nil
	}}
}

// byNetwork are what pkg/firewall found, with the networks of the bridges
// concerned. What concerns only bridges of networks that are about to start is
// left out: not all is in place yet.
func byNetwork(found []firewall.Condition, active []Network) []api.Condition {
	var all []api.Condition
	for _, f := range found {
		c := api.Condition{Kind: string(f.Kind), Severity: severity(f), Message: f.Summary, Evidence: f.Evidence, Remedy: f.Remedy}
		for _, n := range active {
			if slices.Contains(f.Bridges, n.Bridge) {
				c.Networks = append(c.Networks, n.Name)
			}
		}
		if len(f.Bridges) > 0 && len(c.Networks) == 0 {
			continue
		}
		slices.Sort(c.Networks)
		all = append(all, c)
	}
	return all
}

// severity says how bad a condition of the firewall is.
func severity(f firewall.Condition) api.Severity {
	switch {
	case f.Harmless:
		return api.SeverityInfo
	case f.Kind == firewall.KindDiverted, f.Kind == firewall.KindUndecided, (f.Kind == firewall.KindNoIPTables || f.Kind == firewall.KindNoNFTables) && len(f.Bridges) == 0:
		return api.SeverityWarning
	}
	return api.SeverityError
}
