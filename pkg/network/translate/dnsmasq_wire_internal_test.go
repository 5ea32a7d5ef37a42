package translate

import (
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
	"sync"
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
	"id":         {dhcpv4.OptClientIdentifier([]byte{1, 2, 3, 4})},
	"named":      {dhcpv4.OptClientIdentifier([]byte("\x00marjorie"))},
	"enterprise": {dhcpv4.OptGeneric(dhcpv4.OptionVendorIdentifyingVendorClass, []byte("\x00\x00\x01\x37\x09\x03abc\x04bcde\x00\x00\x11\x8b\x02\x01x"))},
	"hostname":   {dhcpv4.OptHostName("printer")},
}

// wireLine is lines of a configuration, the client that they are put to, and whether
// dnsmasq starts with what vnetd does not understand.
type wireLine struct {
	text, client string
	lines        []string
	ours         bool
}

// wireLines reads a file of lines, several separated by a bar.
func wireLines(t *testing.T, file string) (all []wireLine) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		rest, ours := strings.CutPrefix(line, "! ")
		client, config, found := strings.Cut(rest, " ")
		if !found {
			t.Fatalf("no client in %q", line)
		}
		all = append(all, wireLine{line, client, strings.Split(strings.TrimSpace(config), " | "), ours})
	}
	return all
}

// wire is how clients of one family are answered by dnsmasq, which may not start, and by
// our own server.
type wire struct {
	theirs func(t *testing.T, lines []string, client string) (string, error)
	ours   func(t *testing.T, o dnsmasq.Options, client string) string
}

// compare puts each line of a file to dnsmasq and to our own server.
func (w wire) compare(t *testing.T, file string) {
	compared, refused := 0, 0
	for _, c := range wireLines(t, file) {
		theirs, err := w.theirs(t, c.lines, c.client)
		o := dnsmasq.Parse(c.lines)
		switch {
		case c.ours && (err != nil || len(o.Unknown) != 1):
			t.Errorf("%s: dnsmasq is to start (%v), and vnetd not to understand (%q)", c.text, err, o.Unknown)
		case c.ours:
		case err != nil && len(o.Unknown) == 0:
			t.Errorf("%s: understood, and dnsmasq says %v", c.text, err)
		case err != nil:
			refused++
		case len(o.Unknown) > 0:
			t.Errorf("%s: not understood: %q; dnsmasq %s", c.text, o.Unknown, theirs)
		default:
			compared++
			if got := w.ours(t, o, c.client); got != theirs {
				t.Errorf("%s:\ndnsmasq %s\nvnetd   %s", c.text, theirs, got)
			}
		}
	}
	t.Logf("%d lines are the same, %d are refused by both", compared, refused)
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
		wire{
			theirs: func(t *testing.T, lines []string, client string) (string, error) {
				return wireDnsmasq(t, lines, "--dhcp-range=192.0.2.100,192.0.2.100,1h", func(ended <-chan struct{}) (string, error) {
					return wireOffer(conn, wireClient(t, wireClients, client), ended)
				})
			},
			ours: func(t *testing.T, o dnsmasq.Options, client string) string {
				return wireVnetd(t, conn, o, wireClient(t, wireClients, client))
			},
		}.compare(t, "testdata/dnsmasq-options.txt")
	})
}

// wireClient is the client of that name.
func wireClient[C any](t *testing.T, all map[string]C, name string) C {
	t.Helper()
	c, known := all[name]
	if !known {
		t.Fatalf("no client %q", name)
	}
	return c
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

// wireDnsmasq is what dnsmasq answers with those lines and a range to the client that
// asks; the error is why it ended.
func wireDnsmasq(t *testing.T, lines []string, pool string, ask func(ended <-chan struct{}) (string, error)) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := new(spoken)
	cmd := exec.CommandContext(t.Context(), "dnsmasq", "--no-daemon", "--conf-file="+file, "--user=root", "--pid-file=", "--no-resolv", "--no-hosts", "--port=0",
		"--interface=one", "--bind-interfaces", pool, "--leasefile-ro", "--dhcp-authoritative", "--no-ping", "--dhcp-no-override")
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() { _ = cmd.Process.Kill(); <-ended }()
	nstest.Eventually(t, time.Minute, "dnsmasq runs, or refuses to", func() error {
		select {
		case <-ended:
			return nil
		default:
		}
		if text := said.String(); !strings.Contains(text, " started, version ") {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
	offer, err := ask(ended)
	select {
	case <-ended:
		if err != nil {
			return "", errors.New(strings.TrimSpace(said.String()))
		}
	default: // it runs, and may have no offer for this client
	}
	return offer, nil
}

// spoken is what a program has said so far.
type spoken struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// wireVnetd is what our server offers.
func wireVnetd(t *testing.T, conn net.PacketConn, o dnsmasq.Options, sent []dhcpv4.Option) string {
	t.Helper()
	server := netip.MustParseAddr("192.0.2.1")
	only := netip.MustParseAddr("192.0.2.100")
	c := v4.Config{
		Settings: dhcpd.Settings{
			Network:   "one",
			Interface: "one",
			MAC:       net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1},
			Server:    server,
			Prefix:    netip.MustParsePrefix("192.0.2.0/24"),
			Ranges:    []dhcpd.Range{{Start: only, End: only}},
			Store:     dhcpdtest.NewStore(),
			Logger:    slog.New(slog.DiscardHandler),
		},
		Router: server,
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
	offer, _ := wireOffer(conn, sent, ended) // there may be none
	return offer
}

// wireTries is how often a client asks.
const wireTries = 40

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
	for range wireTries {
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

// wireText is what an offer says.
func wireText(r *dhcpv4.DHCPv4) string {
	var b strings.Builder
	fmt.Fprintf(&b, "yiaddr %v siaddr %v sname %q file %q", r.YourIPAddr, r.ServerIPAddr, r.ServerHostName, r.BootFileName)
	for _, code := range slices.Sorted(maps.Keys(r.Options)) {
		fmt.Fprintf(&b, " %d:%x", code, r.Options[code])
	}
	return b.String()
}
