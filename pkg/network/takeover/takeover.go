// Package takeover reads a network as libvirt's network driver left it, and finds out
// what becomes of it as vnetd's. It is pure: the hub looks at the host and at the
// networks that it has, and does what was found.
package takeover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Plan is a takeover that has been read.
type Plan struct {
	Def, Live *netdef.Network // either may be nil, not both
	Ports     []*netdef.Port
	Leases    []dhcpd.Lease
	Report    api.Taken

	autostart bool
}

// Parse reads the documents and the leases of a network. The error is Invalid for a
// text that can't be read, Conflict where the texts contradict each other; the Plan has
// a Report all the same.
func Parse(s api.Takeover) (*Plan, error) {
	p := &Plan{autostart: s.Autostart, Report: api.Taken{Ports: []api.TakenPort{}, Refused: []string{}}}
	if err := p.parse(s); err != nil {
		return p, err
	}
	is := p.Is()
	p.Report.Name, p.Report.UUID, p.Report.Bridge = is.Name, is.UUID, is.Bridge.Name
	return p, nil
}

func (p *Plan) parse(s api.Takeover) (err error) {
	if s.Definition != "" {
		if p.Def, err = netdef.Parse([]byte(s.Definition)); err != nil {
			return fmt.Errorf("definition: %w", err)
		}
	}
	if s.Status != "" {
		if p.Live, err = netdef.ParseStatus([]byte(s.Status)); err == nil {
			err = p.Live.Validate()
		}
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	switch {
	case p.Def == nil && p.Live == nil:
		return api.Errorf(api.Invalid, "a network without a definition and without a status is none")
	case p.Def != nil && p.Live != nil && (p.Def.Name != p.Live.Name || p.Def.UUID != "" && p.Def.UUID != p.Live.UUID):
		return api.Errorf(api.Conflict, "the status is of network %q with the UUID %s, the definition of %q with %s",
			p.Live.Name, p.Live.UUID, p.Def.Name, p.Def.UUID)
	}
	if p.Leases, err = translate.ParseLeases(s.Leases); err != nil {
		return api.Errorf(api.Invalid, "leases: %w", err)
	}
	return nil
}

// Is returns what the network is, or, while it is inactive, what it will be.
func (p *Plan) Is() *netdef.Network { return cmp.Or(p.Live, p.Def) }

// Refuse notes what is not taken over.
func (p *Plan) Refuse(format string, args ...any) {
	for line := range strings.Lines(fmt.Errorf(format, args...).Error()) {
		p.Report.Refused = append(p.Report.Refused, strings.TrimSuffix(line, "\n"))
	}
}

// Inherit gives the definition what it lacks and the live network has.
func (p *Plan) Inherit() {
	if p.Live == nil {
		return
	}
	p.Def.UUID = cmp.Or(p.Def.UUID, p.Live.UUID)
	p.Def.Bridge.Name = cmp.Or(p.Def.Bridge.Name, p.Live.Bridge.Name)
	if p.Def.MAC == nil {
		p.Def.MAC = p.Live.MAC
	}
}

// Complete makes def, which is complete, the definition.
func (p *Plan) Complete(def *netdef.Network) {
	p.Def = def
	p.Report.UUID, p.Report.Bridge = cmp.Or(p.Report.UUID, def.UUID), cmp.Or(p.Report.Bridge, def.Bridge.Name)
}

// Classify says what becomes of the network, which vnetd has already as known; nil
// where it has none of that name.
func (p *Plan) Classify(known *api.Network) {
	r := &p.Report
	r.Autostart = p.autostart && p.Def != nil
	if known != nil {
		r.Autostart = known.Persistent && (p.autostart || known.Autostart)
	}
	switch {
	case known != nil && (known.Active || p.Live == nil):
		r.Action, r.UUID, r.Bridge = api.TakePresent, known.UUID, known.Bridge
		return
	case p.Live != nil:
		r.Action = api.TakeAdopt
	default:
		r.Action = api.TakeDefine
	}
	r.Start = r.Action == api.TakeDefine && r.Autostart
	p.Leases = slices.DeleteFunc(p.Leases, p.foreign)
	r.Leases = len(p.Leases)
}

// ParsePorts reads the ports of a network that is adopted. complete makes a document
// that of a port on the live network; has reports whether vnetd has a port of that
// UUID.
func (p *Plan) ParsePorts(texts []string, complete func(live *netdef.Network, doc *netdef.Port) (*netdef.Port, error), has func(uuid string) bool) {
	for _, text := range texts {
		doc, err := netdef.ParsePort([]byte(text))
		if err != nil {
			p.Refuse("a port: %w", err)
			continue
		}
		full, err := complete(p.Live, doc)
		switch {
		case err != nil:
			p.Refuse("port %s of %s: %w", doc.UUID, doc.Owner.Name, err)
		case has(doc.UUID):
			p.Refuse("port %s of %s: vnetd has a port of this UUID", doc.UUID, doc.Owner.Name)
		default:
			p.Ports = append(p.Ports, full)
			p.Report.Ports = append(p.Report.Ports, api.TakenPort{UUID: full.UUID, Owner: full.Owner.Name, MAC: full.MAC.String()})
		}
	}
}
