package netdef

import (
	"fmt"
	"slices"
)

// checkVLAN checks a <vlan>.
func checkVLAN(c *checker, path string, v *VLAN) {
	if v == nil {
		return
	}
	if len(v.Tags) == 0 {
		c.Add(path+"/tag", "", "missing, want at least one")
	}
	if v.native() > 1 {
		c.Add(path, "", "want one native tag at most")
	}
}

// checkBandwidth checks a <bandwidth>. A floor is what a port is promised; a
// network or a group of ports has none.
func checkBandwidth(c *checker, path string, b *Bandwidth) {
	if b == nil {
		return
	}
	bridged := c.mode.OwnsBridge() || c.mode == ModeBridge && c.n.Bridge.Name != ""
	if !bridged && knownMode(c.mode) {
		c.Addf(path, "", "not allowed in mode %s: the network has no bridge", c.mode)
		return
	}
	checkRate(c, path+"/inbound", b.Inbound)
	checkRate(c, path+"/outbound", b.Outbound)
}

// checkRate checks one direction of a <bandwidth>.
func checkRate(c *checker, path string, r *Rate) {
	if r == nil {
		return
	}
	if r.Floor != 0 {
		c.Add(path+"/@floor", fmt.Sprint(r.Floor), "not allowed here: it belongs to a port")
	} else if r.Average == 0 {
		c.Add(path+"/@average", "", "missing, want a rate in kB/s")
	}
}

// checkVirtualPort checks a <virtualport>.
func checkVirtualPort(c *checker, path string, v *VirtualPort, typed bool) {
	if v == nil {
		return
	}
	if typed && v.Type == "" {
		c.Add(path+"/@type", "", "missing, want 802.1Qbg, 802.1Qbh, openvswitch or midonet")
	}
	// virNetDevVPortProfile has 40 bytes with the null at the end.
	if len(v.ProfileID) > 39 {
		c.Addf(path+"/parameters/@profileid", v.ProfileID, "the name has %d bytes, want at most 39", len(v.ProfileID))
	}
}

// checkPorts checks what is set on ports: VLAN, limits, profiles and groups.
func checkPorts(c *checker) {
	n := c.n
	checkVLAN(c, "network/vlan", n.VLAN)
	checkBandwidth(c, "network/bandwidth", n.Bandwidth)
	checkVirtualPort(c, "network/virtualport", n.VirtualPort, true)
	names, def := make(map[string]string), ""
	for i := range n.PortGroups {
		g, path := &n.PortGroups[i], fmt.Sprintf("network/portgroup[%d]", i+1)
		checkVLAN(c, path+"/vlan", g.VLAN)
		checkBandwidth(c, path+"/bandwidth", g.Bandwidth)
		checkVirtualPort(c, path+"/virtualport", g.VirtualPort, false)
		if g.Name == "" {
			c.Add(path+"/@name", "", "missing, want a name")
		} else if first, ok := names[g.Name]; ok {
			c.Addf(path+"/@name", g.Name, "the name is that of %s", first)
		}
		names[g.Name] = path
		if g.Default && def != "" {
			c.Addf(path+"/@default", "yes", "want one default group, and %s is", def)
		}
		if g.Default {
			def = path
		}
	}
	checkVLANMode(c)
}

// checkVLANMode checks that ports with a VLAN are of a kind that can have one:
// those of a bridge of the host, of Open vSwitch and of hardware
// (networkValidate). Ports of a group have the group's profile, and the
// network's <vlan> if the group has none.
func checkVLANMode(c *checker) {
	n := c.n
	const problem = "not allowed in mode %s with this virtualport: only ports of a host's bridge, Open vSwitch or hardware have a vlan"
	own := n.VLAN != nil
	grouped := slices.ContainsFunc(n.PortGroups, func(g PortGroup) bool { return g.Default })
	if own && !grouped && !c.canVLAN(n.VirtualPort) {
		c.Addf("network/vlan", "", problem, c.mode)
		return
	}
	checkBridgeVLAN(c, "network/vlan", n.VLAN, n.VirtualPort)
	for i := range n.PortGroups {
		g := &n.PortGroups[i]
		profile := g.VirtualPort
		if profile == nil {
			profile = n.VirtualPort
		}
		if (own || g.VLAN != nil) && !c.canVLAN(profile) {
			c.Addf(fmt.Sprintf("network/portgroup[%d]/vlan", i+1), "", problem, c.mode)
		}
		checkBridgeVLAN(c, fmt.Sprintf("network/portgroup[%d]/vlan", i+1), g.VLAN, profile)
	}
}

// checkBridgeVLAN checks the <vlan> of ports of a bridge: what others know as VLAN 0 and
// 4095, it has no table for.
func checkBridgeVLAN(c *checker, path string, v *VLAN, profile *VirtualPort) {
	if v == nil || c.mode != ModeBridge || c.n.Bridge.Name == "" || profile != nil {
		return
	}
	for i, t := range v.Tags {
		if t.ID < minVLAN || t.ID > maxVLAN {
			c.Addf(fmt.Sprintf("%s/tag[%d]/@id", path, i+1), fmt.Sprint(t.ID), "want a number from %d to %d: the bridge has no other VLANs", minVLAN, maxVLAN)
		}
	}
}

// canVLAN reports whether ports with that profile can have a VLAN.
func (c *checker) canVLAN(profile *VirtualPort) bool {
	switch c.mode {
	case ModeHostdev, ModePassthrough:
		return true
	case ModeBridge:
		return profile == nil || profile.Type == "openvswitch" ||
			profile.Type == "" && (c.n.VirtualPort == nil || c.n.VirtualPort.Type == "openvswitch")
	}
	return !knownMode(c.mode)
}

// checkPool checks that a <forward> has devices of one kind, fit for the mode.
func checkPool(c *checker, f *Forward) {
	const path = "network/forward"
	kinds := 0
	for _, there := range []bool{len(f.Interfaces) > 0, len(f.Addresses) > 0, f.PF != ""} {
		if there {
			kinds++
		}
	}
	if kinds > 1 {
		c.Add(path, "", "want one of dev or <interface>, <address> and <pf>")
	}
	if c.mode == ModeHostdev && len(f.Interfaces) > 0 {
		c.Add(path+"/@dev", f.Interfaces[0], "not allowed in mode hostdev, want <address type='pci'> or <pf>")
	}
	checkPhysicalFunction(c, path+"/pf/@dev", f.PF)
	checkPCIAddresses(c, path, f)
}

// checkPCIAddresses checks the devices of a hostdev pool.
func checkPCIAddresses(c *checker, path string, f *Forward) {
	if c.mode != ModeHostdev && knownMode(c.mode) && len(f.Addresses) > 0 {
		c.Addf(path+"/address[1]", "", "not allowed in mode %s, only in mode hostdev", c.mode)
	}
	seen := make(map[PCIAddress]bool)
	for i, a := range f.Addresses {
		if seen[a] {
			c.Add(fmt.Sprintf("%s/address[%d]", path, i+1), "", "want each device once")
		}
		seen[a] = true
	}
}

// checkPhysicalFunction checks the device whose virtual functions make a pool.
func checkPhysicalFunction(c *checker, path, dev string) {
	if dev == "" {
		return
	}
	if problem := deviceName(dev); problem != "" {
		c.Add(path, dev, problem)
	}
	if c.mode.OwnsBridge() {
		c.Addf(path, dev, "not allowed in mode %s, which uses no virtual functions", c.mode)
	}
}

// checkFragments checks what is kept as text.
func checkFragments(c *checker) {
	seen := make(map[string]bool)
	for _, f := range c.n.Metadata {
		if problem := checkFragment(f); problem != "" {
			c.Add("network/metadata", f.Namespace, problem)
		} else if seen[f.Namespace] {
			c.Add("network/metadata", f.Namespace, "want one element of each namespace")
		}
		seen[f.Namespace] = true
	}
}
