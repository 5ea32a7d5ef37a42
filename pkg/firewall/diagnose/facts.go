package diagnose

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// routesRead is how much of the kernel's lists of routes is read, in bytes: what guests
// need to know stands at their heads, and a router of the Internet has millions.
const routesRead = 1 << 18

// Facts are what is known of the host's links, as far as it matters to guests.
type Facts struct {
	eval.Host
	Ports map[string][]string // the first ports of bridges
	MACs  map[string]eval.MAC // of bridges
	// BridgeNF4 and BridgeNF6 say that IPv4 and IPv6 packets within a bridge pass the
	// hooks of layer 3 (net.bridge.bridge-nf-call-iptables and -ip6tables).
	BridgeNF4, BridgeNF6 bool
	taps                 map[string]bool // which of the ports are TAP devices
}

// ReadFacts reads them from the kernel. What can't be read is not known.
func ReadFacts(bridges []string) Facts {
	f := Facts{
		Ports: map[string][]string{}, MACs: map[string]eval.MAC{}, taps: map[string]bool{},
		BridgeNF4: sysctl("net/bridge/bridge-nf-call-iptables") == "1", BridgeNF6: sysctl("net/bridge/bridge-nf-call-ip6tables") == "1",
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			f.Addresses = append(f.Addresses, p)
		}
	}
	f.Routes = append(readRoutes("/proc/thread-self/net/route", parseRoute4), readRoutes("/proc/thread-self/net/ipv6_route", parseRoute6)...)
	for _, b := range bridges {
		f.Ports[b] = f.portsOf(b)
		if text, err := os.ReadFile("/sys/class/net/" + b + "/address"); err == nil {
			if mac, err := net.ParseMAC(strings.TrimSpace(string(text))); err == nil && len(mac) == 6 {
				f.MACs[b] = eval.MAC(mac)
			}
		}
	}
	return f
}

// sameHost reports whether nothing differs but bridges.
func (f *Facts) sameHost(o *Facts) bool {
	return slices.Equal(f.Addresses, o.Addresses) && slices.Equal(f.Routes, o.Routes) && f.BridgeNF4 == o.BridgeNF4 && f.BridgeNF6 == o.BridgeNF6
}

// sameBridge reports whether nothing differs of a bridge.
func (f *Facts) sameBridge(o *Facts, bridge string) bool {
	return slices.Equal(f.Ports[bridge], o.Ports[bridge]) && f.MACs[bridge] == o.MACs[bridge]
}

// portsSeen is how many ports of a bridge are looked at for one that leads to the LAN.
const portsSeen = 32

// portsOf are the first two ports of a bridge in the order of their names, and the first that
// is no TAP device where that is another one.
func (f *Facts) portsOf(bridge string) (ports []string) {
	entries, _ := os.ReadDir("/sys/class/net/" + bridge + "/brif")
	led := false
	for i, e := range entries[:min(len(entries), portsSeen)] {
		_, err := os.Stat("/sys/class/net/" + e.Name() + "/tun_flags")
		tap := err == nil
		if i < 2 || !led && !tap {
			f.taps[e.Name()] = tap
			ports = append(ports, e.Name())
		}
		led = led || !tap
		if i > 0 && led {
			break
		}
	}
	return ports
}

// port is the i-th port of a bridge.
func (f *Facts) port(bridge string, i int) string {
	if ports := f.Ports[bridge]; i < len(ports) {
		return ports[i]
	}
	return eval.Unnamed
}

// device is the link that leads to an address.
func (f *Facts) device(to netip.Addr) string {
	best, at := -1, eval.Unnamed
	for _, r := range f.Routes {
		if r.To.Contains(to) && r.To.Bits() > best {
			best, at = r.To.Bits(), r.Device
		}
	}
	return at
}

// of is the host's first address of a family on a link, invalid if not known.
func (f *Facts) of(link string, v4 bool) netip.Addr {
	for _, p := range f.Addresses {
		if p.Addr().Is4() == v4 && slices.Contains(f.Routes, eval.Route{To: p.Masked(), Device: link}) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// readRoutes reads one of the kernel's lists.
func readRoutes(path string, parse func(words []string) (eval.Route, bool)) []eval.Route {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var routes []eval.Route
	lines := bufio.NewScanner(io.LimitReader(file, routesRead))
	for lines.Scan() {
		if r, ok := parse(strings.Fields(lines.Text())); ok {
			routes = append(routes, r)
		}
	}
	return routes
}

// parseRoute4 reads a line of /proc/net/route, whose numbers are in the host's order.
func parseRoute4(words []string) (eval.Route, bool) {
	const reject = 0x0200
	if len(words) < 8 {
		return eval.Route{}, false
	}
	to, err1 := strconv.ParseUint(words[1], 16, 32)
	mask, err2 := strconv.ParseUint(words[7], 16, 32)
	flags, err3 := strconv.ParseUint(words[3], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || flags&reject != 0 {
		return eval.Route{}, false
	}
	var a, m [4]byte
	binary.NativeEndian.PutUint32(a[:], uint32(to))
	binary.NativeEndian.PutUint32(m[:], uint32(mask))
	bits, _ := net.IPMask(m[:]).Size()
	return eval.Route{To: netip.PrefixFrom(netip.AddrFrom4(a), bits), Device: words[0]}, true
}

// parseRoute6 reads a line of /proc/net/ipv6_route. Those of the table local are on lo.
func parseRoute6(words []string) (eval.Route, bool) {
	if len(words) < 10 || words[9] == "lo" {
		return eval.Route{}, false
	}
	b, err1 := hex.DecodeString(words[0])
	bits, err2 := strconv.ParseUint(words[1], 16, 8)
	if err1 != nil || err2 != nil || len(b) != 16 || bits > 128 {
		return eval.Route{}, false
	}
	to := netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), int(bits))
	return eval.Route{To: to, Device: words[9]}, !to.Addr().IsLinkLocalUnicast() && !to.Addr().IsMulticast()
}
