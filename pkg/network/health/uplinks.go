package health

import (
	"context"
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
)

// Uplink is the uplink of a bridge that vnetd made for it.
type Uplink struct {
	Bridge   string
	Dev      string   // as its network names it
	Name     string   // as it is called now; empty: it is away
	Owed     bool     // no network needs it, and the bridge stays until what the host has on it can be given back
	Err      error    // why it can't be made what it should be, nil for nothing
	Ending   []string // the host's addresses on the bridge that end soon, each with when
	Networks []string // active ones on the bridge
}

// Missing is a bridge of the host's that is not there, with the active network on it.
type Missing struct{ Network, Bridge string }

// Uplinks is the source of uplinks that are away, have another name, or can't be brought
// to what they should be, and of bridges of the host's that are not there.
func Uplinks(uplinks func() []Uplink, missing func() []Missing) Source {
	return Source{"uplinks", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, u := range uplinks() {
			if c := u.condition(); c.Kind != "" {
				c.Networks = u.Networks
				all = append(all, c)
			}
		}
		for _, m := range missing() {
			all = append(all, api.Condition{
				Kind: "bridge-away", Severity: api.SeverityError, Networks: []string{m.Network},
				Message:  fmt.Sprintf("network %q waits for the host's bridge %s: it can have no ports until then", m.Network, m.Bridge),
				Evidence: fmt.Sprintf("%q is no link of this host", m.Bridge), Remedy: fmt.Sprintf("ip link add %s up type bridge", m.Bridge),
			})
		}
		return all, nil
	}}
}

// condition is what is amiss with the uplink; its kind is empty for nothing.
func (u *Uplink) condition() api.Condition {
	switch {
	case u.Err != nil && u.Owed:
		return api.Condition{
			Kind: "uplink-owed", Severity: api.SeverityError, Evidence: u.Err.Error(), Remedy: "ip addr show dev " + u.Bridge,
			Message: fmt.Sprintf("what the host has on bridge %s can't be given back to %s, and is tried again", u.Bridge, u.Dev),
		}
	case u.Err != nil:
		return api.Condition{
			Kind: "uplink-unusable", Severity: api.SeverityError, Evidence: u.Err.Error(), Remedy: "ip addr show dev " + u.Bridge,
			Message: fmt.Sprintf("uplink %s and bridge %s can't be brought to what they should be", u.Dev, u.Bridge),
		}
	case u.Owed:
		return api.Condition{
			Kind: "uplink-owed", Severity: api.SeverityWarning, Evidence: u.absence(), Remedy: "ip -br link",
			Message: fmt.Sprintf("bridge %s keeps the host's addresses until its uplink %s is back", u.Bridge, u.Dev),
		}
	case u.Name == "":
		return api.Condition{
			Kind: "uplink-away", Severity: api.SeverityError, Evidence: u.absence(), Remedy: "ip -br link",
			Message: fmt.Sprintf("uplink %s of bridge %s is away: it is plugged in when it comes", u.Dev, u.Bridge),
		}
	case len(u.Ending) > 0:
		return api.Condition{
			Kind: "uplink-lease", Severity: api.SeverityError, Evidence: strings.Join(u.Ending, "; "), Remedy: "ip addr show dev " + u.Bridge,
			Message: fmt.Sprintf("the host is about to lose an address: its DHCP client has not renewed it, as answers no longer reach it on %s; it must work on %s, or the address be a static one", u.Name, u.Bridge),
		}
	case u.Name != u.Dev:
		return api.Condition{
			Kind: "uplink-renamed", Severity: api.SeverityInfo, Evidence: fmt.Sprintf("%s is the device that was %s", u.Name, u.Dev),
			Message: fmt.Sprintf("uplink %s of bridge %s is called %s now, and works on", u.Dev, u.Bridge, u.Name), Remedy: fmt.Sprintf("ip link property add dev %s altname %s", u.Name, u.Dev),
		}
	}
	return api.Condition{}
}

func (u *Uplink) absence() string {
	return fmt.Sprintf("%q is no link of this host, nor has another device its permanent MAC address", u.Dev)
}
