package translate

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// wireClient6 is what a client asks for, and what it sends besides.
type wireClient6 struct {
	asked []dhcpv6.OptionCode
	sent  []dhcpv6.Option
}

// wireAll6 are the options that most clients ask for.
var wireAll6 = []dhcpv6.OptionCode{15, 16, 17, 21, 22, 23, 24, 27, 28, 29, 30, 31, 32, 41, 42, 56, 59, 60, 200, 1000}

// wireClients6 are the clients by name.
var wireClients6 = map[string]wireClient6{
	"plain": {asked: wireAll6},
	"few":   {asked: []dhcpv6.OptionCode{24}},
	"efi": {wireAll6, []dhcpv6.Option{
		raw6(dhcpv6.OptionVendorClass, "\x00\x00\x01\x57\x00\x1fHTTPClient:Arch:00016:UNDI:00300"),
		raw6(dhcpv6.OptionUserClass, "\x00\x03one\x00\x04iPXE"), raw6(dhcpv6.OptionClientArchType, "\x00\x10"),
	}},
}

// raw6 is an option of that value.
func raw6(code dhcpv6.OptionCode, value string) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: []byte(value)}
}

// TestDnsmasqOnTheWire6 is TestDnsmasqOnTheWire for DHCPv6: it compares the address that a
// client is advertised and all options but those that are of the server itself.
func TestDnsmasqOnTheWire6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{
			"link add one address 52:54:00:00:00:01 type bridge", "link set one addrgenmode none", "-6 addr add fe80::1/64 dev one nodad",
			"-6 addr add 2001:db8:1::1/64 dev one nodad", "link set one up",
		} {
			nstest.IP(t, args)
		}
		guest := nstest.Guest(t, "one", "guest", wireMAC.String())
		guest.IP("-6 addr add fe80::42/64 dev eth0 nodad")
		conn := wireSocket6(t, guest)
		wire{
			theirs: func(t *testing.T, lines []string, client string) (string, error) {
				return wireDnsmasq(t, lines, "--dhcp-range=2001:db8:1::100,2001:db8:1::100,64,1h", func(ended <-chan struct{}) (string, error) {
					return wireAdvertise(conn, wireClient(t, wireClients6, client), ended)
				})
			},
			ours: func(t *testing.T, o dnsmasq.Options, client string) string {
				return wireVnetd6(t, conn, o, wireClient(t, wireClients6, client))
			},
		}.compare(t, "testdata/dnsmasq-options6.txt")
	})
}

// wireSocket6 is the guest's end.
func wireSocket6(t *testing.T, guest *nstest.NS) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := guest.Do(func() (err error) {
		conn, err = net.ListenPacket("udp6", "[fe80::42%eth0]:546")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wireVnetd6 is what our server advertises.
func wireVnetd6(t *testing.T, conn net.PacketConn, o dnsmasq.Options, client wireClient6) string {
	t.Helper()
	only := netip.MustParseAddr("2001:db8:1::100")
	c := v6.Config{
		Settings: dhcpd.Settings{
			Network:   "one",
			Interface: "one",
			MAC:       net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1},
			Server:    netip.MustParseAddr("2001:db8:1::1"),
			Prefix:    netip.MustParsePrefix("2001:db8:1::/64"),
			LeaseTime: time.Hour,
			Ranges:    []dhcpd.Range{{Start: only, End: only}},
			Store:     dhcpdtest.NewStore(),
			Logger:    slog.New(slog.DiscardHandler),
		},
	}
	addDnsmasqDHCP6(&c, &o.DHCP)
	srv, err := v6.Open(c)
	if err != nil {
		t.Fatalf("%q: %v", o.Lines, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = srv.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	said, _ := wireAdvertise(conn, client, ended) // there may be nothing
	return said
}

// wireAdvertise solicits until there is an answer, or the server has ended.
func wireAdvertise(conn net.PacketConn, client wireClient6, ended <-chan struct{}) (string, error) {
	m, err := dhcpv6.NewSolicit(wireMAC, dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: wireMAC}))
	if err != nil {
		return "", err
	}
	m.Options.Del(dhcpv6.OptionORO)
	m.AddOption(dhcpv6.OptRequestedOption(client.asked...))
	for _, o := range client.sent {
		m.AddOption(o)
	}
	m.TransactionID = dhcpv6.TransactionID{1, 2, byte(time.Now().UnixNano() >> 10)}
	group := &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: "eth0"}
	buf := make([]byte, 2048)
	for range wireTries {
		select {
		case <-ended:
			return "", errors.New("the server has ended")
		default:
		}
		if _, err := conn.WriteTo(m.ToBytes(), group); err != nil {
			return "", err
		}
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if r, err := dhcpv6.MessageFromBytes(buf[:n]); err == nil && r.TransactionID == m.TransactionID {
				return wireText6(buf[4:n]), nil
			}
		}
	}
	return "", errors.New("no answer")
}

// wireText6 is what options say in the order of their codes: of an IA the addresses with
// their lifetimes, of the others all. Those of the server itself are left out, and a
// status in words.
func wireText6(b []byte) string {
	type option struct {
		code  uint16
		value []byte
	}
	var all []option
	for len(b) >= 4 {
		n := int(binary.BigEndian.Uint16(b[2:]))
		all, b = append(all, option{binary.BigEndian.Uint16(b), b[4 : 4+n]}), b[4+n:]
	}
	slices.SortStableFunc(all, func(a, b option) int { return cmp.Compare(a.code, b.code) })
	var text strings.Builder
	for _, o := range all {
		switch dhcpv6.OptionCode(o.code) {
		case dhcpv6.OptionServerID, dhcpv6.OptionPreference, dhcpv6.OptionStatusCode:
		case dhcpv6.OptionIANA:
			fmt.Fprintf(&text, " 3(%s)", wireText6(o.value[12:]))
		default:
			fmt.Fprintf(&text, " %d:%x", o.code, o.value)
		}
	}
	return text.String()
}
