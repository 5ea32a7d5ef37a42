package v4

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// whole is a message with an end option behind the last option that is whole, as the library
// wants it.
func whole(payload []byte) []byte {
	at := header
	for at < len(payload) && payload[at] != byte(end) {
		switch {
		case payload[at] == byte(pad):
			at++
		case at+1 == len(payload) || at+2+int(payload[at+1]) > len(payload):
			return append(bytes.Clone(payload[:at]), byte(end))
		default:
			at += 2 + int(payload[at+1])
		}
	}
	return append(bytes.Clone(payload[:min(at, len(payload))]), byte(end))
}

// byLibrary is what the library reads in a message, the fields "file" and "sname" included.
func byLibrary(payload []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(whole(payload))
	if err != nil {
		return nil, err
	}
	if v := m.Options.Get(dhcpv4.OptionOptionOverload); len(v) > 0 {
		if v[0]&1 != 0 {
			_ = m.Options.FromBytes(payload[bootFileAt : bootFileAt+bootFileField])
		}
		if v[0]&2 != 0 {
			_ = m.Options.FromBytes(payload[serverFieldAt : serverFieldAt+serverField])
		}
	}
	return m, nil
}

// FuzzMessage: what is read by hand is what the library reads.
func FuzzMessage(f *testing.F) {
	base, err := dhcpv4.NewDiscovery(net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 2})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(base.ToBytes())
	fixed := base.ToBytes()[:header]
	for _, opts := range [][]byte{
		nil,
		{53, 1, 1},
		{53, 1, 1, 255, 12, 1, 'x'},
		{0, 0, 53, 1, 3, 12, 1, 'a', 61, 0, 12, 1, 'b', 0},
		{53, 1},
		{53},
		{12, 200, 1},
		{52, 1, 3, 53, 1, 1},
		{52, 1, 1, 52, 1, 2, 255},
		{55, 0, 80, 0, 82, 4, 1, 2, 3, 4},
	} {
		f.Add(append(bytes.Clone(fixed), opts...))
		in := bytes.Clone(fixed)
		copy(in[bootFileAt:], []byte{12, 2, 'f', 'f', 60, 200})
		copy(in[serverFieldAt:], []byte{12, 2, 's', 's', 255})
		f.Add(append(in, opts...))
	}
	f.Add(fixed[:100])
	f.Fuzz(func(t *testing.T, payload []byte) {
		var m message
		err := m.read(payload)
		want, wantErr := byLibrary(payload)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("got error %v, the library %v", err, wantErr)
		}
		if err != nil {
			return
		}
		sameOptions(t, &m, want.Options)
		if m.flags()&broadcastFlag != want.Flags&broadcastFlag || m.addr(giaddrAt) != addrOf(want.GatewayIPAddr) || m.addr(ciaddrAt) != addrOf(want.ClientIPAddr) ||
			len(want.ClientHWAddr) >= dhcpd.HWAddrLen && m.card() != dhcpd.HWAddr(want.ClientHWAddr) || !bytes.Equal(m.fixed[transactionAt:][:4], want.TransactionID[:]) {
			t.Errorf("of %x the library says %+v", m.fixed, want)
		}
	})
}

// sameOptions holds that a message has these options.
func sameOptions(t *testing.T, m *message, want dhcpv4.Options) {
	t.Helper()
	for c := range 256 {
		if got, want := m.get(code(c)), want.Get(dhcpv4.GenericOptionCode(c)); !bytes.Equal(got, want) {
			t.Errorf("option %d is %x, the library says %x", c, got, want)
		}
		if got, want := m.has(code(c)), want.Has(dhcpv4.GenericOptionCode(c)); got != want {
			t.Errorf("there is option %d: %v, the library says %v", c, got, want)
		}
	}
}

// A request that is kept has nothing of its datagram, which the next one overwrites.
func TestKeptRequest(t *testing.T) {
	cfg := Config{Settings: dhcpd.Settings{Network: "test", Interface: "br0", Prefix: netip.MustParsePrefix("192.0.2.0/24")}}
	p := newPlan(&cfg, slog.New(slog.DiscardHandler))
	m, err := dhcpv4.NewDiscovery(net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 2}, dhcpv4.WithOption(dhcpv4.OptHostName("first")),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{0, 'i', 'd'})))
	if err != nil {
		t.Fatal(err)
	}
	payload := m.ToBytes()
	c, err := parse(dhcpd.Datagram{Payload: payload, From: dhcpd.Sender{Port: 7}}, p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.Key = "key"
	k := c.kept(p)
	clear(payload)
	if k.MAC != (dhcpd.HWAddr{0, 0, 0x5e, 0, 0x53, 2}) || k.Name.Label != "first" || string(k.ID) != "\x00id" || k.Key != "key" || k.Via.Port != 7 ||
		k.typ != dhcpv4.MessageTypeDiscover || k.Now != c.Now || len(k.msg.get(code(dhcpv4.OptionParameterRequestList))) == 0 {
		t.Errorf("kept %+v", k)
	}
}
