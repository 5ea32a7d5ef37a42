package host

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// setUpLimit is how long systemd-networkd may take to set up a card that came: it may
	// wait for an answer of DHCP for good.
	setUpLimit = 5 * time.Second

	// setUpPace is how often it is asked meanwhile.
	setUpPace = 200 * time.Millisecond

	// setUpQuiet is how long nothing may have happened for it to be taken at its word: what
	// the kernel tells it takes it a while to read.
	setUpQuiet = 600 * time.Millisecond
)

// arrival is a device, when it was first seen, and what was seen of it since when.
type arrival struct {
	index int
	at    time.Time
	seen  []byte
	since time.Time
}

// unfinished reports whether the uplink came a moment ago and systemd-networkd is setting
// it up: it is looked at again. An address that leaves the card before networkd has set
// the routes that need it leaves the host without them.
func (k *Keeper) unfinished(h *holding) bool {
	name := h.dev
	if h.state != nil {
		k.mu.Lock()
		bridge := h.links[1]
		k.mu.Unlock()
		if bridge == 0 {
			return false // the host's addresses are nowhere
		}
		name, _, _ = k.uplinks.Certain(*h.state)
	}
	l, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	if h.came.index != l.Index {
		h.came = arrival{index: l.Index, at: time.Now()}
	}
	if time.Since(h.came.at) >= setUpLimit || !h.came.setUp(l) {
		return false
	}
	k.again(h, setUpPace)
	return true
}

// links has a file for each link that systemd-networkd knows, from the loopback device on
// (sd_network_link_get_setup_state of systemd's sd-network.h).
const links = "/run/systemd/netif/links/"

// setUp reports whether systemd-networkd says that it is setting up the link, or may do so
// before it says so.
func (a *arrival) setUp(l *net.Interface) bool {
	path := links + strconv.Itoa(l.Index)
	data, err := os.ReadFile(path)
	if err != nil {
		_, err := os.Stat(links + "1")
		return err == nil // it has not heard of the link yet
	}
	switch is := field(data, "ADMIN_STATE"); {
	case is == "pending" || is == "initialized" || is == "configuring":
		return true
	case is == "unmanaged" || field(data, "NETWORK_FILE") == "":
		return false
	}
	seen, _ := os.ReadFile("/sys/class/net/" + l.Name + "/carrier_changes")
	file, err := os.Stat(path)
	if err != nil {
		return true // it is gone again
	}
	seen = file.ModTime().AppendFormat(seen, time.RFC3339Nano)
	switch {
	case a.seen == nil:
		a.seen, a.since = seen, file.ModTime()
	case !bytes.Equal(a.seen, seen):
		a.seen, a.since = seen, time.Now()
	}
	return time.Since(a.since) < setUpQuiet
}

// field is what a file of systemd's says of something, empty where it says nothing.
func field(data []byte, name string) string {
	for line := range strings.Lines(string(data)) {
		if value, is := strings.CutPrefix(line, name+"="); is {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
