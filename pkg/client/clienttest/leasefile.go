package clienttest

import (
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// ExportLeases has a line for each lease of DHCPv4.
func (s networkObject) ExportLeases(msg dbus.Message) (text string, err *dbus.Error) {
	err = s.onNetwork(msg, "ExportLeases", func(n *network) *dbus.Error {
		for _, l := range n.leases {
			if l.Type == 0 {
				text += fmt.Sprintf("%d %s %s * *\n", l.Expiry, l.MAC, l.Address)
			}
		}
		return nil
	})
	return text, err
}

// ImportLeases takes lines of five fields, and refuses those of 192.0.2.66.
func (s networkObject) ImportLeases(msg dbus.Message, text string) (imported uint32, refused []string, err *dbus.Error) {
	err = s.onNetwork(msg, "ImportLeases", func(n *network) *dbus.Error {
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			switch {
			case len(f) != 5:
				return errorf("Invalid", "%q is no lease", strings.TrimSpace(line))
			case f[2] == "192.0.2.66":
				refused = append(refused, f[2]+": address in use")
			default:
				imported++
			}
		}
		return nil
	})
	return imported, refused, err
}
