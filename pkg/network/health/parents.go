package health

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
)

// Parentless is an active network whose ports would be on interfaces or devices of the host
// of which none is there.
type Parentless struct {
	Network string
	Err     error
}

// Parents is the source of networks that wait for the interfaces that their ports are on.
func Parents(away func() []Parentless) Source {
	return Source{"parents", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, p := range away() {
			all = append(all, api.Condition{
				Kind: "parent-away", Severity: api.SeverityError, Networks: []string{p.Network},
				Message:  fmt.Sprintf("network %q waits for the interfaces that its ports are on: it can have no ports until then", p.Network),
				Evidence: p.Err.Error(), Remedy: "ip -br link",
			})
		}
		return all, nil
	}}
}

// Misfit is a port of an active network that is not there as it was asked for.
type Misfit struct {
	Network, Port string
	Err           error // why that can't be
}

// Misfits is the source of ports that do not fit what their networks have become.
func Misfits(list func() []Misfit) Source {
	return Source{"misfits", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, m := range list() {
			all = append(all, api.Condition{
				Kind: "port-misfit", Severity: api.SeverityError, Networks: []string{m.Network},
				Message:  fmt.Sprintf("port %q was made for what network %q has been, and can't be all that it was asked to be", m.Port, m.Network),
				Evidence: m.Err.Error(), Remedy: "vnetctl port list " + m.Network,
			})
		}
		return all, nil
	}}
}

// Unguarded are ports on a network whose owners may not choose addresses, and which have no
// guard that holds them to that.
type Unguarded struct {
	Network string
	Ports   int
}

// UnguardedPorts is the source of ports that can have no guard.
func UnguardedPorts(list func() []Unguarded) Source {
	return Source{"unguarded", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, u := range list() {
			all = append(all, api.Condition{
				Kind: "port-unguarded", Severity: api.SeverityWarning, Networks: []string{u.Network},
				Message:  fmt.Sprintf("guests of users who may not choose addresses can pose as others on the LAN of network %q: ports by macvtap have no guard", u.Network),
				Evidence: fmt.Sprintf("%d such ports", u.Ports), Remedy: "vnetctl port list " + u.Network,
			})
		}
		return all, nil
	}}
}

// Outheld is an active network with a bandwidth whose bridge is held to that of another one.
type Outheld struct{ Network, Bridge, By string }

// Bandwidths is the source of networks whose bandwidth is not kept as another one's is.
func Bandwidths(list func() []Outheld) Source {
	return Source{"bandwidths", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, o := range list() {
			all = append(all, api.Condition{
				Kind: "bandwidth-shadowed", Severity: api.SeverityWarning, Networks: []string{o.Network},
				Message:  fmt.Sprintf("the bandwidth of network %q is not kept: its bridge %q is held to that of network %q", o.Network, o.Bridge, o.By),
				Evidence: fmt.Sprintf("%q and %q both have a <bandwidth>, and the same bridge", o.By, o.Network),
				Remedy:   "vnetctl edit " + o.Network,
			})
		}
		return all, nil
	}}
}
