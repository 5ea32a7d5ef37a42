package bridge_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

const guestMAC = "00:00:5e:00:53:01"

// fdbState is the state of an address in the forwarding database on a port, empty
// if it isn't there.
func fdbState(t *testing.T, mac, port string) string {
	t.Helper()
	var all []struct {
		MAC   string `json:"mac"`
		State string `json:"state"`
	}
	if err := json.Unmarshal([]byte(nstest.Exec(t, "bridge", "-j", "fdb", "show", "brport", port)), &all); err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.MAC == mac {
			return e.State
		}
	}
	return ""
}

func TestStaticFDBEntries(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MACTable = true
		index := ensure(t, b, cfg)
		_, one := openTAP(t, "vnet0")
		_, two := openTAP(t, "vnet1")
		for _, port := range []int{one, two} {
			attach(t, b, index, port, bridge.PortConfig{NoLearning: true, NoFlood: true})
		}
		for _, at := range []int{one, one, two} {
			if err := b.AddFDB(at, parseMAC(guestMAC)); err != nil {
				t.Error(err)
			}
			on := map[bool]string{at == one: "static"}[true]
			if port, err := b.FDBPort(index, parseMAC(guestMAC)); port != at || err != nil {
				t.Errorf("the address is behind %d (%v), want %d", port, err, at)
			}
			if got := fdbState(t, guestMAC, "vnet0"); got != on {
				t.Errorf("entry %q on vnet0, want %q", got, on)
			}
		}
		for range 2 {
			if err := b.DeleteFDB(two, parseMAC(guestMAC)); err != nil {
				t.Error(err)
			}
			if port, err := b.FDBPort(index, parseMAC(guestMAC)); port != 0 || err != nil {
				t.Errorf("after DeleteFDB the address is behind %d (%v)", port, err)
			}
			if got := fdbState(t, guestMAC, "vnet1"); got != "" {
				t.Errorf("entry %q after DeleteFDB", got)
			}
		}
		if err := b.DeleteFDB(1000, parseMAC(guestMAC)); err != nil {
			t.Errorf("DeleteFDB on a port that is gone: %v", err)
		}
		if err := b.AddFDB(1000, parseMAC(guestMAC)); err == nil {
			t.Error("AddFDB on a port that is gone succeeded")
		}
	})
}

// TestPortsWithoutFlooding: frames to an address that only AddFDB knows reach its
// port, and no other port.
func TestPortsWithoutFlooding(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		quiet := bridge.PortConfig{NoLearning: true, NoFlood: true}
		guest := nstest.Guest(t, name, "guest", guestMAC)
		port := show(t, "v-guest").Index
		attach(t, b, index, port, quiet)
		f, sender := openTAP(t, "vnet0")
		attach(t, b, index, sender, quiet)
		if got := show(t, "vnet0").Info.Slave; got.Learning || got.Flood {
			t.Errorf("port %+v", got)
		}
		fd := sniff(t, guest)
		send := func(payload string) {
			t.Helper()
			frame := broadcastFrame(payload)
			copy(frame, parseMAC(guestMAC))
			if _, err := f.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
		send("unknown")
		if err := b.AddFDB(port, parseMAC(guestMAC)); err != nil {
			t.Fatal(err)
		}
		send("known")
		receive(t, fd, "known") // and not "unknown"
		if got := fdbState(t, "52:54:00:00:53:01", "vnet0"); got != "" {
			t.Errorf("the sender's address was learnt: %q", got)
		}
		if err := b.DeleteFDB(port, parseMAC(guestMAC)); err != nil {
			t.Fatal(err)
		}
		send("unknown")
		attach(t, b, index, port, bridge.PortConfig{})
		if got := show(t, "v-guest").Info.Slave; !got.Learning || !got.Flood {
			t.Errorf("after Attach as usual: %+v", got)
		}
		send("flooded")
		receive(t, fd, "flooded")
	})
}

// TestMACTableBridge: VLAN filtering is on where the kernel has it, and a second
// Ensure is silent on both kinds of kernel.
func TestMACTableBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MACTable = true
		ensure(t, b, cfg)
		var links []struct {
			Info struct {
				Data struct {
					Filtering int     `json:"vlan_filtering"`
					Protocol  *string `json:"vlan_protocol"`
				} `json:"info_data"`
			} `json:"linkinfo"`
		}
		if err := json.Unmarshal([]byte(nstest.IP(t, "-d -j link show dev virbr0")), &links); err != nil {
			t.Fatal(err)
		}
		data := links[0].Info.Data
		t.Logf("this kernel has VLAN filtering: %v", data.Protocol != nil)
		if (data.Filtering == 1) != (data.Protocol != nil) {
			t.Errorf("vlan_filtering %d", data.Filtering)
		}
		becomesSilent(t, b, cfg)
	})
}

// TestMostLearned has a bridge learn no more addresses than it may.
func TestMostLearned(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MaxLearned = 8
		ensure(t, b, cfg)
		guest := nstest.Guest(t, "virbr0", "guest", "")
		learned := func() int {
			return strings.Count(nstest.Exec(t, "bridge", "fdb", "show", "br", "virbr0", "dynamic"), "02:00:00:00:53")
		}
		for _, bound := range []int{8, 12} {
			cfg.MaxLearned = bound
			ensure(t, b, cfg)
			nstest.Eventually(t, soon, "the bridge learns", func() error {
				for i := range 2 * bound {
					err := guest.Do(func() error { return sendFrom("eth0", [6]byte{2, 0, 0, 0, 0x53, byte(i)}) })
					if err != nil {
						return err
					}
				}
				if n := learned(); n < bound-2 { // the guest's own address is one
					return fmt.Errorf("it knows %d", n)
				}
				return nil
			})
			if n := learned(); n > bound {
				t.Errorf("the bridge knows %d addresses, want at most %d", n, bound)
			}
		}
	})
}

// sendFrom sends a broadcast from an address on a device.
func sendFrom(device string, mac [6]byte) error {
	card, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	frame = append(append(frame, 0x88, 0xb5), make([]byte, 46)...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: card.Index, Halen: 6})
}
