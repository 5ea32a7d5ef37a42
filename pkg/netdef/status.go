package netdef

// ParseStatus reads the <networkstatus> document that libvirt keeps of an active
// network in /run/libvirt/network, and returns the <network> in it: what the
// network is, whatever its definition says. What else libvirt notes there, traffic
// classes and how to take down its rules, is of no use to others. The error is that
// of Parse.
func ParseStatus(src []byte) (*Network, error) {
	root, err := parseTree(src)
	if err != nil {
		return nil, Faults{asFault(err)}
	}
	if root.name != "networkstatus" || root.space != "" {
		return nil, Faults{{Problem: "the document is a <" + oneLine(root.qname) + ">, want <networkstatus>"}}
	}
	for _, kid := range root.kids {
		if kid.name == "network" && kid.space == "" {
			return decodeNetwork(kid)
		}
	}
	return nil, Faults{{Problem: "the document has no <network>"}}
}
