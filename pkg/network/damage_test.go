package network_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
	"github.com/vnetd/vnetd/pkg/network"
)

// damageXML is a network of which much can be damaged.
const damageXML = `<network><name>one</name><forward mode='nat'/><bridge name='one' stp='off' delay='0' macTableManager='libvirt'/>
<mtu size='1500'/><mac address='52:54:00:5e:00:01'/>
<ip address='192.0.2.1' netmask='255.255.255.0'/><ip family='ipv6' address='2001:db8:1::1' prefix='64'/>
<route address='198.51.100.0' netmask='255.255.255.0' gateway='192.0.2.10'/>
<route family='ipv6' address='2001:db8:2::' prefix='64' gateway='2001:db8:1::10'/></network>`

// sealed is a buffer that may be written and read at the same time.
type sealed struct {
	mu sync.Mutex
	bytes.Buffer
}

func (s *sealed) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.Write(p)
}

func (s *sealed) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Buffer.String()
}

// guestOnPort is a guest that has a port of vnetd's: a namespace whose eth0 is a TAP
// device, between which and the port's frames are carried.
func guestOnPort(t *testing.T, h *hub, n *network.Network, name string) (*nstest.NS, string) {
	t.Helper()
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 7}
	info, port := h.port(n, network.PortOptions{MAC: mac})
	guest := nstest.NewNS(t, name)
	var card *os.File
	must(t, guest.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		card = os.NewFile(uintptr(fd), "eth0") // not before there is something to poll
		return err
	}))
	guest.IP("link set eth0 address " + mac.String() + " up")
	if err := unix.SetNonblock(int(port.Fd()), true); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(port.Fd()))
	must(t, err)
	must(t, unix.SetNonblock(fd, true))
	_ = port.Close()
	port = os.NewFile(uintptr(fd), "port")
	var carrying sync.WaitGroup
	carry := func(to, from *os.File) {
		frame := make([]byte, 1<<16)
		for {
			size, err := from.Read(frame)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			_, _ = to.Write(frame[:max(size, 0)]) // a card that is down loses it
		}
	}
	carrying.Go(func() { carry(card, port) })
	carrying.Go(func() { carry(port, card) })
	t.Cleanup(func() {
		_, _ = card.Close(), port.Close()
		carrying.Wait()
	})
	guest.IP("addr add 192.0.2.10/24 dev eth0")
	guest.IP("-6 addr add 2001:db8:1::10/64 dev eth0 nodad")
	guest.IP("route add default via 192.0.2.1")
	return guest, info.IfName
}

// shownLink is what of a link vnetd makes.
type shownLink struct {
	Flags   []string `json:"flags"`
	MTU     int      `json:"mtu"`
	Master  string   `json:"master"`
	Address string   `json:"address"`
	Alias   string   `json:"ifalias"`
	Info    struct {
		Data struct {
			ForwardDelay int `json:"forward_delay"`
			STPState     int `json:"stp_state"`
			VLAN         int `json:"vlan_filtering"`
		} `json:"info_data"`
		Slave struct {
			State    string `json:"state"`
			Isolated bool   `json:"isolated"`
			Learning bool   `json:"learning"`
			Flood    bool   `json:"flood"`
		} `json:"info_slave_data"`
	} `json:"linkinfo"`
	Addrs []struct {
		Local string `json:"local"`
		Bits  int    `json:"prefixlen"`
	} `json:"addr_info"`
}

// pictureOf is all that vnetd makes of a network with a port, for comparison; it is empty while
// something can't be read.
func pictureOf(t *testing.T, bridge, port string) string {
	t.Helper()
	var b strings.Builder
	for _, link := range []string{bridge, port} {
		var shown []shownLink
		out := tryExec(t, "ip", "-d", "-j", "addr", "show", "dev", link)
		if err := json.Unmarshal([]byte(out), &shown); err != nil || len(shown) != 1 {
			return "no " + link
		}
		text, err := json.MarshalIndent(shown[0], "", " ")
		must(t, err)
		fmt.Fprintf(&b, "%s %s\n", link, text)
	}
	for _, args := range []string{"-4 route show dev " + bridge, "-6 route show dev " + bridge} {
		lines := strings.Split(strings.TrimSpace(tryExec(t, "ip", strings.Fields(args)...)), "\n")
		for i, l := range lines {
			lines[i] = regexp.MustCompile(` linkdown| pref medium`).ReplaceAllString(l, "")
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
	for line := range strings.Lines(tryExec(t, "bridge", "fdb", "show", "br", bridge)) {
		if strings.HasPrefix(line, "52:54:00:00:00:07") {
			b.WriteString(line)
		}
	}
	for _, key := range []string{"ipv4/conf/%s/forwarding", "ipv6/conf/%s/forwarding", "ipv6/conf/%s/disable_ipv6", "ipv6/conf/%s/accept_ra", "ipv6/conf/%s/autoconf", "ipv4/neigh/%s/unres_qlen_bytes"} {
		path := "/proc/sys/net/" + fmt.Sprintf(key, bridge)
		value, _ := os.ReadFile(path)
		fmt.Fprintf(&b, "%s = %s\n", path, bytes.TrimSpace(value))
	}
	return b.String()
}

// tryExec is the output of a program that may fail.
func tryExec(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), name, args...).Output()
	return string(out)
}

// repairsOf is how often the network was repaired.
func repairsOf(n *network.Network) int { return int(n.Detail(nil).Repairs) }

// repairs is how often the network or the rules were.
func (h *hub) repairs(n *network.Network) int { return repairsOf(n) + int(h.Firewall().Repairs) }

// rulesNow are the rules of vnetd, and its table.
func rulesNow(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(tryExec(t, program)) {
			if strings.Contains(line, "LIBVIRT_") {
				line, _, _ = strings.Cut(line, " [") // counters
				b.WriteString(line + "\n")
			}
		}
	}
	table, _, _ := strings.Cut(tryExec(t, "nft", "list", "table", "ip", keep.Table), "counter")
	return b.String() + table
}

// settled waits until nothing of the network has changed for a while, and returns what
// it is.
func settled(t *testing.T, n *network.Network, port string) (picture string) {
	t.Helper()
	repairs, since := 0, time.Now()
	nstest.Eventually(t, wait, "the network is at rest", func() error {
		if now, count := pictureOf(t, "one", port), repairsOf(n); now != picture || count != repairs {
			picture, repairs, since = now, count, time.Now()
		}
		if time.Since(since) < 400*time.Millisecond {
			return errors.New("it changes")
		}
		return nil
	})
	return picture
}

// pacer tells how late the machine is: the largest delay of a timer since it was asked.
type pacer struct {
	late atomic.Int64
	stop chan struct{}
}

func newPacer(t *testing.T) *pacer {
	p := &pacer{stop: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for last := time.Now(); ; {
			select {
			case <-p.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			now := time.Now()
			p.late.Store(max(p.late.Load(), int64(now.Sub(last)-10*time.Millisecond)))
			last = now
		}
	})
	t.Cleanup(func() {
		close(p.stop)
		running.Wait()
	})
	return p
}

// damages are what is done to a network, and what of it is named as amiss first, by the
// log's attribute "what" or another one; empty where there is nothing to put back.
var damages = []struct{ do, what string }{
	{"ip addr flush dev one", "address"},
	{"ip addr del 192.0.2.1/24 dev one", "address"},
	{"ip addr del 2001:db8:1::1/64 dev one", "address"},
	{"ip -6 addr flush dev one scope link", "address"},
	{"ip addr del 2001:db8:1::1/64 dev one; ip addr add 2001:db8:1::1/64 dev one", "address"},
	{"ip route del 192.0.2.0/24 dev one", "route"},
	{"ip -6 route del 2001:db8:1::/64 dev one", "route"},
	{"ip route del 198.51.100.0/24", "route"},
	{"ip -6 route del 2001:db8:2::/64", "route"},
	{"ip route flush proto 66", "route"},
	{"ip route flush dev one", "route"},
	{"ip route add 10.9.9.0/24 via 192.0.2.10 dev one proto 66", "route"},
	{"ip link set one down", "up"},
	{"ip link set one address 52:54:00:5e:00:99", "mac"},
	{"ip link set one mtu 1400", "mtu"},
	{"ip link set one mtu 1000", "mtu"},
	{"ip link set one alias ''", "alias"},
	{"ip link set one type bridge stp_state 1", "stp"},
	{"ip link set one type bridge forward_delay 700", "stp"},
	{"ip link set one down; ip link set one name other; ip link set other up", "name"},
	{"ip link del one", "bridge"},
	{"sysctl -qw net.ipv4.conf.one.forwarding=0", "sysctl"},
	{"sysctl -qw net.ipv6.conf.one.forwarding=0", "sysctl"},
	{"sysctl -qw net.ipv6.conf.one.disable_ipv6=1", "sysctl"},
	{"sysctl -qw net.ipv6.conf.one.accept_ra=2", "sysctl"},
	{"sysctl -qw net.ipv6.conf.one.autoconf=1", "sysctl"},
	{"sysctl -qw net.ipv4.neigh.one.unres_qlen_bytes=99999", "sysctl"},
	{"ip link set PORT nomaster", "master"},
	{"ip link add br9 type bridge; ip link set PORT master br9", "master"},
	{"ip link set PORT down", "up"},
	{"ip link set PORT mtu 1400", "mtu"},
	{"ip link set PORT alias ''", "alias"},
	{"bridge link set dev PORT isolated on", "isolated"},
	{"bridge link set dev PORT learning on", "learning"},
	{"bridge link set dev PORT flood on", "flood"},
	{"ip link set PORT type bridge_slave isolated on", "isolated"},
	{"bridge link set dev PORT state 0", "state"},
	{"bridge fdb del 52:54:00:00:00:07 dev PORT master", "fdb"},
	{"ip link set v-other master one; bridge fdb replace 52:54:00:00:00:07 dev v-other master static", "fdb"},
	{"bridge fdb replace 52:54:00:00:00:07 dev PORT master dynamic", "fdb"},
	{"nft flush ruleset", `cause="rule set flushed"`},
	{"iptables -F LIBVIRT_FWO", `cause="rules deleted"`},
	{"iptables -D FORWARD -j LIBVIRT_FWI", `cause="jump deleted"`},
	{"nft delete table ip vnetd_keep", ""}, // which the kernel refuses
	{"nft flush table ip vnetd_keep", ""},
	{"nft delete chain ip vnetd_keep keep", ""},
}

// TestDamage damages a network in every way while its guest pings the LAN: each is put
// back by one repair, and the guest's pings go on.
func TestDamage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		lan := nstest.NewLAN(t)
		lan.IP("route add 192.0.2.0/24 via " + nstest.Uplink)
		log := new(sealed)
		h := newHub(t, t.TempDir(), hubOptions{log: log})
		n := h.started(damageXML)
		nstest.Guest(t, "one", "other", "")
		guest, port := guestOnPort(t, h, n, "guest")
		nstest.Eventually(t, wait, "the guest reaches the LAN", func() error {
			return guest.Command(t.Context(), "ping", "-c1", "-W1", nstest.LANHost).Run()
		})
		whole, rules := settled(t, n, port), rulesNow(t)
		if !strings.Contains(rules, "flags owner") {
			t.Errorf("the rules are without the table that keeps connections:\n%s", rules)
		}
		pace := newPacer(t)
		for i, d := range damages {
			lines := strings.Split(strings.ReplaceAll(d.do, "PORT", port), ";")
			// Between two commands there may be one on a busy machine.
			repairs, most, said := 1, len(lines), "what="+d.what+"\n"
			switch {
			case d.what == "":
				repairs, most, said = 0, 0, ""
			case strings.HasPrefix(d.what, "cause="):
				said = d.what
			}
			before, logged := h.repairs(n), len(log.String())
			flood := startFlood(t, guest, nstest.LANHost)
			pace.late.Store(0)
			for _, line := range lines {
				if out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput(); err != nil {
					t.Logf("%s: %v: %s", line, err, out)
				}
			}
			nstest.Eventually(t, wait, d.do+" is put back", func() error {
				if diff := cmp.Diff(whole, pictureOf(t, "one", port)) + cmp.Diff(rules, rulesNow(t)); diff != "" {
					return errors.New(diff)
				}
				if h.repairs(n) == before && repairs > 0 {
					return errors.New("no repair is counted")
				}
				return nil
			})
			flood.more(t)
			gap, late := flood.end(), time.Duration(pace.late.Load())
			t.Logf("%2d %s: interrupted for %v on a machine that is up to %v late", i, d.do, gap, late)
			if gap-4*late > 2*time.Second {
				t.Errorf("%s: the guest's pings were interrupted for %v", d.do, gap)
			}
			if text := log.String()[logged:]; !strings.Contains(text, said) {
				t.Errorf("%s: the log does not name %q:\n%s", d.do, d.what, text)
			}
			settled(t, n, port)
			if got := h.repairs(n) - before; got < repairs || got > most {
				t.Errorf("%s: %d repairs, want %d to %d:\n%s", d.do, got, repairs, most, log.String()[logged:])
			}
		}
	})
}

// TestAdditionsStay adds to a network what an admin or another program may add, and
// changes what is theirs: all of it stays, and nothing counts as damage.
func TestAdditionsStay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(strings.Replace(damageXML, " macTableManager='libvirt'", "", 1))
		nstest.Guest(t, "one", "other", "")
		_, port := guestOnPort(t, h, n, "guest")
		tap, _ := libvirtsDevice(t, "vnet77", "one")
		defer func() { _ = tap.Close() }()
		settled(t, n, port)
		for _, add := range []struct{ do, shown, show string }{
			{"ip addr add 192.0.2.7/24 dev one", "192.0.2.7/24", "ip -o addr show dev one"},
			{"ip addr add 10.99.0.1/16 dev one", "10.99.0.1/16", "ip -o addr show dev one"},
			{"ip addr add 2001:db8:99::1/64 dev one nodad", "2001:db8:99::1/64", "ip -o addr show dev one"},
			{"ip route add 10.98.0.0/16 via 192.0.2.10 dev one", "10.98.0.0/16", "ip route show dev one"},
			{"ip link set v-other mtu 1400", "mtu 1400", "ip link show v-other"},
			{"bridge link set dev v-other isolated on", "isolated on", "bridge -d link show dev v-other"},
			{"bridge link set dev vnet77 isolated on learning off", "isolated on", "bridge -d link show dev vnet77"},
			{"bridge link set dev vnet77 learning off", "learning off", "bridge -d link show dev vnet77"},
			{"bridge fdb add 52:54:00:00:00:77 dev v-other master static", "52:54:00:00:00:77", "bridge fdb show br one"},
			{"tc qdisc add dev one root pfifo limit 100", "pfifo", "tc qdisc show dev one"},
			{"tc qdisc add dev PORT root pfifo limit 100", "pfifo", "tc qdisc show dev PORT"},
			{"sysctl -qw net.ipv4.conf.one.proxy_arp=1", "= 1", "sysctl net.ipv4.conf.one.proxy_arp"},
			{"ip link set v-other nomaster", "v-other", "ip -o link show v-other"},
			{"ip link set vnet77 nomaster", "vnet77", "ip -o link show vnet77"},
		} {
			shell(t, strings.ReplaceAll(add.do, "PORT", port))
			settled(t, n, port)
			out := tryExec(t, "sh", "-c", strings.ReplaceAll(add.show, "PORT", port))
			if !strings.Contains(out, add.shown) || strings.HasSuffix(add.do, "nomaster") && strings.Contains(out, "master one") {
				t.Errorf("%s did not stay: %s", add.do, out)
			}
		}
		// What vnetd itself is asked to change is no damage either.
		h.defineWith(strings.Replace(string(n.XML(true)), "<mtu size='1500'/>", "<mtu size='1450'/>", 1), api.DefineOptions{Apply: api.ApplyAll})
		settled(t, n, port)
		if now, err := net.InterfaceByName("one"); err != nil || now.MTU != 1450 {
			t.Errorf("the bridge is %+v (%v), want MTU 1450", now, err)
		}
		if got := repairsOf(n); got != 0 {
			t.Errorf("%d repairs, want none", got)
		}
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("one")
		must(t, err)
		settled(t, n, port)
		if out := tryExec(t, "ip", "-o", "addr", "show", "dev", "one"); !strings.Contains(out, "10.99.0.1/16") || repairsOf(n) != 0 {
			t.Errorf("after a restart of vnetd: %d repairs, %s", repairsOf(n), out)
		}
	})
}

// libvirtsDevice is a TAP device as libvirt makes one, on a bridge.
func libvirtsDevice(t *testing.T, name, bridge string) (*os.File, int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	nstest.IP(t, "link set "+name+" address fe:54:00:00:00:77 master "+bridge+" up")
	l, err := net.InterfaceByName(name)
	must(t, err)
	return os.NewFile(uintptr(fd), name), l.Index
}

// TestOpponent has a program undo a repair 50 times a second: vnetd gives up
// fighting, says so, keeps mending what else there is, and comes back when the other has gone.
func TestOpponent(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		log := new(sealed)
		h := newHub(t, t.TempDir(), hubOptions{log: log})
		n := h.started(damageXML)
		nstest.Guest(t, "one", "other", "")
		_, port := guestOnPort(t, h, n, "guest")
		whole := settled(t, n, port)
		opponent := exec.CommandContext(t.Context(), "sh", "-c", "while sleep 0.02; do ip link set one mtu 1400; done")
		must(t, opponent.Start())
		begin := time.Now()
		c := await(t, n, "network-contended", true)
		if !strings.Contains(c.Evidence, "one: mtu 1500") {
			t.Errorf("the condition is %+v", c)
		}
		if !strings.Contains(log.String(), "somebody keeps undoing repairs") {
			t.Error("the log does not say so")
		}
		before := cpuTime(t)
		shell(t, "ip addr del 192.0.2.1/24 dev one")
		nstest.Eventually(t, wait, "what nobody fights for is mended", func() error {
			if out := tryExec(t, "ip", "-o", "addr", "show", "dev", "one"); !strings.Contains(out, "192.0.2.1/24") {
				return errors.New(out)
			}
			return nil
		})
		time.Sleep(10 * time.Second)
		// Ten at once, then after 1, 2, 4, 8, 16 and 30 seconds, and one of the address.
		if got, most := repairsOf(n), 17+int(time.Since(begin)/(30*time.Second)); got < 10 || got > most {
			t.Errorf("%d repairs within %v, want 10 to %d", got, time.Since(begin), most)
		}
		t.Logf("%v of CPU within 10s", cpuTime(t)-before)
		must(t, opponent.Process.Kill())
		_ = opponent.Wait()
		nstest.Eventually(t, 2*time.Minute, "the last damage is mended", func() error {
			if diff := cmp.Diff(whole, pictureOf(t, "one", port)); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	})
}

// cpuTime is what this process has used of the processors.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
