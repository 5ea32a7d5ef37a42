package uplink_test

import (
	"encoding/json"
	"flag"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

// soon is how long a test waits for what the kernel does by itself.
const soon = 20 * time.Second

// shown is what ip(8) shows of a link.
type shown struct {
	Index   int      `json:"ifindex"`
	Flags   []string `json:"flags"`
	MTU     int      `json:"mtu"`
	Master  string   `json:"master"`
	Address string   `json:"address"`
	Info    struct {
		Data struct {
			STPState int `json:"stp_state"`
		} `json:"info_data"`
	} `json:"linkinfo"`
}

// show reads a link and its addresses by ip(8).
func show(t *testing.T, link string) shown {
	t.Helper()
	var all []shown
	out := nstest.IP(t, "-d -j addr show dev "+link)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("ip shows of %s: %v: %s", link, err, out)
	}
	return all[0]
}

// exists reports whether there is a link of that name.
func exists(t *testing.T, link string) bool {
	t.Helper()
	for _, line := range strings.Split(nstest.IP(t, "-br link"), "\n") {
		if strings.HasPrefix(line, link+" ") || strings.HasPrefix(line, link+"@") {
			return true
		}
	}
	return false
}

func setSysctl(t *testing.T, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

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

func newBridges(t *testing.T) *bridge.Bridges {
	t.Helper()
	b, err := bridge.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func newUplinks(t *testing.T) *uplink.Uplinks {
	t.Helper()
	u, err := uplink.New(newBridges(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// noForwarding is a host as it is after boot.
func noForwarding(t *testing.T) {
	t.Helper()
	setSysctl(t, "ipv4/ip_forward", "0")
	setSysctl(t, "ipv6/conf/all/forwarding", "0")
}
