package network

import (
	"errors"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Plan tells what a network of that document would be, and touches nothing. What
// is in its way is in the plan, not an error; faults of the document are.
func (m *Manager) Plan(xml []byte) (api.Plan, error) {
	parsed, err := readDocument(xml)
	if err != nil {
		return api.Plan{}, err
	}
	m.defining.Lock()
	defer m.defining.Unlock()
	known, err := m.identify(parsed, false)
	if err != nil {
		return api.Plan{}, err
	}
	def, err := m.completed(parsed, known)
	if err != nil {
		return api.Plan{}, err
	}
	p := translate.Plan(def, m.cfg.Rules.Rules(translate.Firewall(def)))
	if known == nil || known.Info().MAC == "" {
		// The next one that is made up is another one.
		unsettle(&p, parsed)
	}
	in := []error{translate.Unsupported(def), netdef.Conflicts(def, m.definitions(known)), host.Missing(m.cfg.Links, def)}
	e := edit{Network: known, nextDef: def}
	if known != nil {
		p.Action = "redefine"
		e.live = known.liveNetwork()
	}
	if e.live != nil {
		p.Action = "change"
		in = append(in, e.newSubnets(def))
		p.Pending = append(p.Pending, change.Describe(netdef.Diff(e.atOnce(api.ApplyHarmless), def))...)
	} else {
		in = append(in, m.subnetsTaken(known, def, nil), host.Conflicts(m.cfg.Links, def))
	}
	if err := errors.Join(in...); err != nil {
		p.Conflicts = strings.Split(err.Error(), "\n")
	}
	return p, nil
}

// unsettle forgets what was made up for this plan alone.
func unsettle(p *api.Plan, parsed *netdef.Network) {
	if parsed.MAC == nil {
		for i := range p.Links {
			p.Links[i].MAC = ""
		}
	}
}
