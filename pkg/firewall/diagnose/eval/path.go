package eval

// Forwarded is the way of a packet that the host forwards: in by the device port and
// the link in, out by the link out and the device outPort. A link that is a bridge
// stands as inBridge or outBridge, too; else its port is itself.
func Forwarded(port, in, inBridge, out, outBridge, outPort string) []Hook {
	path := Arriving(port, in, inBridge)
	path = append(
		path,
		Hook{Layer: IP, Name: "prerouting", In: in},
		Hook{Layer: IP, Name: "forward", In: in, Out: out},
		Hook{Layer: IP, Name: "postrouting", In: in, Out: out}, // In since Linux 5.7
	)
	return append(path, Leaving(out, outBridge, outPort)...)
}

// ToHost is the way of a packet from a bridge's port to this host.
func ToHost(port, bridge string) []Hook {
	return append(Arriving(port, bridge, bridge), Hook{Layer: IP, Name: "prerouting", In: bridge}, Hook{Layer: IP, Name: "input", In: bridge})
}

// FromHost is the way of a packet from this host to a bridge's port.
func FromHost(bridge, port string) []Hook {
	path := []Hook{{Layer: IP, Name: "output", Out: bridge}, {Layer: IP, Name: "postrouting", Out: bridge}}
	return append(path, Leaving(bridge, bridge, port)...)
}

// FrameOut is the way of a frame that a program sends by a packet socket.
func FrameOut(bridge, port string) []Hook { return Leaving(bridge, bridge, port) }

// ARPToHost and ARPFromHost are the ways of ARP.
func ARPToHost(port, bridge string) []Hook {
	return append(Arriving(port, bridge, bridge), Hook{Layer: ARP, Name: "input", In: bridge})
}

// ARPFromHost is the way of an ARP message of this host's.
func ARPFromHost(bridge, port string) []Hook {
	return append([]Hook{{Layer: ARP, Name: "output", Out: bridge}}, Leaving(bridge, bridge, port)...)
}

// Bridged is the way from one port of a bridge to another.
func Bridged(in, out, bridge string) []Hook {
	return []Hook{
		{Layer: Device, Name: "ingress", In: in},
		{Layer: Bridge, Name: "prerouting", In: in, InBridge: bridge},
		{Layer: Bridge, Name: "forward", In: in, Out: out, InBridge: bridge, OutBridge: bridge},
		{Layer: Bridge, Name: "postrouting", Out: out, OutBridge: bridge},
		{Layer: Device, Name: "egress", Out: out},
	}
}

// BridgedByIP is Bridged where the kernel has packets within bridges pass the hooks of layer
// 3, too, as if they were forwarded from the bridge to itself
// (net/bridge/br_netfilter_hooks.c).
func BridgedByIP(in, out, bridge string) []Hook {
	return []Hook{
		{Layer: Device, Name: "ingress", In: in},
		{Layer: Bridge, Name: "prerouting", In: in, InBridge: bridge},
		{Layer: IP, Name: "prerouting", In: bridge},
		{Layer: IP, Name: "forward", In: bridge, Out: bridge},
		{Layer: Bridge, Name: "forward", In: in, Out: out, InBridge: bridge, OutBridge: bridge},
		{Layer: Bridge, Name: "postrouting", Out: out, OutBridge: bridge},
		{Layer: IP, Name: "postrouting", Out: bridge},
		{Layer: Device, Name: "egress", Out: out},
	}
}

// Arriving is the way in to layer 3.
func Arriving(port, link, bridge string) []Hook {
	path := []Hook{{Layer: Device, Name: "ingress", In: port}}
	if bridge == "" {
		return path
	}
	return append(
		path,
		Hook{Layer: Bridge, Name: "prerouting", In: port, InBridge: bridge},
		Hook{Layer: Bridge, Name: "input", In: port, InBridge: bridge},
		Hook{Layer: Device, Name: "ingress", In: link},
	)
}

// Leaving is the way out of layer 3.
func Leaving(link, bridge, port string) []Hook {
	path := []Hook{{Layer: Device, Name: "egress", Out: link}}
	if bridge == "" {
		return path
	}
	return append(
		path,
		Hook{Layer: Bridge, Name: "output", Out: port, OutBridge: bridge},
		Hook{Layer: Bridge, Name: "postrouting", Out: port, OutBridge: bridge},
		Hook{Layer: Device, Name: "egress", Out: port},
	)
}
