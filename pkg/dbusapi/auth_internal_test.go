package dbusapi

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/vnetd/vnetd/internal/quota"
)

// TestClientsKeepNoMessage has a client call whose name lies within a message.
func TestClientsKeepNoMessage(t *testing.T) {
	c := clients{users: quota.New(), known: make(map[string]*clientState)}
	message := strings.Repeat("x", 4000) + ":1.42"
	name := message[4000:]
	c.enter(name)
	for known := range c.known {
		if known != name || unsafe.StringData(known) == unsafe.StringData(name) {
			t.Errorf("the client %q is kept with its message", known)
		}
	}
}
