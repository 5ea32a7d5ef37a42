package netdef

import (
	"crypto/rand"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
)

// Completion is what Complete can't know by itself.
type Completion struct {
	// Rand is where UUIDs and MAC addresses come from; nil is crypto/rand.
	Rand io.Reader
	// BridgeTaken reports whether a device or another network has that name;
	// nil means that no name is taken.
	BridgeTaken func(name string) bool
}

// maxBridge is the highest number in a bridge name made from a template, as in
// libvirt.
const maxBridge = 256

// Complete fills in what libvirt fills in when a network is defined: a random
// UUID, the forward mode, and for a mode that owns its bridge the bridge's name
// and MAC address. What is there stays. The errors are those of c.Rand, and
// that no bridge name is free; n is then partly filled in.
func (n *Network) Complete(c Completion) error {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if n.UUID == "" {
		u, err := ether.NewUUID(c.Rand)
		if err != nil {
			return fmt.Errorf("making a uuid for network %q: %w", n.Name, err)
		}
		n.UUID = u.String()
	}
	if n.Forward != nil {
		n.Forward.Mode = n.Mode()
	}
	if !n.Mode().OwnsBridge() {
		return nil
	}
	if n.MAC == nil {
		mac, err := ether.NewMAC(c.Rand)
		if err != nil {
			return fmt.Errorf("making a MAC address for network %q: %w", n.Name, err)
		}
		n.MAC = mac
	}
	return n.completeBridge(c.BridgeTaken)
}

// completeBridge names the bridge if it has no name yet.
func (n *Network) completeBridge(taken func(string) bool) error {
	template := n.Bridge.Name
	if template == "" {
		template = "virbr%d"
	}
	if !strings.Contains(template, "%d") {
		return nil
	}
	for i := range maxBridge + 1 {
		name := strings.Replace(template, "%d", strconv.Itoa(i), 1)
		if deviceName(name) != "" {
			break
		}
		if taken == nil || !taken(name) {
			n.Bridge.Name = name
			return nil
		}
	}
	return fmt.Errorf("naming the bridge of network %q: no name like %q is free", n.Name, template)
}
