package bridge_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"golang.org/x/sys/unix"
)

// etherType is that of the frames the tests send: for local experiments (IEEE
// 802), no protocol of the kernel's.
const etherType = 0x88b5

// broadcastFrame is a frame to everybody with a payload.
func broadcastFrame(payload string) []byte {
	frame := append(bytes.Repeat([]byte{0xff}, 6), parseMAC("52:54:00:00:53:01")...)
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	frame = append(frame, payload...)
	return append(frame, make([]byte, 60-len(frame))...)
}

// sniff opens a socket in the namespace that receives such frames.
func sniff(t *testing.T, ns *nstest.NS) (fd int) {
	t.Helper()
	err := ns.Do(func() (err error) {
		protocol := int(binary.NativeEndian.Uint16([]byte{etherType >> 8, etherType & 0xff}))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(soon / time.Second)}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func receive(t *testing.T, fd int, payload string) {
	t.Helper()
	buf := make([]byte, 2000)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		t.Fatalf("waiting for frame %q: %v", payload, err)
	}
	if !bytes.Contains(buf[:n], []byte(payload)) {
		t.Fatalf("received %q, want %q", buf[:n], payload)
	}
}

// TestAttachForwardsAtOnce sends a single frame the moment Attach returned: with
// the tree's usual pace it would be dropped, as would all for 4 to 60 s.
func TestAttachForwardsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		for i, delay := range []time.Duration{2 * time.Second, 30 * time.Second, 0} {
			stp := delay != 0
			cfg := defaultConfig()
			cfg.STP, cfg.ForwardDelay = stp, delay
			index := ensure(t, b, cfg)
			guest := nstest.Guest(t, name, fmt.Sprintf("guest%d", i), "")
			attach(t, b, index, show(t, "v-"+guest.Name).Index, bridge.PortConfig{})
			fd := sniff(t, guest)
			for i := range 3 {
				f, port := openTAP(t, "vnet0")
				start := time.Now()
				attach(t, b, index, port, bridge.PortConfig{})
				attached := time.Since(start)
				payload := "frame " + strconv.Itoa(i)
				if _, err := f.Write(broadcastFrame(payload)); err != nil {
					t.Fatal(err)
				}
				receive(t, fd, payload)
				t.Logf("delay %v: attached after %v, frame received after %v", delay, attached, time.Since(start))
				checkPort(t, "vnet0", "forwarding")
				if got := show(t, name).Info.Data; (got.STPState == 1) != stp || got.ForwardDelay != int(delay.Seconds()*100) {
					t.Errorf("after Attach STP is %d and the delay %d, want %v and %v", got.STPState, got.ForwardDelay, stp, delay)
				}
				_ = f.Close()
			}
		}
	})
}

func checkPort(t *testing.T, port, state string) {
	t.Helper()
	got := show(t, port)
	if got.Master != name || got.Info.Slave.State != state || !slices.Contains(got.Flags, "UP") {
		t.Errorf("port %s: master %q, state %s, flags %v; want %s, %s, UP",
			port, got.Master, got.Info.Slave.State, got.Flags, name, state)
	}
}

// TestAttachEndsListening: a port that was plugged in by other means, or whose
// carrier came later, forwards when Attach is called again.
func TestAttachEndsListening(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		nstest.IP(t, "link set vnet0 master virbr0 up")
		checkPort(t, "vnet0", "listening")
		attach(t, b, index, port, bridge.PortConfig{})
		checkPort(t, "vnet0", "forwarding")
		if got := show(t, name).Info.Data; got.STPState != 1 || got.ForwardDelay != 200 {
			t.Errorf("STP %d, delay %d", got.STPState, got.ForwardDelay)
		}
	})
}

func TestPersistentTAPForwardsWhenOpened(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		nstest.IP(t, "tuntap add mode tap vnet0")
		port := show(t, "vnet0").Index
		attach(t, b, index, port, bridge.PortConfig{})
		checkPort(t, "vnet0", "disabled")
		events := watch(t, b)
		openTAP(t, "vnet0")
		await(t, events, func(e bridge.LinkEvent) bool { return e.Index == port && e.Carrier })
		attach(t, b, index, port, bridge.PortConfig{})
		checkPort(t, "vnet0", "forwarding")
	})
}

func TestAttachBringsBackWhatAnAdminChanged(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		nstest.IP(t, "link add other type bridge")
		_, port := openTAP(t, "vnet0")
		want := bridge.PortConfig{MTU: 1400, Isolated: true}
		for _, change := range []string{
			"link show dev vnet0", // none: the port is new
			"link set vnet0 nomaster",
			"link set vnet0 master other",
			"link set vnet0 down",
			"link set vnet0 mtu 1300",
			"link set vnet0 type bridge_slave isolated off",
		} {
			nstest.IP(t, change)
			attach(t, b, index, port, want)
			checkPort(t, "vnet0", "forwarding")
			if got := show(t, "vnet0"); !got.Info.Slave.Isolated || got.MTU != 1400 {
				t.Errorf("after %q: isolated %v, MTU %d", change, got.Info.Slave.Isolated, got.MTU)
			}
		}
		attach(t, b, index, port, bridge.PortConfig{})
		if show(t, "vnet0").Info.Slave.Isolated {
			t.Error("the port is isolated still")
		}
	})
}

func TestAttachTwiceIsSilent(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{Isolated: true})
		checkPort(t, "vnet0", "forwarding")
		nstest.Eventually(t, soon, "a further Attach is silent", func() error { // the kernel tells of the carrier late
			heard := monitor(t)
			attach(t, b, index, port, bridge.PortConfig{Isolated: true})
			if n := heard(port) + heard(index); n != 0 {
				return fmt.Errorf("%d messages", n)
			}
			return nil
		})
	})
}

func TestIsolatedPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		open := nstest.Guest(t, name, "open", "")
		closed := nstest.Guest(t, name, "closed", "")
		attach(t, b, index, show(t, "v-open").Index, bridge.PortConfig{})
		attach(t, b, index, show(t, "v-closed").Index, bridge.PortConfig{Isolated: true})
		f, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{Isolated: true})
		toOpen, toClosed := sniff(t, open), sniff(t, closed)
		if _, err := f.Write(broadcastFrame("hidden")); err != nil {
			t.Fatal(err)
		}
		receive(t, toOpen, "hidden")
		attach(t, b, index, port, bridge.PortConfig{})
		if _, err := f.Write(broadcastFrame("seen")); err != nil {
			t.Fatal(err)
		}
		receive(t, toClosed, "seen") // and not "hidden"
		receive(t, toOpen, "seen")
		attach(t, b, index, port, bridge.PortConfig{Isolated: true})
		if _, err := f.Write(broadcastFrame("hidden again")); err != nil {
			t.Fatal(err)
		}
		receive(t, toOpen, "hidden again")
		attach(t, b, index, port, bridge.PortConfig{})
		if _, err := f.Write(broadcastFrame("seen again")); err != nil {
			t.Fatal(err)
		}
		receive(t, toClosed, "seen again")
	})
}

// loops are networks with a loop through virbr0, and two ports of virbr0 in it.
var loops = []struct {
	name  string
	build []string
	ports [2]string
}{
	{
		"both ends of a cable",
		[]string{"link add l0 type veth peer name l1", "link set l0 up", "link set l1 up"},
		[2]string{"l0", "l1"},
	},
	{
		"two cables to a switch that is the tree's root",
		[]string{
			"link add switch type bridge stp_state 1 priority 4096",
			"link set switch up",
			"link add l0 type veth peer name s0",
			"link add l1 type veth peer name s1",
			"link set s0 master switch up",
			"link set s1 master switch up",
		},
		[2]string{"l0", "l1"},
	},
}

// TestAttachKeepsLoopsBlocked: the spanning tree's decision about a loop
// survives that other ports are plugged in, and no frame goes round meanwhile.
func TestAttachKeepsLoopsBlocked(t *testing.T) {
	for _, loop := range loops {
		t.Run(loop.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				b := newBridges(t)
				index := ensure(t, b, defaultConfig())
				witness := nstest.Guest(t, name, "witness", "")
				attach(t, b, index, show(t, "v-witness").Index, bridge.PortConfig{})
				for _, args := range loop.build {
					nstest.IP(t, args)
				}
				for _, port := range loop.ports {
					attach(t, b, index, show(t, port).Index, bridge.PortConfig{})
				}
				blocked := awaitBlocked(t, loop.ports)
				attachManyBeside(t, b, index, blocked, sniff(t, witness))
				attach(t, b, index, show(t, blocked).Index, bridge.PortConfig{})
				checkPort(t, blocked, "blocking")
			})
		})
	}
}

// TestGuestBridgesItsCards: a guest makes a loop of two of its cards, long after
// they were plugged in, by a bridge that knows no spanning tree. Frames that went
// round meanwhile end, and later ones arrive once.
func TestGuestBridgesItsCards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.ForwardDelay = 30 * time.Second
		index := ensure(t, b, cfg)
		witness := nstest.Guest(t, name, "witness", "")
		attach(t, b, index, show(t, "v-witness").Index, bridge.PortConfig{})
		guest := nstest.NewNS(t, "guest")
		ports := [2]string{"card0", "card1"}
		for i, port := range ports {
			nstest.IP(t, fmt.Sprintf("link add %s type veth peer name eth%d netns guest", port, i))
			guest.IP(fmt.Sprintf("link set eth%d up", i))
			attach(t, b, index, show(t, port).Index, bridge.PortConfig{})
			checkPort(t, port, "forwarding")
		}
		f, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{})
		for _, args := range []string{
			"link add br0 type bridge stp_state 0",
			"link set br0 up",
			"link set eth0 master br0",
			"link set eth1 master br0",
		} {
			guest.IP(args)
		}
		if _, err := f.Write(broadcastFrame("round and round")); err != nil {
			t.Fatal(err)
		}
		awaitBlocked(t, ports)
		awaitQuiet(t, "v-witness")
		fd := sniff(t, witness)
		for i := range 20 {
			payload := fmt.Sprintf("frame %d.", i)
			if _, err := f.Write(broadcastFrame(payload)); err != nil {
				t.Fatal(err)
			}
			receive(t, fd, payload)
		}
	})
}

// awaitQuiet waits until the kernel sends hardly more than BPDUs to a link.
func awaitQuiet(t *testing.T, link string) {
	t.Helper()
	sent := func() (n int) {
		data, err := os.ReadFile("/sys/class/net/" + link + "/statistics/tx_packets")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	nstest.Eventually(t, soon, "no frame goes round", func() error {
		before := sent()
		time.Sleep(100 * time.Millisecond)
		if n := sent() - before; n > 2 {
			return fmt.Errorf("%d frames in 100 ms", n)
		}
		return nil
	})
}

// attachManyBeside plugs in port after port, each of which sends one frame, and
// fails unless the port blocked stays so and fd receives each frame once.
func attachManyBeside(t *testing.T, b *bridge.Bridges, index int, blocked string, fd int) {
	t.Helper()
	for i := range 20 {
		tap := fmt.Sprintf("vnet%d", i)
		f, port := openTAP(t, tap)
		attach(t, b, index, port, bridge.PortConfig{})
		checkPort(t, tap, "forwarding")
		checkPort(t, blocked, "blocking")
		payload := "frame of " + tap + "."
		if _, err := f.Write(broadcastFrame(payload)); err != nil {
			t.Fatal(err)
		}
		receive(t, fd, payload)
	}
}

// TestHellosGoOutBetweenPorts: ports that come faster than the hello time for
// longer than the max age don't open a loop. The tree's times are the shortest
// that the kernel takes.
func TestHellosGoOutBetweenPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		nstest.IP(t, "link set virbr0 type bridge hello_time 100 max_age 600")
		for _, args := range loops[0].build {
			nstest.IP(t, args)
		}
		for _, port := range loops[0].ports {
			attach(t, b, index, show(t, port).Index, bridge.PortConfig{})
		}
		blocked := awaitBlocked(t, loops[0].ports)
		for start := time.Now(); time.Since(start) < 10*time.Second && !t.Failed(); {
			f, port := openTAP(t, "vnet0")
			attach(t, b, index, port, bridge.PortConfig{})
			_ = f.Close()
			checkPort(t, blocked, "blocking")
		}
	})
}

// awaitBlocked waits until one of the ports is blocked and returns it.
func awaitBlocked(t *testing.T, ports [2]string) (blocked string) {
	t.Helper()
	nstest.Eventually(t, soon, "the spanning tree blocks the loop", func() error {
		for _, port := range ports {
			if show(t, port).Info.Slave.State == "blocking" {
				blocked = port
				return nil
			}
		}
		return errors.New("both ports are open")
	})
	return blocked
}

func TestAttachErrors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, tt := range []struct {
			what         string
			ctx          context.Context
			bridge, port int
			p            bridge.PortConfig
			want         error
		}{
			{"no bridge", t.Context(), 1000, port, bridge.PortConfig{}, bridge.ErrNotFound},
			{"no port", t.Context(), index, 1000, bridge.PortConfig{}, bridge.ErrNotFound},
			{"port as bridge", t.Context(), port, index, bridge.PortConfig{}, bridge.ErrNotBridge},
			{"bridge as port", t.Context(), index, index, bridge.PortConfig{}, unix.ELOOP},
			{"ended", ctx, index, port, bridge.PortConfig{}, context.Canceled},
			{"MTU", t.Context(), index, port, bridge.PortConfig{MTU: 1 << 20}, unix.EINVAL},
		} {
			if err := b.Attach(tt.ctx, tt.bridge, tt.port, tt.p); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
			}
			if show(t, name).Info.Data.STPState != 1 {
				t.Fatalf("%s: STP is off", tt.what)
			}
		}
	})
}

func TestDetach(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{})
		for range 2 {
			if err := b.Detach(port); err != nil {
				t.Error(err)
			}
			if got := show(t, "vnet0"); got.Master != "" || !slices.Contains(got.Flags, "UP") {
				t.Errorf("after Detach: master %q, flags %v", got.Master, got.Flags)
			}
		}
		if err := b.Detach(1000); err != nil {
			t.Errorf("Detach of a link that is gone: %v", err)
		}
	})
}

func TestDeleteLink(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		nstest.IP(t, "tuntap add mode tap vnet0")
		port := show(t, "vnet0").Index
		for range 2 {
			if err := b.DeleteLink(port); err != nil {
				t.Error(err)
			}
			if exists(t, "vnet0") {
				t.Error("the TAP device is there after DeleteLink")
			}
		}
		if err := b.DeleteLink(index); err == nil || !exists(t, name) {
			t.Errorf("DeleteLink of a bridge: %v", err)
		}
	})
}

// TestMembers lists the ports of one bridge as the kernel has them, with what is known of each.
func TestMembers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		nstest.IP(t, "link add br9 type bridge")
		var want []string
		for n := range 60 {
			port := fmt.Sprintf("p%d", n)
			nstest.IP(t, fmt.Sprintf("link add %s type veth peer name q%d", port, n))
			nstest.IP(t, fmt.Sprintf("link set %s alias mark-%d master %s", port, n, []string{name, "br9"}[n%3/2]))
			if n%3 < 2 {
				want = append(want, fmt.Sprintf("%s mark-%d", port, n))
			}
		}
		nstest.IP(t, "link set p3 nomaster")
		nstest.IP(t, "link del p4")
		want = slices.DeleteFunc(want, func(s string) bool { return s == "p3 mark-3" || s == "p4 mark-4" })
		all, err := b.Members(index)
		var got []string
		for _, l := range all {
			got = append(got, l.Name+" "+l.Alias)
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v, ports (-want +got):\n%s", err, diff)
		}
		for _, other := range []int{1, 4711, all[0].Index} {
			if none, err := b.Members(other); len(none) > 0 || err != nil {
				t.Errorf("ports of link %d, which is no bridge: %+v, %v", other, none, err)
			}
		}
	})
}
