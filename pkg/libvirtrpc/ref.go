package libvirtrpc

import (
	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// ref is a network as it goes over the wire, both ways.
type ref struct {
	name string
	uuid uuid
}

func readRef(d *decoder) ref { return ref{d.string(), d.uuid()} }

func (e *encoder) ref(r ref) {
	e.string(r.name)
	e.uuid(r.uuid)
}

// optRef reads a network that may be absent: then it is nil.
func (d *decoder) optRef() *ref {
	if !d.flag() || d.broken {
		return nil
	}
	r := readRef(d)
	return &r
}

// refTo is a network as a ref.
func refTo(n api.Network) ref { return ref{n.Name, parseUUID(n.UUID)} }

// network is what r refers to. Its name is what the client knows it by; the UUID
// alone counts.
func (c *client) network(r ref) (Network, error) {
	n, err := c.s.cfg.Backend.ByUUID(r.uuid.String())
	if network.KindOf(err) == api.NotFound && err != nil {
		return nil, failf(codeNoNetwork, "no network with matching uuid '%s' (%s)", r.uuid, r.name)
	}
	return n, err
}

// parseUUID reads the canonical form; what has not this form is the zero UUID.
func parseUUID(s string) uuid {
	u, _ := ether.ParseUUID(s)
	return u
}
