package netdef

import (
	"fmt"
	"strings"
)

// forward checks the values of <forward>, whatever the mode.
func (c *checker) forward() {
	f := c.n.Forward
	if f == nil {
		return
	}
	if !knownMode(c.mode) {
		c.addf("network/forward/@mode", string(c.mode), "unknown forward mode, want one of %s", strings.Join(modes(), ", "))
	}
	if f.Dev != "" && len(f.Interfaces) > 0 && f.Interfaces[0] != f.Dev {
		c.addf("network/forward/@dev", f.Dev, "want the same device as the first <interface>, '%s'", f.Interfaces[0])
	}
	c.interfaces(f)
	c.pool(f)
	c.nat(f.NAT)
}

// interfaces checks the devices of the host that a <forward> names.
func (c *checker) interfaces(f *Forward) {
	seen := make(map[string]bool)
	for i, dev := range f.Interfaces {
		path := fmt.Sprintf("network/forward/interface[%d]/@dev", i+1)
		if i == 0 && dev == f.Dev && dev != "" {
			path = "network/forward/@dev"
		}
		c.device(path, dev)
		if seen[dev] {
			c.add(path, dev, "want each interface once")
		}
		seen[dev] = true
	}
}

// device checks the name of a device of the host that must be there.
func (c *checker) device(path, dev string) {
	if dev == "" {
		c.add(path, "", "missing, want the name of an interface")
	} else if problem := deviceName(dev); problem != "" {
		c.add(path, dev, problem)
	}
}

// nat checks <nat>.
func (c *checker) nat(n *NAT) {
	if n == nil {
		return
	}
	const path = "network/forward/nat"
	if a := n.Address; a != nil {
		c.natAddress(path+"/address", *a)
	}
	if r := n.Port; r != nil && r.Start >= r.End {
		problem := fmt.Sprintf("want a port after the start %d: ", r.Start)
		if r.Start == r.End {
			// iptables takes start-end in --to-ports, and libvirt fails at start.
			problem += "a range of a single port can't serve a network"
		} else {
			problem += "the range is reversed"
		}
		c.add(path+"/port/@end", fmt.Sprint(r.End), problem)
	}
}

// maxRange is the most addresses that a range may have: virSocketAddrGetRange.
const maxRange = 65536

// natAddress checks the source addresses of NAT.
func (c *checker) natAddress(path string, a AddressRange) {
	if !c.present(path, a.Start, a.End) {
		return
	}
	switch {
	case !a.Start.Is4():
		c.add(path+"/@start", a.Start.String(), "want an IPv4 address: IPv6 is translated to the interface's own")
	case !a.End.Is4():
		c.add(path+"/@end", a.End.String(), "want an IPv4 address: IPv6 is translated to the interface's own")
	default:
		c.order(path, a)
	}
}

// forwardMode checks what the mode needs and what it has no place for.
func (c *checker) forwardMode() {
	interfaces := 0
	if c.n.Forward != nil {
		interfaces = len(c.n.Forward.Interfaces)
	}
	switch c.mode {
	case ModeNAT, ModeRoute:
		if len(c.n.IPs) == 0 {
			c.addf("network/forward/@mode", string(c.mode), "needs an <ip>, and the network has none")
		}
		if interfaces > 1 {
			c.addf("network/forward/interface[2]/@dev", c.n.Forward.Interfaces[1], "only one interface is allowed in mode %s", c.mode)
		}
	case ModeOpen:
		if interfaces > 0 {
			c.add("network/forward/@dev", c.n.Forward.Interfaces[0], "not allowed in mode open, which limits no traffic to an interface")
		}
	case ModeBridge:
		c.bridgeMode(interfaces)
		c.hostMode()
	case ModePrivate, ModeVEPA, ModePassthrough, ModeHostdev:
		c.hostMode()
	}
}

// bridgeMode checks that a network in mode bridge has one source of ports. It
// may have none: a network of Open vSwitch, as libvirt has it.
func (c *checker) bridgeMode(interfaces int) {
	f, name := c.n.Forward, c.n.Bridge.Name
	if name != "" && (interfaces > 0 || f.PF != "") {
		c.add("network/bridge/@name", name, "want either a bridge name or a forward interface in mode bridge, not both")
	}
}

// hostMode checks that a network on devices of the host has nothing that needs
// a bridge of its own.
func (c *checker) hostMode() {
	problem := "not allowed in mode %s: the network has no bridge of its own"
	if c.n.OwnsBridge() {
		problem = "not allowed in mode %s with an uplink: addresses, names and services are the LAN's"
	}
	refuse := func(there bool, path string) {
		if there {
			c.addf(path, "", problem, c.mode)
		}
	}
	n := c.n
	for i := range n.IPs {
		refuse(true, fmt.Sprintf("network/ip[%d]", i+1))
	}
	for i := range n.Routes {
		refuse(true, fmt.Sprintf("network/route[%d]", i+1))
	}
	refuse(n.MAC != nil, "network/mac")
	refuse(n.DNS != nil && len(n.DNS.TXT)+len(n.DNS.SRV)+len(n.DNS.Hosts) > 0, "network/dns")
	refuse(n.Domain != nil, "network/domain")
	refuse(n.MTU != 0 && !n.OwnsBridge(), "network/mtu")
}
