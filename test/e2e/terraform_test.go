package e2e

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"libvirt.org/go/libvirtxml"

	"github.com/vnetd/vnetd/internal/nstest"
)

// terraform is Terraform's provider for libvirt with one network in its state: the
// calls that it makes, in their order, over the library that it makes them with.
type terraform struct {
	t *testing.T
	*golibvirt.Libvirt
	uuid golibvirt.UUID // of the network
}

// connect does what every run of the provider begins with.
func (tf *terraform) connect(socket, uri string) {
	tf.t.Helper()
	tf.Libvirt = golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(socket)))
	err := tf.ConnectToURI(golibvirt.ConnectURI(uri))
	if err == nil {
		_, err = tf.ConnectGetLibVersion()
	}
	tf.must("connecting", err)
}

func (tf *terraform) must(doing string, err error) {
	tf.t.Helper()
	if err != nil {
		tf.t.Fatalf("%s: %v", doing, err)
	}
}

// lookup finds the network, as every step but the first begins.
func (tf *terraform) lookup() golibvirt.Network {
	tf.t.Helper()
	n, err := tf.NetworkLookupByUUID(tf.uuid)
	tf.must("looking the network up", err)
	return n
}

// define makes a definition of what the configuration says.
func (tf *terraform) define(plan *libvirtxml.Network) golibvirt.Network {
	tf.t.Helper()
	xml, err := plan.Marshal()
	tf.must("writing the network", err)
	n, err := tf.NetworkDefineXML(xml)
	tf.must("defining the network", err)
	tf.uuid = n.UUID
	return n
}

// refreshed reads the network back, twice: both must say what the plan says, so that
// the next run has nothing to do. With flags of 1 it is the definition that is read.
func (tf *terraform) refreshed(when string, plan *libvirtxml.Network, autostart, flags int32) {
	tf.t.Helper()
	var former string
	for range 2 {
		n := tf.lookup()
		text, err := tf.NetworkGetXMLDesc(n, uint32(flags))
		tf.must("reading the network", err)
		starts, err := tf.NetworkGetAutostart(n)
		tf.must("reading the autostart", err)
		var has libvirtxml.Network
		tf.must("understanding the network", has.Unmarshal(text))
		if err := kept("network", reflect.ValueOf(*plan), reflect.ValueOf(has)); err != nil || starts != autostart {
			tf.t.Errorf("%s the next run would change something: %v, autostart %d:\n%s", when, err, starts, text)
		}
		if former != "" && former != text {
			tf.t.Errorf("%s the network was\n%s\nand is\n%s", when, former, text)
		}
		former = text
	}
}

// kept is an error where has lacks what plan has; what plan does not say may be as it
// is.
func kept(path string, plan, has reflect.Value) error {
	switch {
	case plan.IsZero():
		return nil
	case has.IsZero():
		return fmt.Errorf("%s is not there", path)
	}
	switch plan.Kind() {
	case reflect.Pointer:
		return kept(path, plan.Elem(), has.Elem())
	case reflect.Slice:
		if plan.Len() != has.Len() {
			return fmt.Errorf("%s has %d entries, want %d", path, has.Len(), plan.Len())
		}
		for i := range plan.Len() {
			if err := kept(fmt.Sprintf("%s[%d]", path, i), plan.Index(i), has.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		for i := range plan.NumField() {
			name := plan.Type().Field(i).Name
			if name == "XMLName" {
				continue
			}
			if err := kept(path+"."+name, plan.Field(i), has.Field(i)); err != nil {
				return err
			}
		}
		return nil
	}
	if !plan.Equal(has) {
		return fmt.Errorf("%s is %v, want %v", path, has, plan)
	}
	return nil
}

// setAutostart has the network start with the host.
func (tf *terraform) setAutostart(n golibvirt.Network, on int32) {
	tf.t.Helper()
	tf.must("setting the autostart", tf.NetworkSetAutostart(n, on))
}

// active tells whether the network is.
func (tf *terraform) active(n golibvirt.Network) bool {
	tf.t.Helper()
	is, err := tf.NetworkIsActive(n)
	tf.must("asking whether the network is active", err)
	return is == 1
}

// update changes an entry of the network, now and for later. Its error is libvirt's.
func (tf *terraform) update(n golibvirt.Network, command golibvirt.NetworkUpdateCommand, section golibvirt.NetworkUpdateSection, index int32, entry libvirtxml.Document) error {
	tf.t.Helper()
	xml, err := entry.Marshal()
	tf.must("writing an entry", err)
	return tf.NetworkUpdateCompat(n, command, section, index, xml, golibvirt.NetworkUpdateAffectLive|golibvirt.NetworkUpdateAffectConfig)
}

// destroy takes the network away, which then is known to be gone.
func (tf *terraform) destroy() {
	tf.t.Helper()
	n := tf.lookup()
	if tf.active(n) {
		tf.must("stopping the network", tf.NetworkDestroy(n))
	}
	tf.must("undefining the network", tf.NetworkUndefine(n))
	_, err := tf.NetworkLookupByUUID(tf.uuid)
	// The older provider looks at the code, the newer at the words.
	if e, ok := errors.AsType[golibvirt.Error](err); !ok || e.Code != uint32(golibvirt.ErrNoNetwork) || !strings.Contains(e.Message, "Network not found") {
		tf.t.Errorf("a network that is gone: %v", err)
	}
}

// libvirtDaemons are where clients of libvirt may find it: vnetd itself, and a
// virtqemud before it.
var libvirtDaemons = []struct{ name, socket, uri string }{
	{"vnetd", libvirtSocket, "network:///system"},
	{"virtqemud", "/run/libvirt/virtqemud-sock", "qemu:///system"},
}

// TestTerraform holds that what Terraform's provider writes is what it reads, so that
// a second run has nothing to do, and that all that it does in place works: in version
// 0.8.3, and in 0.9, which does it otherwise.
func TestTerraform(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		startForLibvirt(t, l)
		l.StartVirtqemud()
		for _, daemon := range libvirtDaemons {
			for version, run := range map[string]func(*terraform){"0.8.3": (*terraform).runs083, "0.9": (*terraform).runs09} {
				t.Run(daemon.name+" "+version, func(t *testing.T) {
					tf := &terraform{t: t}
					tf.connect(daemon.socket, daemon.uri)
					run(tf)
					if err := tf.Disconnect(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		if n := networks(t); len(n) != 0 {
			t.Errorf("networks are left: %+v", n)
		}
	})
}

// runs083 is what 0.8.3 does: it changes hosts in place, of DNS for its network and of
// DHCP for the domains on it.
func (tf *terraform) runs083() {
	plan := &libvirtxml.Network{
		Name:   "tf",
		Bridge: &libvirtxml.NetworkBridge{STP: "on"},
		Forward: &libvirtxml.NetworkForward{Mode: "nat", NAT: &libvirtxml.NetworkForwardNAT{
			Ports: []libvirtxml.NetworkForwardNATPort{{Start: 1024, End: 65535}},
		}},
		MTU:    &libvirtxml.NetworkMTU{Size: 1400},
		Domain: &libvirtxml.NetworkDomain{Name: "k8s.local", LocalOnly: "yes"},
		DNS: &libvirtxml.NetworkDNS{
			Enable:     "yes",
			Forwarders: []libvirtxml.NetworkDNSForwarder{{Addr: "127.0.0.53"}, {Domain: "my.domain", Addr: "192.0.2.53"}},
			Host:       []libvirtxml.NetworkDNSHost{{IP: "10.17.3.5", Hostnames: []libvirtxml.NetworkDNSHostHostname{{Hostname: "one"}, {Hostname: "uno"}}}},
			SRVs:       []libvirtxml.NetworkDNSSRV{{Service: "etcd-server", Protocol: "tcp", Domain: "k8s.local", Target: "one.k8s.local", Port: 2380, Weight: 10}},
		},
		IPs: []libvirtxml.NetworkIP{{
			Address: "10.17.3.1", Prefix: 24, Family: "ipv4",
			DHCP: &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: "10.17.3.2", End: "10.17.3.254"}}},
		}},
		Routes:         []libvirtxml.NetworkRoute{{Address: "10.18.0.0", Prefix: 16, Gateway: "10.17.3.2"}},
		DnsmasqOptions: &libvirtxml.NetworkDnsmasqOptions{Option: []libvirtxml.NetworkDnsmasqOption{{Value: "address=/apps.k8s.local/10.17.3.9"}}},
	}
	n := tf.define(plan)
	tf.must("starting the network", tf.NetworkCreate(n))
	if !tf.active(n) {
		tf.t.Error("a network that was started is not active")
	}
	tf.setAutostart(n, 1)
	tf.refreshed("after the first run", plan, 1, 0)

	// The configuration has another host: the next run changes it in place.
	const dns, hosts = golibvirt.NetworkSectionDNSHost, golibvirt.NetworkSectionIPDhcpHost
	other := libvirtxml.NetworkDNSHost{IP: "10.17.3.6", Hostnames: []libvirtxml.NetworkDNSHostHostname{{Hostname: "two"}}}
	n = tf.lookup()
	if !tf.active(n) {
		tf.t.Error("the network is not active any more")
	}
	tf.setAutostart(n, 0)
	tf.must("removing a name", tf.update(n, golibvirt.NetworkUpdateCommandDelete, dns, -1, &libvirtxml.NetworkDNSHost{IP: plan.DNS.Host[0].IP}))
	tf.must("adding a name", tf.update(n, golibvirt.NetworkUpdateCommandAddLast, dns, -1, &other))
	plan.DNS.Host[0] = other
	for _, flags := range []int32{0, 1} {
		tf.refreshed("after a change of names", plan, 0, flags)
	}

	// A domain with an address on the network: what can't be modified is added.
	for _, ip := range []string{"10.17.3.7", "10.17.3.8"} {
		host := libvirtxml.NetworkDHCPHost{MAC: "52:54:00:6C:3C:01", Name: "one", IP: ip}
		n = tf.lookup()
		err := tf.update(n, golibvirt.NetworkUpdateCommandModify, hosts, 0, &host)
		if e, ok := errors.AsType[golibvirt.Error](err); ok && e.Code == uint32(golibvirt.ErrOperationInvalid) {
			err = tf.update(n, golibvirt.NetworkUpdateCommandAddLast, hosts, 0, &host)
		}
		tf.must("giving a domain an address", err)
		plan.IPs[0].DHCP.Hosts = []libvirtxml.NetworkDHCPHost{{Name: "one", IP: ip}}
		tf.refreshed("after a domain got an address", plan, 0, 1)
	}
	tf.destroy()
}

// runs09 is what 0.9 does: all but the autostart it changes by making the network
// anew; an import is a refresh.
func (tf *terraform) runs09() {
	plan := &libvirtxml.Network{
		Name:   "tf",
		Bridge: &libvirtxml.NetworkBridge{Name: "virbr42", STP: "off", Delay: "1"},
		Forward: &libvirtxml.NetworkForward{Mode: "nat", NAT: &libvirtxml.NetworkForwardNAT{
			IPv6: "yes", Ports: []libvirtxml.NetworkForwardNATPort{{Start: 2048, End: 32767}},
		}},
		MAC:    &libvirtxml.NetworkMAC{Address: "52:54:00:17:03:00"},
		Domain: &libvirtxml.NetworkDomain{Name: "example.test"},
		DNS: &libvirtxml.NetworkDNS{
			ForwardPlainNames: "no",
			TXTs:              []libvirtxml.NetworkDNSTXT{{Name: "hello", Value: "v=1; some text"}},
			Host:              []libvirtxml.NetworkDNSHost{{IP: "fd17:3::5", Hostnames: []libvirtxml.NetworkDNSHostHostname{{Hostname: "six"}}}},
		},
		PortOptions: &libvirtxml.NetworkPortOptions{Isolated: "no"},
		IPs: []libvirtxml.NetworkIP{
			{Address: "10.17.3.1", Netmask: "255.255.255.0", DHCP: &libvirtxml.NetworkDHCP{
				Ranges: []libvirtxml.NetworkDHCPRange{{Start: "10.17.3.100", End: "10.17.3.199", Lease: &libvirtxml.NetworkDHCPLease{Expiry: 2, Unit: "hours"}}},
				Hosts:  []libvirtxml.NetworkDHCPHost{{MAC: "FC:C2:33:00:6c:3c", Name: "one", IP: "10.17.3.7"}},
			}},
			{Family: "ipv6", Address: "fd17:3::1", Prefix: 64, DHCP: &libvirtxml.NetworkDHCP{
				Ranges: []libvirtxml.NetworkDHCPRange{{Start: "fd17:3::100", End: "fd17:3::1ff"}},
			}},
		},
		PortGroups: []libvirtxml.NetworkPortGroup{{Name: "staff", Default: "yes"}},
	}
	for range 2 { // the second time to replace the first
		n := tf.define(plan)
		tf.setAutostart(n, 1)
		tf.must("starting the network", tf.NetworkCreate(n))
		tf.refreshed("after the first run", plan, 1, 1)
		tf.setAutostart(tf.lookup(), 0)
		tf.refreshed("after a change of the autostart", plan, 0, 1)
		tf.destroy()
		plan.IPs[0].DHCP.Ranges[0].End = "10.17.3.149"
	}
}
