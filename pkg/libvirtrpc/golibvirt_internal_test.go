package libvirtrpc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestGoLibvirt has go-libvirt, which has an XDR and a protocol of its own, do what
// the Terraform provider does to a network, and what a driver of machines does to a
// port.
func TestGoLibvirt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		l := golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(socketPath)))
		must(t, l.ConnectToURI(connectionURI))
		n, err := l.NetworkDefineXMLFlags(strings.Replace(portNetwork, "</network>",
			"<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.20'/></dhcp></ip></network>", 1), 0)
		must(t, err)
		must(t, l.NetworkSetAutostart(n, 1))
		must(t, l.NetworkCreate(n))
		host := "<host mac='52:54:00:12:34:56' name='one' ip='192.0.2.11'/>"
		must(t, l.NetworkUpdateCompat(n, golibvirt.NetworkUpdateCommandAddLast, golibvirt.NetworkSectionIPDhcpHost, -1, host,
			golibvirt.NetworkUpdateAffectLive|golibvirt.NetworkUpdateAffectConfig))
		for _, flags := range []uint32{0, uint32(golibvirt.NetworkXMLInactive)} {
			xml, err := l.NetworkGetXMLDesc(n, flags)
			must(t, err)
			if !strings.Contains(xml, host) {
				t.Errorf("after the update the document %d is\n%s", flags, xml)
			}
		}
		list, count, err := l.ConnectListAllNetworks(1, golibvirt.ConnectListNetworksActive)
		must(t, err)
		if count != 1 || len(list) != 1 || list[0] != n {
			t.Errorf("%d active networks: %v", count, list)
		}
		leases, _, err := l.NetworkGetDhcpLeases(n, golibvirt.OptString{"52:54:00:12:34:56"}, 1, 0)
		must(t, err)
		if len(leases) != 0 {
			t.Errorf("leases: %v", leases)
		}
		port, err := l.NetworkPortCreateXML(n, strings.Replace(portDoc, "%s", uuid{7}.String(), 1), 0)
		must(t, err)
		full, err := l.NetworkPortGetXMLDesc(port, 0)
		must(t, err)
		if !strings.Contains(full, "<plug type='network' bridge='virbr7'/>") {
			t.Errorf("the port is\n%s", full)
		}
		must(t, l.NetworkPortDelete(port, 0))
		_, err = l.NetworkPortGetXMLDesc(port, 0)
		if e, ok := errors.AsType[golibvirt.Error](err); !ok || e.Code != uint32(codeNoPort) {
			t.Errorf("a port that is gone: %v", err)
		}
		must(t, l.NetworkDestroy(n))
		must(t, l.NetworkUndefine(n))
		if _, err = l.NetworkLookupByName("lab"); !golibvirt.IsNotFound(err) && !strings.Contains(err.Error(), "no network with matching name") {
			t.Errorf("a network that is gone: %v", err)
		}
		must(t, l.Disconnect())
	})
}

// TestDefineBesideABrokenDefinition defines a network by a name whose definition
// can't be read: the error tells of that file, and not of the client's document.
func TestDefineBesideABrokenDefinition(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		path := filepath.Join(root, "networks", "lab.xml")
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte("<network"), 0o600))
		startDaemon(t, root, nil)
		r := opened(t, socketPath)
		doc := func(e *encoder) { e.string("<network><name>lab</name><bridge name='virbr7'/></network>") }
		const text = "operation failed: network/name: network \"lab\" has a definition that can't be used: mend or delete %s, then reload: line 1: not well-formed XML: unexpected EOF"
		for _, procedure := range []int32{40, 41} {
			r.fails(procedure, doc, codeFailed, fmt.Sprintf(text, path))
		}
	})
}
