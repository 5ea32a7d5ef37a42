package bridge_test

import (
	"encoding/json"
	"flag"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"golang.org/x/sys/unix"
)

// TestMain runs more tests at a time than there are processors: most of the time
// they wait for timers of the kernel.
func TestMain(m *testing.M) {
	flag.Parse()
	parallel := flag.Lookup("test.parallel").Value
	if parallel.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // nobody asked for another number
		_ = parallel.Set("8")
	}
	os.Exit(m.Run())
}

const (
	name = "virbr0"
	mac  = "52:54:00:5e:00:01"
)

// shown is what ip(8) shows of a link.
type shown struct {
	Index     int      `json:"ifindex"`
	Name      string   `json:"ifname"`
	Flags     []string `json:"flags"`
	MTU       int      `json:"mtu"`
	Master    string   `json:"master"`
	OperState string   `json:"operstate"`
	Address   string   `json:"address"`
	Info      struct {
		Kind string `json:"info_kind"`
		Data struct {
			ForwardDelay int `json:"forward_delay"`
			STPState     int `json:"stp_state"`
		} `json:"info_data"`
		Slave struct {
			State    string `json:"state"`
			Isolated bool   `json:"isolated"`
			Learning bool   `json:"learning"`
			Flood    bool   `json:"flood"`
		} `json:"info_slave_data"`
	} `json:"linkinfo"`
	Addrs []shownAddr `json:"addr_info"`
}

type shownAddr struct {
	Local     string `json:"local"`
	Bits      int    `json:"prefixlen"`
	Broadcast string `json:"broadcast"`
	Scope     string `json:"scope"`
	NoDAD     bool   `json:"nodad"`
}

// show reads a link and its addresses by ip(8).
func show(t testing.TB, link string) shown {
	t.Helper()
	var all []shown
	out := nstest.IP(t, "-d -j addr show dev "+link)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("ip shows of %s: %v: %s", link, err, out)
	}
	return all[0]
}

// exists reports whether there is a link of that name.
func exists(t testing.TB, link string) bool {
	t.Helper()
	for _, line := range strings.Split(nstest.IP(t, "-br link"), "\n") {
		if strings.HasPrefix(line, link+" ") || strings.HasPrefix(line, link+"@") {
			return true
		}
	}
	return false
}

func newBridges(t testing.TB) *bridge.Bridges {
	t.Helper()
	b, err := bridge.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func ensure(t testing.TB, b *bridge.Bridges, cfg bridge.Config) int {
	t.Helper()
	index, err := b.Ensure(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func attach(t testing.TB, b *bridge.Bridges, br, port int, p bridge.PortConfig) {
	t.Helper()
	if err := b.Attach(t.Context(), br, port, p); err != nil {
		t.Fatal(err)
	}
}

// defaultConfig is libvirt's network "default", with an IPv6 address.
func defaultConfig() bridge.Config {
	return bridge.Config{
		Name:  name,
		MAC:   parseMAC(mac),
		STP:   true,
		Addrs: prefixes("192.168.122.1/24", "2001:db8:122::1/64"),
	}
}

func parseMAC(s string) net.HardwareAddr {
	a, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return a
}

func prefixes(all ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range all {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// openTAP makes a TAP device that goes when the file is closed, and returns its
// index.
func openTAP(t testing.TB, tapName string) (*os.File, int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(tapName)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), tapName)
	t.Cleanup(func() { _ = f.Close() })
	ifi, err := net.InterfaceByName(tapName)
	if err != nil {
		t.Fatal(err)
	}
	return f, ifi.Index
}

// sysctl reads a value under /proc/sys/net.
func sysctl(t testing.TB, key string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/net/" + key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func setSysctl(t testing.TB, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// soon is how long a test waits for what the kernel does by itself.
const soon = 20 * time.Second
