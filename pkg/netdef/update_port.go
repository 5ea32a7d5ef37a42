package netdef

// forwardInterface updates the <interface>s of <forward>:
// virNetworkDefUpdateForwardInterface. The first of them is the network's dev.
func (up *updater) forwardInterface(e element) error {
	dev := e.str("dev")
	if dev == "" {
		return Faults{{Path: "interface/@dev", Problem: "missing, want the name of an interface"}}
	}
	f := up.n.Forward
	if f == nil {
		return up.fail(ErrNoEntry, "network '%s' is isolated: it has no <forward> to have an interface", up.n.Name)
	}
	same := func(o *string) bool { return *o == dev }
	list, err := change(up, f.Interfaces, dev, rule[string]{conflict: same, remove: same}, (*printer).forwardInterface)
	if err != nil {
		return err
	}
	f.Interfaces, f.Dev = list, ""
	if len(list) > 0 {
		f.Dev = list[0]
	}
	return nil
}

// portGroup updates the <portgroup>s: virNetworkDefUpdatePortGroup. The name
// identifies one.
func (up *updater) portGroup(e element) error {
	g := e.portGroup()
	if g.Name == "" {
		up.faults.add("portgroup/@name", "", "missing, want a name")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *PortGroup) bool { return o.Name == g.Name }
	list, err := change(up, up.n.PortGroups, g, rule[PortGroup]{conflict: same, modify: same, remove: same}, (*printer).portGroup)
	if err != nil {
		return err
	}
	up.n.PortGroups = list
	return nil
}
