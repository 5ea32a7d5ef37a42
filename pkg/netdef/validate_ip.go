package netdef

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// maxIPs bounds the addresses of a network, against each of which each route
// and each address of every other network is checked.
const maxIPs = 256

// checkAddresses checks every <ip> and <route>.
func checkAddresses(c *checker) {
	n := c.n
	if len(n.IPs) > maxIPs {
		c.Addf(fmt.Sprintf("network/ip[%d]", maxIPs+1), "", "more than %d <ip> elements", maxIPs)
		return
	}
	for i := range n.IPs {
		checkIP(c, fmt.Sprintf("network/ip[%d]", i+1), &n.IPs[i])
	}
	checkUniqueIPs(c)
	for i := range n.Routes {
		checkRoute(c, fmt.Sprintf("network/route[%d]", i+1), &n.Routes[i])
	}
	checkUniqueRoutes(c)
}

// checkUniqueRoutes checks the routes against each other. The kernel has one IPv4 route
// for a destination and a metric; of IPv6 it has several by different gateways.
func checkUniqueRoutes(c *checker) {
	type key struct {
		to     netip.Prefix
		by     netip.Addr
		metric int
	}
	seen := make(map[key]int)
	for i := range c.n.Routes {
		r := &c.n.Routes[i]
		k := key{to: r.Prefix(), metric: max(r.Metric, 1)}
		if r.Address.Is6() {
			k.by = r.Gateway
		}
		if first := seen[k]; first > 0 && k.to.IsValid() {
			c.Addf(fmt.Sprintf("network/route[%d]/@address", i+1), r.Address.String(), "the route is that of network/route[%d]: want another metric", first)
			continue
		}
		seen[k] = i + 1
	}
}

// checkIP checks one <ip> and what is inside.
func checkIP(c *checker, path string, ip *IP) {
	if !ip.Address.IsValid() {
		c.Add(path+"/@address", "", "missing, want an IP address")
	} else {
		checkIpAddress(c, path, ip)
		checkNetmask(c, path, ip.Netmask, ip.PrefixLength != 0, ip.Address)
		checkPrefixLength(c, path, ip.PrefixLength, ip.Address)
	}
	if ip.TFTPRoot != "" && ip.Address.Is6() {
		c.Add(path+"/tftp", "", "not allowed in an IPv6 <ip>")
	}
	checkTftpRoot(c, path+"/tftp/@root", ip.TFTPRoot)
	if ip.DHCP != nil {
		checkDHCP(c, path+"/dhcp", ip)
	}
	checkRAPolicy(c, path+"/vnetd:ra", ip)
}

// checkTftpRoot checks that files are served from one place, wherever the daemon
// was started.
func checkTftpRoot(c *checker, path, root string) {
	if root != "" && !strings.HasPrefix(root, "/") {
		c.Add(path, root, "want an absolute path")
	}
}

// checkIpAddress checks the address of an <ip> by itself.
func checkIpAddress(c *checker, path string, ip *IP) {
	checkFamily(c, path, ip.Family, ip.Address)
	if a := ip.Address; a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() {
		c.Add(path+"/@address", a.String(), "want a unicast address")
		return
	}
	written := ip.PrefixLength != 0 || ip.Netmask.IsValid()
	if !written && naturalLength(ip.Address) < 0 {
		c.Add(path+"/@address", ip.Address.String(), "not of class A, B or C, want a netmask or prefix")
	}
}

// checkFamily checks that an address is of the family that is written, which is
// IPv4 if nothing is.
func checkFamily(c *checker, path, family string, a netip.Addr) {
	switch {
	case family != "" && family != "ipv4" && family != "ipv6":
		c.Add(path+"/@family", family, "unknown address family, want ipv4 or ipv6")
	case family == "ipv6" && !a.Is6():
		c.Add(path+"/@address", a.String(), "want an IPv6 address with family='ipv6'")
	case family == "ipv4" && !a.Is4():
		c.Add(path+"/@address", a.String(), "want an IPv4 address with family='ipv4'")
	case family == "" && !a.Is4():
		c.Add(path+"/@address", a.String(), "want family='ipv6' with an IPv6 address")
	}
}

// checkNetmask checks an optional netmask of an <ip> or <route>.
func checkNetmask(c *checker, path string, mask netip.Addr, hasPrefix bool, a netip.Addr) {
	path += "/@netmask"
	switch {
	case !mask.IsValid():
	case a.Is6():
		c.Add(path, mask.String(), "not allowed with an IPv6 address, want prefix")
	case maskLength(mask) < 0:
		c.Add(path, mask.String(), "not a netmask, want one like 255.255.255.0")
	case hasPrefix:
		c.Add(path, mask.String(), "want either netmask or prefix, not both")
	}
}

// checkPrefixLength checks a prefix; 0 is as good as none.
func checkPrefixLength(c *checker, path string, length int, a netip.Addr) {
	if length < 0 || length > a.BitLen() {
		c.Addf(path+"/@prefix", fmt.Sprint(length), "want at most %d", a.BitLen())
	}
}

// checkUniqueIPs checks the <ip>s against each other: one DHCP section for each
// family, each subnet once.
func checkUniqueIPs(c *checker) {
	dhcp := make(map[bool]string)
	subnets := make(map[netip.Prefix]string)
	for i := range c.n.IPs {
		ip, path := &c.n.IPs[i], fmt.Sprintf("network/ip[%d]", i+1)
		if first, ok := dhcp[ip.Address.Is6()]; ok && ip.DHCP != nil {
			c.Addf(path+"/dhcp", "", "want DHCP on one <ip> of a family, and it is on %s", first)
		}
		if ip.DHCP != nil && ip.Address.IsValid() {
			dhcp[ip.Address.Is6()] = path
		}
		subnet := ip.Prefix().Masked()
		if first, ok := subnets[subnet]; ok && subnet.IsValid() {
			c.Addf(path+"/@address", ip.Address.String(), "the subnet %s is that of %s", subnet, first)
		}
		subnets[subnet] = path
	}
}

// checkDHCP checks <dhcp>.
func checkDHCP(c *checker, path string, ip *IP) {
	for i, r := range ip.DHCP.Ranges {
		at := fmt.Sprintf("%s/range[%d]", path, i+1)
		checkDHCPRange(c, at, r, ip.Prefix())
		checkLease(c, at+"/lease", r.Lease)
	}
	for i := range ip.DHCP.Hosts {
		at := fmt.Sprintf("%s/host[%d]", path, i+1)
		checkDHCPHost(c, at, &ip.DHCP.Hosts[i], ip.Address)
		checkLease(c, at+"/lease", ip.DHCP.Hosts[i].Lease)
	}
	checkBootp(c, path+"/bootp", ip)
	checkBoots(c, path+"/vnetd:boot", ip)
}

// checkBootp checks network boot. libvirt ignores it in IPv6.
func checkBootp(c *checker, path string, ip *IP) {
	b := ip.DHCP.Bootp
	if b == nil || !ip.Address.Is4() {
		return
	}
	switch {
	case b.File == "":
		c.Add(path+"/@file", "", "missing, want the file to boot")
	case len(b.File) > 127:
		// RFC 2131 section 2: the file field has 128 octets, null terminated.
		c.Addf(path+"/@file", b.File, "the name has %d bytes, want at most 127", len(b.File))
	}
	if b.Server.Is6() {
		c.Add(path+"/@server", b.Server.String(), "want an IPv4 address")
	}
}

// checkDHCPRange checks a range against its subnet, which is invalid if the address
// is: virSocketAddrGetRange.
func checkDHCPRange(c *checker, path string, r DHCPRange, subnet netip.Prefix) {
	if !c.present(path, r.Start, r.End) {
		return
	}
	ends := []struct {
		at string
		a  netip.Addr
	}{{path + "/@start", r.Start}, {path + "/@end", r.End}}
	inside := true
	for _, e := range ends {
		if subnet.IsValid() && !subnet.Contains(e.a) {
			c.Addf(e.at, e.a.String(), "want an address in the subnet %s", subnet.Masked())
			inside = false
		}
	}
	if !inside {
		return
	}
	c.order(path, AddressRange{r.Start, r.End})
	if !subnet.IsValid() || !subnet.Addr().Is4() {
		return
	}
	if network := subnet.Masked().Addr(); r.Start == network {
		c.Addf(path+"/@start", network.String(), "the network address of %s", subnet.Masked())
	}
	if broadcast := lastAddr(subnet); r.End == broadcast {
		c.Addf(path+"/@end", broadcast.String(), "the broadcast address of %s", subnet.Masked())
	}
}

// lastAddr returns the highest address of an IPv4 prefix: its broadcast address.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | uint32(1<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(a[:], v)
	return netip.AddrFrom4(a)
}

// checkDHCPHost checks a static assignment on the <ip> of that address. An address
// outside the subnet is accepted, as in libvirt.
func checkDHCPHost(c *checker, path string, h *DHCPHost, server netip.Addr) {
	checkDHCPHostKeys(c, path, h, server)
	switch {
	case !h.IP.IsValid():
		c.Add(path+"/@ip", "", "missing, want an IP address")
	case server.IsValid() && (h.IP.BitLen() != server.BitLen() || h.IP.Is4In6()):
		c.Addf(path+"/@ip", h.IP.String(), "want an address of the same family as %s", server)
	}
	checkDHCPHostName(c, path+"/@name", h.Name)
}

// checkDHCPHostName checks the name that a client has, which may be empty.
func checkDHCPHostName(c *checker, path, name string) {
	switch {
	case name == "":
	case !isAlnum(rune(name[0])):
		c.Add(path, name, "want a host name that begins with a letter or digit")
	default:
		c.dnsRule(path, name, dnsname.Host)
	}
}

// checkDHCPHostKeys checks what a client is recognised by.
func checkDHCPHostKeys(c *checker, path string, h *DHCPHost, server netip.Addr) {
	checkDHCPHostID(c, path+"/@id", h.ID, server)
	if server.Is6() {
		if h.MAC != nil {
			c.Add(path+"/@mac", h.MAC.String(), "not allowed in IPv6, where a client has an id")
		} else if h.ID == "" && h.Name == "" {
			c.Add(path, "", "want an id or a name to know the client by")
		}
		return
	}
	checkMAC(c, path+"/@mac", h.MAC)
	if h.MAC == nil && h.Name == "" {
		c.Add(path, "", "want a mac or a name to know the client by")
	}
}

// checkDHCPHostID checks the identifier that a client has on that server, which may be
// empty.
func checkDHCPHostID(c *checker, path, id string, server netip.Addr) {
	if strings.Trim(id, "0123456789abcdefABCDEF:") != "" {
		c.Add(path, id, "want hexadecimal digits and colons only")
	} else if server.Is6() && id != "" && !isDUID(id) {
		c.Add(path, id, "want a DUID of 3 to 130 octets like 0:3:0:1:52:54:0:12:34:56")
	}
}

// isDUID reports whether id is octets of one or two hexadecimal digits with
// colons between, as many as a DUID has (RFC 8415 section 11.1).
func isDUID(id string) bool {
	octets := strings.Split(id, ":")
	return len(octets) >= 3 && len(octets) <= 130 && !slices.ContainsFunc(octets, func(o string) bool { return len(o) < 1 || len(o) > 2 })
}

// minLease is the shortest lease: virNetworkDHCPLeaseTimeDefParseXML.
const minLease = 2 * time.Minute

// checkLease checks a lease time.
func checkLease(c *checker, path string, l *LeaseTime) {
	if l == nil || l.Expiry == 0 {
		return
	}
	d, _ := l.Duration()
	switch {
	case d < minLease:
		c.Add(path+"/@expiry", fmt.Sprint(l.Expiry), "want at least 120 seconds, or 0 for no end")
	case d == maxLease:
		c.Addf(path+"/@expiry", fmt.Sprint(l.Expiry), "want less than %d seconds, or 0 for no end", maxLease/time.Second)
	}
}

// checkRoute checks a static route.
func checkRoute(c *checker, path string, r *Route) {
	if !r.Address.IsValid() {
		c.Add(path+"/@address", "", "missing, want a network address")
		return
	}
	checkFamily(c, path, r.Family, r.Address)
	checkNetmask(c, path, r.Netmask, r.HasPrefixLength, r.Address)
	checkPrefixLength(c, path, r.PrefixLength, r.Address)
	if p := r.Prefix(); p.IsValid() && p.Masked().Addr() != r.Address {
		c.Addf(path+"/@address", r.Address.String(), "not a network address, want %s", p.Masked().Addr())
	} else if !p.IsValid() && !r.Netmask.IsValid() && !r.HasPrefixLength {
		c.Add(path+"/@address", r.Address.String(), "want a netmask or prefix with the address")
	}
	checkGateway(c, path+"/@gateway", r)
}

// checkGateway checks that a route's gateway is a neighbour on the bridge.
func checkGateway(c *checker, path string, r *Route) {
	if !r.Gateway.IsValid() {
		c.Add(path, "", "missing, want the address of the gateway")
		return
	}
	if r.Gateway.BitLen() != r.Address.BitLen() {
		c.Addf(path, r.Gateway.String(), "want an address of the same family as %s", r.Address)
		return
	}
	for i := range c.n.IPs {
		if p := c.n.IPs[i].Prefix(); p.Contains(r.Gateway) {
			if p.Addr().Is4() && p.Bits() < 31 && r.Gateway == lastAddr(p) {
				c.Addf(path, r.Gateway.String(), "the broadcast address of %s", p.Masked())
			}
			return
		}
	}
	c.Add(path, r.Gateway.String(), "not reachable: want an address in the subnet of an <ip>")
}
