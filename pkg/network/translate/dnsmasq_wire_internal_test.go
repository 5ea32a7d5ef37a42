package translate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// wireMAC is the client's hardware address.
var wireMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x42}

// wireClients are what clients send besides, by name.
var wireClients = map[string][]dhcpv4.Option{
	"plain": nil,
	"pxe": {
		dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016"), dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7}),
		dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")), dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{1, 2, 3}),
	},
	"id":    {dhcpv4.OptClientIdentifier([]byte{1, 2, 3, 4})},
	"named": {dhcpv4.OptClientIdentifier([]byte("\x00marjorie"))},
}

// wireLines are lines of a configuration, several separated by a bar, and the client
// that they are put to.
func wireLines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/dnsmasq-options.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			all = append(all, line)
		}
	}
	return all
}

// TestDnsmasqOnTheWire puts each line to dnsmasq and to our own server, and compares
// what a client gets of each, byte by byte: all options, the names of the boot file
// and its server, and the addresses. What dnsmasq does not start with is not
// understood here either.
func TestDnsmasqOnTheWire(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{"link add one address 52:54:00:00:00:01 type bridge", "addr add 192.0.2.1/24 dev one", "link set one up"} {
			nstest.IP(t, args)
		}
		guest := nstest.Guest(t, "one", "guest", wireMAC.String())
		guest.IP("addr add 192.0.2.250/24 dev eth0")
		conn := wireSocket(t, guest)
		compared, refused := 0, 0
		for _, c := range wireLines(t) {
			c, ours := strings.CutPrefix(c, "! ")
			client, text, found := strings.Cut(c, " ")
			sent, known := wireClients[client]
			if !found || !known {
				t.Fatalf("no client in %q", c)
			}
			lines := strings.Split(strings.TrimSpace(text), " | ")
			theirs, err := wireDnsmasq(t, conn, lines, sent)
			o := dnsmasq.Parse(lines)
			switch {
			case ours && (err != nil || len(o.Unknown) != 1):
				t.Errorf("%s: dnsmasq is to start (%v), and vnetd not to understand (%q)", c, err, o.Unknown)
			case ours:
			case err != nil && len(o.Unknown) == 0:
				t.Errorf("%s: understood, and dnsmasq says %v", c, err)
			case err != nil:
				refused++
			case len(o.Unknown) > 0:
				t.Errorf("%s: not understood: %q", c, o.Unknown)
			default:
				compared++
				if got := wireVnetd(t, conn, o, sent); got != theirs {
					t.Errorf("%s:\ndnsmasq %s\nvnetd   %s", c, theirs, got)
				}
			}
		}
		t.Logf("%d lines are the same, %d are refused by both", compared, refused)
	})
}

// wireSocket is the guest's end.
func wireSocket(t *testing.T, guest *nstest.NS) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := guest.Do(func() (err error) {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return errors.Join(c.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				_ = unix.BindToDevice(int(fd), "eth0")
			}))
		}}
		conn, err = config.ListenPacket(t.Context(), "udp4", "0.0.0.0:68")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wireDnsmasq is what dnsmasq offers with those lines; the error is why it ended.
func wireDnsmasq(t *testing.T, conn net.PacketConn, lines []string, sent []dhcpv4.Option) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "dnsmasq", "--no-daemon", "--conf-file="+file, "--user=root", "--pid-file=", "--no-resolv", "--no-hosts", "--port=0",
		"--interface=one", "--bind-interfaces", "--dhcp-range=192.0.2.100,192.0.2.100,1h", "--leasefile-ro", "--dhcp-authoritative", "--no-ping", "--dhcp-no-override")
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() { _ = cmd.Process.Kill(); <-ended }()
	offer, err := wireOffer(conn, sent, ended)
	select {
	case <-ended:
		if err != nil {
			return "", errors.New(strings.TrimSpace(said.String()))
		}
	default: // it runs, and may have no offer for this client
	}
	return offer, nil
}

// wireVnetd is what our server offers.
func wireVnetd(t *testing.T, conn net.PacketConn, o dnsmasq.Options, sent []dhcpv4.Option) string {
	t.Helper()
	server := netip.MustParseAddr("192.0.2.1")
	only := netip.MustParseAddr("192.0.2.100")
	c := v4.Config{
		Network: "one", Interface: "one", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, Server: server, Router: server, Prefix: netip.MustParsePrefix("192.0.2.0/24"),
		Ranges: []dhcpd.Range{{Start: only, End: only}}, Store: dhcpdtest.NewStore(), Logger: slog.New(slog.DiscardHandler),
	}
	addDnsmasqDHCP(&c, &o.DHCP)
	srv, err := v4.Open(c)
	if err != nil {
		t.Fatalf("%q: %v", o.Lines, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = srv.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	offer, err := wireOffer(conn, sent, ended)
	if err != nil {
		t.Errorf("%q: %v", o.Lines, err)
	}
	return offer
}

// wireOffer asks until there is an offer, or the server has ended.
func wireOffer(conn net.PacketConn, sent []dhcpv4.Option, ended <-chan struct{}) (string, error) {
	var asked []dhcpv4.OptionCode
	for code := range uint8(254) {
		if code != 0 && code != 12 && code != 66 && code != 67 {
			asked = append(asked, dhcpv4.GenericOptionCode(code))
		}
	}
	xid := dhcpv4.TransactionID{1, 2, 3, byte(time.Now().UnixNano() >> 10)}
	m, err := dhcpv4.New(dhcpv4.WithTransactionID(xid), dhcpv4.WithHwAddr(wireMAC), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptParameterRequestList(asked...)), dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1400)))
	if err != nil {
		return "", err
	}
	for _, o := range sent {
		m.UpdateOption(o)
	}
	buf := make([]byte, 2048)
	for range 40 {
		select {
		case <-ended:
			return "", errors.New("the server has ended")
		default:
		}
		if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return "", err
		}
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if r, err := dhcpv4.FromBytes(buf[:n]); err == nil && r.TransactionID == xid {
				return wireText(r), nil
			}
		}
	}
	return "", errors.New("no offer")
}

// wireText is what an offer says, but for what is drawn at random.
func wireText(r *dhcpv4.DHCPv4) string {
	var b strings.Builder
	fmt.Fprintf(&b, "yiaddr %v siaddr %v sname %q file %q", r.YourIPAddr, r.ServerIPAddr, r.ServerHostName, r.BootFileName)
	for _, code := range slices.Sorted(maps.Keys(r.Options)) {
		if code != 58 && code != 59 {
			fmt.Fprintf(&b, " %d:%x", code, r.Options[code])
		}
	}
	return b.String()
}
