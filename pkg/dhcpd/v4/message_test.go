package v4_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// codes lists the options of a reply.
func codes(r reply) string {
	var s []string
	for _, c := range slices.Sorted(maps.Keys(r.Options)) {
		s = append(s, fmt.Sprint(c))
	}
	return strings.Join(s, " ")
}

func TestOptions(t *testing.T) {
	named := func(c *v4.Config) {
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(2), Addr: ip(20), Name: "two"})
	}
	list := func(codes ...byte) mod { return opt(dhcpv4.OptionParameterRequestList, codes...) }
	routes := func(c *v4.Config) {
		c.Routes = []v4.Route{{Dst: netip.MustParsePrefix("198.51.100.0/24"), Gateway: ip(9)}}
	}
	boot := func(c *v4.Config) { c.BootFile = "pxelinux.0" }
	own := func(c *v4.Config) {
		c.Options = []dhcpd.Option{{Code: 3}, {Code: 44, Value: []byte{192, 0, 2, 9}}, {Code: 200, Value: []byte("x"), Force: true}}
	}
	for _, c := range []struct {
		name       string
		cfg        func(c *v4.Config)
		mods       []mod
		offer, ack string
	}{
		{"default", nil, nil, "1 3 6 15 28 51 53 54 58 59", "1 3 6 15 28 51 53 54 58 59"},
		{"isolated", func(c *v4.Config) { c.Router = v4.Config{}.Router }, nil, "1 6 15 28 51 53 54 58 59", "1 6 15 28 51 53 54 58 59"},
		{"no DNS, no domain", func(c *v4.Config) { c.DNS, c.Domain = nil, "" }, nil, "1 3 28 51 53 54 58 59", "1 3 28 51 53 54 58 59"},
		{"MTU", func(c *v4.Config) { c.MTU = 1400 }, nil, "1 3 6 15 26 28 51 53 54 58 59", "1 3 6 15 26 28 51 53 54 58 59"},
		{"empty list", nil, []mod{list()}, "1 3 6 15 28 51 53 54 58 59", "1 3 6 15 28 51 53 54 58 59"},
		{"list of one", nil, []mod{list(3)}, "1 3 28 51 53 54 58 59", "1 3 28 51 53 54 58 59"},
		{"list of what we don't have", nil, []mod{list(121, 249, 252)}, "1 28 51 53 54 58 59", "1 28 51 53 54 58 59"},
		{"own name", nil, []mod{hostname("guest"), list(12)}, "1 28 51 53 54 58 59", "1 12 28 51 53 54 58 59"},
		{"own name, not asked for", nil, []mod{hostname("guest"), list(3)}, "1 3 28 51 53 54 58 59", "1 3 28 51 53 54 58 59"},
		{"reserved name", named, []mod{list(12)}, "1 12 28 51 53 54 58 59", "1 12 28 51 53 54 58 59"},
		{"FQDN", nil, []mod{opt(dhcpv4.OptionFQDN, 0, 0, 0, 'g'), list(3)}, "1 3 28 51 53 54 58 59", "1 3 28 51 53 54 58 59 81"},
		{"rapid commit", nil, []mod{opt(dhcpv4.OptionRapidCommit)}, "1 3 6 15 28 51 53 54 58 59 80", "1 3 6 15 28 51 53 54 58 59"},
		{"search list", nil, []mod{list(119)}, "1 28 51 53 54 58 59 119", "1 28 51 53 54 58 59 119"},
		{"routes", routes, nil, "1 3 6 15 28 51 53 54 58 59 121", "1 3 6 15 28 51 53 54 58 59 121"},
		{"routes of Windows", routes, []mod{list(249)}, "1 28 51 53 54 58 59 249", "1 28 51 53 54 58 59 249"},
		{"boot file", boot, nil, "1 3 6 15 28 51 53 54 58 59", "1 3 6 15 28 51 53 54 58 59"},
		{"boot file, asked for", boot, []mod{list(66, 67)}, "1 28 51 53 54 58 59 66 67", "1 28 51 53 54 58 59 66 67"},
		{"NTP", func(c *v4.Config) { c.NTP = c.DNS }, []mod{list(42)}, "1 28 42 51 53 54 58 59", "1 28 42 51 53 54 58 59"},
		{"configured", own, nil, "1 6 15 28 44 51 53 54 58 59 200", "1 6 15 28 44 51 53 54 58 59 200"},
		{"configured, not asked for", own, []mod{list(3)}, "1 28 51 53 54 58 59 200", "1 28 51 53 54 58 59 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := func() v4.Config {
				cfg := testConfig()
				if c.cfg != nil {
					c.cfg(&cfg)
				}
				return cfg
			}
			simulated(t, cfg, func(t *testing.T, e *env) {
				offer := e.ask(dhcpv4.MessageTypeDiscover, mac(2), c.mods...)
				ack := e.selecting(mac(2), offer.yiaddr(), c.mods...)
				if diff := cmp.Diff([]string{c.offer, c.ack}, []string{codes(offer), codes(ack)}); diff != "" {
					t.Errorf("options (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The values of what networks boot from and are routed by, and where they stand.
func TestBootAndRoutes(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.BootFile, c.BootServer = "ipxe.efi", ip(9)
		c.Routes = []v4.Route{
			{Dst: netip.MustParsePrefix("198.51.100.128/25"), Gateway: ip(9)},
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: ip(8)},
		}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), opt(dhcpv4.OptionParameterRequestList, 121, 249, 66, 67, 119))
		if r.BootFileName != "ipxe.efi" || r.ServerIPAddr.String() != "192.0.2.9" {
			t.Errorf("boots %q from %v", r.BootFileName, r.ServerIPAddr)
		}
		routes := []byte{0, 192, 0, 2, 1, 25, 198, 51, 100, 128, 192, 0, 2, 9, 8, 10, 192, 0, 2, 8}
		want := map[uint8][]byte{66: []byte("192.0.2.9"), 67: []byte("ipxe.efi\x00"), 121: routes, 249: routes, 119: []byte("\x02vm\x07example\x00")}
		for code, value := range want {
			if diff := cmp.Diff(value, r.Options[code]); diff != "" {
				t.Errorf("option %d (-want +got):\n%s", code, diff)
			}
		}
	})
	long := func() v4.Config {
		c := testConfig()
		c.BootFile = strings.Repeat("f", 200)
		return c
	}
	simulated(t, long, func(t *testing.T, e *env) {
		r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), opt(dhcpv4.OptionParameterRequestList, 3))
		if r.BootFileName != "" || len(r.Options[67]) != 201 {
			t.Errorf("boots %q, option %q", r.BootFileName, r.Options[67])
		}
	})
}

// RFC 4039: a client that wants so has its address after two messages.
func TestRFC4039RapidCommit(t *testing.T) {
	both(t, testConfig, func(t *testing.T, e *env) {
		r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), opt(dhcpv4.OptionRapidCommit))
		e.want(r, fmt.Sprint("ACK ", r.yiaddr()))
		if l, ok := e.store.Lease(t, r.yiaddr()); !ok || l.State != dhcpd.StateBound {
			t.Errorf("stored %+v", l)
		}
		e.want(e.renew(mac(2), r.yiaddr()), fmt.Sprint("ACK ", r.yiaddr()))
	})
}

// RFC 2132, section 9.3: options in the fields "file" and "sname".
func TestRFC2132Section93Overload(t *testing.T) {
	for _, c := range []struct {
		value byte
		want  string // lease time and name
	}{
		{1, "200 "}, {2, "3600 guest"}, {3, "200 guest"}, {0, "3600 "}, {77, "200 "},
	} {
		simulated(t, testConfig, func(t *testing.T, e *env) {
			b := e.message(dhcpv4.MessageTypeRequest, mac(2), requested(ip(100)), opt(dhcpv4.OptionOptionOverload, c.value)).ToBytes()
			copy(b[108:], []byte{51, 4, 0, 0, 0, 200, 255})
			copy(b[44:], "\x0c\x05guest\xff")
			e.wire.send(t, b, mac(2), serverAddr.Prev(), broadcast)
			r := e.receive()
			l, _ := e.store.Lease(t, ip(100))
			if got := fmt.Sprint(int(r.IPAddressLeaseTime(0).Seconds()), " ", l.Hostname); got != c.want {
				t.Errorf("overload %d: %q, want %q", c.value, got, c.want)
			}
		})
	}
}

func TestOptionValues(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.MTU = 9000
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		r := e.selecting(mac(2), e.discover(mac(2)), hostname("guest"), opt(dhcpv4.OptionFQDN, 4, 0, 0, 5, 'g', 'u', 'e', 's', 't'))
		want := dhcpv4.Options{
			1: {255, 255, 255, 0}, 3: {192, 0, 2, 1}, 6: {192, 0, 2, 1}, 12: []byte("guest"), 15: []byte("vm.example"),
			26: {0x23, 0x28}, 28: {192, 0, 2, 255}, 51: {0, 0, 14, 16}, 53: {5}, 54: {192, 0, 2, 1},
			58: {0, 0, 7, 8}, 59: {0, 0, 12, 78}, 81: []byte("\x07\xff\xff\x05guest\x02vm\x07example\x00"),
		}
		if diff := cmp.Diff(want, r.Options); diff != "" {
			t.Errorf("options (-want +got):\n%s", diff)
		}
		if r.ServerIPAddr.String() != "192.0.2.1" || len(r.sent.Payload) < 300 || r.OpCode != dhcpv4.OpcodeBootReply {
			t.Errorf("siaddr %v, op %v, %d bytes", r.ServerIPAddr, r.OpCode, len(r.sent.Payload))
		}
	})
}

// RFC 2132, section 9.10: a reply fits into what the client can receive.
func TestMaximumMessageSize(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Domain = strings.Repeat("domain.", 36)
		for range 40 {
			c.DNS = append(c.DNS, serverAddr)
		}
		return c
	}
	for _, c := range []struct {
		size  []byte
		limit int
	}{
		{nil, 548},
		{[]byte{0, 1}, 548},
		{[]byte{255, 255}, 1472},
		{[]byte{1}, 548},
	} {
		simulated(t, cfg, func(t *testing.T, e *env) {
			r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), opt(dhcpv4.OptionMaximumDHCPMessageSize, c.size...))
			if n := len(r.sent.Payload); n > c.limit {
				t.Errorf("%d bytes for a client that takes %d", n, c.limit)
			}
			if has := len(r.Options.Get(dhcpv4.OptionDomainName)) > 0; has != (c.limit > 548) {
				t.Errorf("room for %d bytes: the long domain is in it: %v", c.limit, has)
			}
			if len(r.Options.Get(dhcpv4.OptionRouter)) == 0 {
				t.Error("the router is left out")
			}
		})
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ raw, want string }{
		{"guest", "guest"},
		{"Guest-1", "Guest-1"},
		{"foo.other.example", "foo"},
		{"guest\x00\x00", "guest"},
		{long, long},
		{long + "a", ""},
		{"", ""},
		{".", ""},
		{"-a", ""},
		{"a-", "a-"},
		{"a_b", "a_b"},
		{"my_vm.vm.example", "my_vm"},
		{"büro", "xn--bro-hoa"},
		{"_a", ""},
		{"a b", ""},
		{"a\x00b", ""},
		{"a\nb", ""},
		{"\xffa", ""},
		{"a." + strings.Repeat("b", 260), ""},
	} {
		if got := dhcpd.ParseName([]byte(c.raw)).Label; got != c.want {
			t.Errorf("%q became %q, want %q", c.raw, got, c.want)
		}
	}
	simulated(t, nakConfigNamed, func(t *testing.T, e *env) {
		a := e.lease(mac(2), hostname("bad name"))
		e.lease(mac(5), hostname("my_vm"))
		if r := e.ask(dhcpv4.MessageTypeRequest, mac(5), requested(e.lease(mac(5), hostname("my_vm")))); string(r.Options.Get(dhcpv4.OptionHostName)) != "my_vm" {
			t.Errorf("the guest is told the name %q", r.Options.Get(dhcpv4.OptionHostName))
		}
		b := e.lease(mac(3), hostname("twenty"))
		c := e.lease(mac(0x20), hostname("thirty"))
		d := e.lease(mac(4), hostname("kept"))
		e.renew(mac(4), d)
		for i, want := range []string{"", "", "twenty", "kept"} {
			addr := slices.Values([][]byte{a.AsSlice(), b.AsSlice(), c.AsSlice(), d.AsSlice()})
			l, ok := e.store.Lease(t, ip(slices.Collect(addr)[i][3]))
			if !ok || l.Hostname != want {
				t.Errorf("client %d is stored as %+v, want name %q", i, l, want)
			}
		}
	})
}

// nakConfigNamed gives a name to a reservation.
func nakConfigNamed() v4.Config {
	c := nakConfig()
	c.Reservations[1].Name = "twenty"
	return c
}

// What is no client's message of this link is dropped and counted.
func TestMalformed(t *testing.T) {
	header := func(f func(m *dhcpv4.DHCPv4)) func(e *env) []byte {
		return func(e *env) []byte { return e.message(dhcpv4.MessageTypeDiscover, mac(2), f).ToBytes() }
	}
	for _, c := range []struct {
		name string
		make func(e *env) []byte
	}{
		{"empty", func(*env) []byte { return nil }},
		{"short", func(e *env) []byte { return e.message(dhcpv4.MessageTypeDiscover, mac(2)).ToBytes()[:239] }},
		{"no cookie", func(*env) []byte { return append([]byte{1, 1, 6}, make([]byte, 300)...) }},
		{"reply", header(func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply })},
		{"not Ethernet", header(func(m *dhcpv4.DHCPv4) { m.HWType = 32 })},
		{"long address", header(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make([]byte, 8) })},
		{"group address", header(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = []byte{1, 0, 0, 0, 0, 1} })},
		{"zero address", header(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = make([]byte, 6) })},
		{"relay", header(func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = []byte{8, 8, 8, 8} })},
		{"long client identifier", header(clientID(strings.Repeat("x", 300)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, testConfig, func(t *testing.T, e *env) {
				e.wire.send(t, c.make(e), mac(2), serverAddr.Prev(), broadcast)
				e.quiet()
				if got := e.srv.Stats(); got.Malformed != 1 {
					t.Errorf("counted %+v, want one malformed", got)
				}
			})
		})
	}
	simulated(t, testConfig, func(t *testing.T, e *env) {
		for _, typ := range []dhcpv4.MessageType{2, 5, 6, 9, 255} {
			e.send(typ, mac(2))
		}
		e.quiet()
		if got := e.srv.Stats().Ignored; got != 5 {
			t.Errorf("%d messages ignored, want 5", got)
		}
	})
}
