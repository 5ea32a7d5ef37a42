package libvirtrpc

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// need is what a client must have done, or may do, for a call.
type need int

// The needs, each with those before it.
const (
	needsNothing need = iota
	needsAuth         // has authenticated
	needsOpen         // has opened a connection
	needsWrite        // and not for reading only
)

// proc is one procedure that can be called.
type proc struct {
	name    string // of libvirt's API function: messages tell it
	needs   need
	inOrder bool // answered before the next call is read: it is quick, and the next may depend on it
	call    func(ctx context.Context, c *session, payload []byte, results *encoder) error
}

// method makes a procedure of the way to read its arguments and of what it
// does. run is not called with arguments that can't be read.
func method[A any](name string, needs need, args func(*decoder) A, run func(ctx context.Context, c *session, args A, results *encoder) error) *proc {
	return &proc{name: name, needs: needs, call: func(ctx context.Context, c *session, payload []byte, results *encoder) error {
		d := &decoder{rest: payload}
		a := args(d)
		if d.broken {
			return rpcf(codeRPC, "Unable to decode message payload")
		}
		return run(ctx, c, a, results)
	}}
}

// first marks a procedure as one to be answered in order.
func (p *proc) first() *proc {
	p.inOrder = true
	return p
}

// noArgs is what a procedure without arguments has.
type noArgs struct{}

func readNothing(*decoder) noArgs { return noArgs{} }

// accept is what there is to do where there is nothing to do.
func accept(context.Context, *session, noArgs, *encoder) error { return nil }

// onNetwork makes a procedure whose only argument is a network.
func onNetwork(name string, needs need, run func(ctx context.Context, n Network, results *encoder) error) *proc {
	return method(name, needs, readRef, func(ctx context.Context, c *session, r ref, results *encoder) error {
		n, err := c.network(r)
		if err != nil {
			return err
		}
		return run(ctx, n, results)
	})
}

// checkFlags refuses a flag that function does not have. function is the name
// within libvirt's driver, which stands in its message.
func checkFlags(flags, known uint32, function string) error {
	if unknown := flags &^ known; unknown != 0 {
		return failf(codeInvalidArg, "unsupported flags (0x%x) in function %s", unknown, function)
	}
	return nil
}

// refTo is a network as a ref.
func refTo(n api.Network) ref { return ref{n.Name, parseUUID(n.UUID)} }

// network is what r refers to. Its name is what the client knows it by; the UUID
// alone counts.
func (c *session) network(r ref) (Network, error) {
	n, err := c.backend.ByUUID(r.uuid.String())
	if network.KindOf(err) == api.NotFound && err != nil {
		return nil, failf(codeNoNetwork, "no network with matching uuid '%s' (%s)", r.uuid, r.name)
	}
	return n, err
}

// targetOf is the target that flags ask for (virNetworkUpdateFlags), refused
// where the network has it not.
func targetOf(n Network, flags uint32, function string) (network.Target, error) {
	if err := checkFlags(flags, uint32(network.TargetLive|network.TargetConfig), function); err != nil {
		return 0, err
	}
	target, info := network.Target(flags), n.Info()
	switch {
	case target&network.TargetLive != 0 && !info.Active:
		return 0, failf(codeInvalidState, "network is not running")
	case target&network.TargetConfig != 0 && !info.Persistent:
		return 0, failf(codeInvalidState, "cannot change persistent config of a transient network")
	}
	return target, nil
}

// writeAll writes a list, or an empty one where it is not wanted, and how many
// there are.
func writeAll[T any](results *encoder, what string, list []T, fill bool, limit int, write func(*encoder, T)) error {
	if len(list) > limit {
		return rpcf(codeRPC, "Too many %s '%d' for limit '%d'", what, len(list), limit)
	}
	if !fill {
		results.uint32(0)
		results.uint32(uint32(len(list)))
		return nil
	}
	results.uint32(uint32(len(list)))
	for _, item := range list {
		write(results, item)
	}
	results.uint32(uint32(len(list)))
	return nil
}

// permits refuses what the client may not do, or not yet.
func (p *proc) permits(c *session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p.needs == needsNothing:
		return nil
	case !c.authed:
		return rpcf(codeRPC, "authentication required")
	case p.needs == needsAuth:
		return nil
	case !c.open:
		return rpcf(codeInternal, "connection not open")
	case p.needs == needsWrite && c.readsOnly:
		return failf(codeDenied, "read only access prevents %s", p.name)
	}
	return nil
}
