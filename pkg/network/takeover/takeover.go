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
)

// Source is a network of libvirt's: the texts of its files. Either document may be
// empty, not both.
type Source struct {
	Definition string   // <network>; empty: the network is transient
	Status     string   // <networkstatus>; empty: it is inactive
	Ports      []string // <networkport> of each port
	Leases     string   // of its dnsmasq, as ParseLeases of dhcpd reads them
	Autostart  bool
}

// What becomes of a network that is taken over.
const (
	Define  = "define"  // it is defined here
	Adopt   = "adopt"   // it is active, and goes on as vnetd's
	Present = "present" // vnetd has it already, and it stays as it is
)

// Report is what a network became, or would become.
type Report struct {
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	Bridge    string `json:"bridge"`
	Action    string `json:"action"` // define, adopt or present
	Autostart bool   `json:"autostart"`
	Start     bool   `json:"start"` // it is inactive and starts now, as it is marked for autostart
	Ports     []Port `json:"ports"`
	Leases    int    `json:"leases"`

	// Refused are ports and leases that can't be taken over, and what else went
	// wrong, each with the reason.
	Refused []string `json:"refused"`
}

// Port is a port of another program's that goes on.
type Port struct {
	UUID  string `json:"uuid"`
	Owner string `json:"owner"`
	MAC   string `json:"mac"`
}

// Plan is a Source that has been read.
type Plan struct {
	Def, Live *netdef.Network // either may be nil, not both
	Ports     []*netdef.Port
	Leases    []dhcpd.Lease
	Report    Report

	autostart bool
}

// Parse reads the documents and the leases of a network. The error is Invalid for a
// text that can't be read, Conflict where the texts contradict each other; the Plan has
// a Report all the same.
func Parse(s Source) (*Plan, error) {
	p := &Plan{autostart: s.Autostart, Report: Report{Ports: []Port{}, Refused: []string{}}}
	if err := p.parse(s); err != nil {
		return p, err
	}
	is := p.Is()
	p.Report.Name, p.Report.UUID, p.Report.Bridge = is.Name, is.UUID, is.Bridge.Name
	return p, nil
}

func (p *Plan) parse(s Source) (err error) {
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
	if p.Leases, err = dhcpd.ParseLeases(s.Leases); err != nil {
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
		r.Action, r.UUID, r.Bridge = Present, known.UUID, known.Bridge
		return
	case p.Live != nil:
		r.Action = Adopt
	default:
		r.Action = Define
	}
	r.Start = r.Action == Define && r.Autostart
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
			p.Report.Ports = append(p.Report.Ports, Port{full.UUID, full.Owner.Name, full.MAC.String()})
		}
	}
}
