package packets_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/packets"
	"github.com/vnetd/vnetd/internal/nstest"
)

// frames are frames by what is said of them.
var frames = map[string]string{
	"ARP who has 192.0.2.1, tell 192.0.2.5":                                    "ffffffffffff525400000005" + "0806" + "0001080006040001525400000005c0000205000000000000c0000201",
	"vlan 7, ARP who has 192.0.2.1, tell 192.0.2.5":                            "ffffffffffff525400000005" + "81000007" + "0806" + "0001080006040001525400000005c0000205000000000000c0000201",
	"IP 192.0.2.5:4660 > 192.0.2.1:53: udp, length 28":                         "525400000001525400000005" + "0800" + "4500001c00004000401100" + "00c0000205c0000201" + "1234003500080000",
	"IP 192.0.2.5:4660 > 192.0.2.1:80: tcp [S], length 40":                     "525400000001525400000005" + "0800" + "4500002800004000400600" + "00c0000205c0000201" + "12340050" + "0000000000000000" + "5002" + "000000000000",
	"IP6 2001:db8::5 > ff02::1:ff00:1: icmp neighbour solicitation, length 64": "3333ff000001525400000005" + "86dd" + "6000000000183aff" + "20010db8000000000000000000000005" + "ff0200000000000000000001ff000001" + "87000000",
	"IP6 2001:db8::5 > 2001:db8::1: icmp neighbour solicitation, length 64":    "3333ff000001525400000005" + "86dd" + "6000000000183aff" + "20010db8000000000000000000000005" + "ff0200000000000000000001ff000001" + "8700000000000000" + "20010db8000000000000000000000001",
	"IP 192.0.2.5 > 192.0.2.1: icmp unreachable code 4, length 28":             "525400000001525400000005" + "0800" + "4500001c00000000400100" + "00c0000205c0000201" + "0304000000000000",
	"IP 192.0.2.5 > 192.0.2.1: udp, length 28":                                 "525400000001525400000005" + "0800" + "4500001c0000000140" + "110000c0000205c0000201" + "1234003500080000", // not the first fragment
	"52:54:00:00:00:05 > 01:80:c2:00:00:00, type 0x0026":                       "0180c2000000525400000005" + "0026" + "424203",
	" > , type 0x0000": "0180c2",
	"52:54:00:00:00:05 > ff:ff:ff:ff:ff:ff, type 0x0806":             "ffffffffffff525400000005" + "0806" + "0001",
	"IP 192.0.2.5 > 192.0.2.1: protocol 89, length 20":               "525400000001525400000005" + "0800" + "4500001400000000405900" + "00c0000205c0000201",
	"IP 192.0.2.5 > 192.0.2.1: icmp echo request, length 28":         "525400000001525400000005" + "0800" + "4500001c00000000400100" + "00c0000205c0000201" + "0800",
	"vlan 7, IP 192.0.2.5 > 192.0.2.1: icmp echo request, length 28": "525400000001525400000005" + "88a80007" + "81000009" + "0800" + "4500001c00000000400100" + "00c0000205c0000201" + "0800",
	"vlan 7, 52:54:00:00:00:05 > 52:54:00:00:00:01, type 0x8100":     "525400000001525400000005" + "88a80007" + "8100" + "00",
}

func TestFrames(t *testing.T) {
	for want, text := range frames {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := packets.Decode(b).String(); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// FuzzDecode decodes frames of any form: they come from guests.
func FuzzDecode(f *testing.F) {
	for _, text := range frames {
		b, _ := hex.DecodeString(text)
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _ = packets.Decode(b).String() })
}

// tcpdump has tcpdump read a file.
func tcpdump(t *testing.T, file string, args ...string) string {
	t.Helper()
	return nstest.Exec(t, "tcpdump", append([]string{"-nr", file}, args...)...)
}

// hear captures what passes devices while f runs, until count packets came.
func hear(t *testing.T, filter string, count int, devices []packets.Device, f func()) ([]byte, packets.Outcome) {
	t.Helper()
	program, err := packets.Compile(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, d := range devices {
		links = append(links, d.Name)
	}
	s, err := packets.Open(links, program)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f()
	var out bytes.Buffer
	names := []packets.Name{{Addr: netip.MustParseAddr("192.0.2.1"), Name: "gateway"}, {Addr: netip.MustParseAddr("2001:db8::1"), Name: "gateway6"}}
	file, err := packets.NewFile(&out, "vnetctl 1", "port a0", filter, devices, names)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Capture(t.Context(), packets.Bounds{Time: 2 * time.Second, Count: count, Size: 1 << 20}, func() int64 { return file.Written }, file.Packet)
	if err != nil {
		t.Fatal(err)
	}
	if int(file.Written) != out.Len() {
		t.Errorf("%d bytes are said to be written, %d are", file.Written, out.Len())
	}
	return out.Bytes(), o
}

// send sends a frame, as hex digits, by a namespace's eth0.
func send(t *testing.T, ns *nstest.NS, text string) {
	t.Helper()
	frame, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCapture captures frames of two links, some with a tag, and has tcpdump read them.
func TestCapture(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		peer := nstest.NewNS(t, "peer")
		nstest.IP(t, "link add a0 type veth peer name eth0 netns peer")
		nstest.IP(t, "link set a0 up")
		peer.IP("addr add 192.0.2.5/24 dev eth0")
		peer.IP("link set eth0 up")
		ping := func(to string) func() {
			if to == "" {
				return func() { send(t, peer, frames["vlan 7, ARP who has 192.0.2.1, tell 192.0.2.5"]) }
			}
			return func() {
				peer.IP("neigh flush dev eth0") // it asks anew, whatever became of the last time
				_ = peer.Command(t.Context(), "ping", "-c", "1", "-W", "1", to).Run()
			}
		}
		devices := []packets.Device{{Name: "lo", Description: "this host"}, {Name: "a0", Description: "guest web"}}
		for _, tt := range []struct{ filter, to, want string }{
			{"", "192.0.2.1", "who-has 192.0.2.1"},
			{"arp", "192.0.2.1", "who-has 192.0.2.1"},
			{"vlan 7 and arp", "", "vlan 7, p 0, ethertype ARP"},
		} {
			b, o := hear(t, tt.filter, 1, devices, ping(tt.to))
			name := filepath.Join(t.TempDir(), "capture")
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := tcpdump(t, name, "-e"); !strings.Contains(got, tt.want) && tt.filter != "" || got == "" || o.End != packets.EndCount {
				t.Errorf("filter %q: tcpdump reads %q, want %q; %+v", tt.filter, got, tt.want, o)
			}
			if o.Packets != 1 || o.Lost != 0 {
				t.Errorf("filter %q: %+v, want one packet and none lost", tt.filter, o)
			}
		}
		if _, o := hear(t, "tcp port 1", 1, devices, ping("192.0.2.1")); o.Packets != 0 || o.End != packets.EndTime {
			t.Errorf("what the filter does not want: %+v", o)
		}
	})
}

// TestBounds checks that neither the size nor an interrupt is overrun.
func TestBounds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := packets.Open([]string{"lo"}, packets.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := exec.Command("ping", "-c", "20", "-i", "0.002", "127.0.0.1").Run(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		file, err := packets.NewFile(&out, "", "", "", []packets.Device{{Name: "lo"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		const size = 1000
		o, err := s.Capture(t.Context(), packets.Bounds{Time: time.Minute, Count: 1000, Size: size}, func() int64 { return file.Written }, file.Packet)
		if err != nil || o.End != packets.EndSize || o.Packets == 0 || out.Len() > size || out.Len() < size/2 {
			t.Errorf("%+v (%v), %d bytes of %d", o, err, out.Len(), size)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		o, err = s.Capture(ctx, packets.Bounds{Time: time.Minute, Count: 1000, Size: 1 << 20}, func() int64 { return 0 }, func(packets.Packet) error { return nil })
		if err != nil || o.End != packets.EndInterrupted {
			t.Errorf("interrupted: %+v (%v)", o, err)
		}
	})
}

func TestRefused(t *testing.T) {
	if _, err := packets.Compile(t.Context(), "hosst 1"); err == nil || !strings.Contains(err.Error(), `filter "hosst 1": `) {
		t.Errorf("%v, want the filter and what is wrong", err)
	}
	nstest.Run(t, func(t *testing.T) {
		if _, err := packets.Open([]string{"nolink"}, packets.Filter{}); err == nil || !strings.Contains(err.Error(), `no link "nolink"`) {
			t.Errorf("%v, want that there is no such link", err)
		}
	})
}

// TestFile walks through the blocks of a file: each has its length at both ends, and the
// names are in a block of their own.
func TestFile(t *testing.T) {
	var out bytes.Buffer
	names := []packets.Name{{Addr: netip.MustParseAddr("192.0.2.1"), Name: "gateway"}, {Addr: netip.MustParseAddr("2001:db8::1"), Name: "gateway6"}}
	f, err := packets.NewFile(&out, "vnetctl 1", "network default", "arp", []packets.Device{{Name: "vnet0", Description: "guest web"}, {Name: "br0", Description: "the bridge"}}, names)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1700000000, 123456789)
	if err := f.Packet(packets.Packet{At: at, Link: 1, Outgoing: true, Data: []byte("frame")}); err != nil {
		t.Fatal(err)
	}
	blocks := make(map[uint32][]string)
	for b := out.Bytes(); len(b) > 0; {
		kind, size := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])
		if size%4 != 0 || int(size) > len(b) || binary.NativeEndian.Uint32(b[size-4:]) != size {
			t.Fatalf("a block of kind %d has the length %d of %d left", kind, size, len(b))
		}
		blocks[kind] = append(blocks[kind], string(b[8:size-4]))
		b = b[size:]
	}
	for kind, want := range map[uint32][]string{
		0x0A0D0D0A: {"network default", "vnetctl 1"},
		1:          {"vnet0", "guest web", "\x00arp"},
		4:          {"\xc0\x00\x02\x01gateway\x00", "gateway6\x00"},
		6:          {"frame\x00\x00\x00\x02\x00\x04\x00\x02\x00\x00\x00"}, // padding, and outbound
	} {
		for _, text := range want {
			if len(blocks[kind]) == 0 || !strings.Contains(blocks[kind][0], text) {
				t.Errorf("blocks of kind %d are %q, want %q in the first", kind, blocks[kind], text)
			}
		}
	}
	if p := blocks[6][0]; binary.NativeEndian.Uint32([]byte(p)) != 1 ||
		uint64(binary.NativeEndian.Uint32([]byte(p[4:])))<<32|uint64(binary.NativeEndian.Uint32([]byte(p[8:]))) != uint64(at.UnixNano()) {
		t.Errorf("the packet's block is %q, want link 1 and the time in nanoseconds", p)
	}
	if want := packets.Size(len("frame")); int64(len(blocks[6][0])+12) != want {
		t.Errorf("a packet takes %d bytes, said are %d", len(blocks[6][0])+12, want)
	}
}
