package libvirtrpc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// What virtqemud sends for an interface of a domain, and what it is told.
const (
	portDoc = `<networkport>
  <uuid>%s</uuid>
  <owner>
    <name>guest</name>
    <uuid>0badcafe-0000-4000-8000-000000000001</uuid>
  </owner>
  <group>staff</group>
  <mac address='52:54:00:12:34:56'/>
</networkport>
`
	portFull = `<networkport>
  <uuid>%s</uuid>
  <owner>
    <name>guest</name>
    <uuid>0badcafe-0000-4000-8000-000000000001</uuid>
  </owner>
  <group>staff</group>
  <mac address='52:54:00:12:34:56'/>
  <bandwidth>
    <inbound average='1000'/>
  </bandwidth>
  <plug type='network' bridge='virbr7'/>
</networkport>
`
	portNetwork = `<network><name>lab</name><uuid>01000000-0000-0000-0000-000000000000</uuid><bridge name='virbr7'/>
		<portgroup name='staff'><bandwidth><inbound average='1000'/></bandwidth></portgroup></network>`
)

// libvirtClient does what virtqemud does, over connections of their own.
type libvirtClient struct {
	*raw
	lab ref
}

func newLibvirtClient(t *testing.T) libvirtClient {
	t.Helper()
	r := opened(t, socketPath)
	return libvirtClient{r, readRef(r.ok(46, func(e *encoder) { e.string("lab") }))}
}

func (c libvirtClient) create(u uuid, flags uint32) {
	c.t.Helper()
	doc := portDoc
	if flags == portReclaim {
		doc = portFull
	}
	c.ok(406, func(e *encoder) { e.ref(c.lab); e.string(fmt.Sprintf(doc, u)); e.uint32(flags) })
}

func (c libvirtClient) about(u uuid, more ...uint32) func(*encoder) {
	return func(e *encoder) {
		e.portRef(portRef{c.lab, u})
		for _, v := range more {
			e.uint32(v)
		}
	}
}

func (c libvirtClient) xml(u uuid) string {
	c.t.Helper()
	c.ok(405, c.about(u))
	return c.ok(409, c.about(u, 0)).string()
}

// makeTAP makes the device of a port as libvirt's QEMU driver does.
func makeTAP(t *testing.T, name string) {
	t.Helper()
	nstest.IP(t, "tuntap add "+name+" mode tap")
	nstest.IP(t, "link set "+name+" address fe:54:00:12:34:56")
	nstest.IP(t, "link set "+name+" master virbr7 up")
}

// ifname waits until the port has a device of that name; empty for none.
func (d *daemon) awaitDevice(t *testing.T, u uuid, name string) {
	t.Helper()
	nstest.Eventually(t, soon, "finding the device", func() error {
		p, err := d.Ports().Find(u.String())
		if err == nil && p.IfName != name {
			err = fmt.Errorf("port %s has the device %q, want %q", u, p.IfName, name)
		}
		return err
	})
}

func (d *daemon) awaitEnd(t *testing.T, u uuid) {
	t.Helper()
	nstest.Eventually(t, 3*soon, "ending the port", func() error {
		if _, err := d.Ports().Find(u.String()); err == nil || network.KindOf(err) != api.NotFound {
			return errors.New("it is still there")
		}
		return nil
	})
}

// TestPortsThatCannotBe asks for ports that libvirt refuses, and wants its codes.
func TestPortsThatCannotBe(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		c := opened(t, socketPath)
		c.ok(41, func(e *encoder) { e.string(portNetwork) })
		lab := func(e *encoder) { e.ref(ref{"lab", uuid{1}}) }
		c.ok(39, lab)
		const id = "<parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>"
		for _, tt := range []struct {
			element string
			code    code
			text    string
		}{
			{"<virtualport type='openvswitch'>" + id + "</virtualport>", codeUnsupported, "unsupported configuration: <virtualport type='openvswitch'> not supported for network 'lab' which uses IP forwarding"},
			{"<virtualport type='midonet'>" + id + "</virtualport>", codeUnsupported, "unsupported configuration: <virtualport type='midonet'> not supported for network 'lab' which uses IP forwarding"},
			{"<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>", codeUnsupported, "unsupported configuration: <virtualport type='802.1Qbh'> not supported for network 'lab' which uses IP forwarding"},
			{"<bandwidth><inbound average='9' floor='5'/></bandwidth>", 84, "Operation not supported: invalid use of 'floor' on interface with MAC address 52:54:00:00:00:2a - network 'lab' has no inbound QoS set"},
		} {
			doc := "<networkport><uuid>0a000000-0000-0000-0000-000000000000</uuid><owner><name>web</name><uuid>0b000000-0000-0000-0000-000000000000</uuid></owner>" +
				"<mac address='52:54:00:00:00:2a'/>" + tt.element + "</networkport>"
			c.fails(406, func(e *encoder) { lab(e); e.string(doc); e.uint32(0) }, tt.code, tt.text)
		}
	})
}

// TestPortsOfLibvirt plays what virtqemud does to a domain's interfaces: start,
// update, restart of either daemon, and stop.
func TestPortsOfLibvirt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		d := startDaemon(t, root, nil)
		c := opened(t, socketPath)
		c.ok(41, func(e *encoder) { e.string(portNetwork) })
		lab := func(e *encoder) { e.ref(ref{"lab", uuid{1}}) }
		first, second := uuid{0xa}, uuid{0xb}
		c.fails(405, func(e *encoder) { lab(e); e.uuid(first) }, codeInvalidState, "Requested operation is not valid: network 'lab' is not active")
		c.ok(39, lab)

		q := newLibvirtClient(t)
		q.fails(406, func(e *encoder) { lab(e); e.string(fmt.Sprintf(portFull, first)); e.uint32(0) }, codeInvalidArg,
			"invalid argument: port '"+first.String()+"' has a plug, which the network is to say")
		q.create(first, 0)
		if got, want := q.xml(first), fmt.Sprintf(portFull, first); got != want {
			t.Errorf("the port is\n%s\nwant\n%s", got, want)
		}
		q.fails(406, func(e *encoder) { lab(e); e.string(fmt.Sprintf(portDoc, first)); e.uint32(0) }, codePortExists,
			"network port "+first.String()+" exists already")
		makeTAP(t, "vnet0")
		d.awaitDevice(t, first, "vnet0")
		if xml := c.ok(43, func(e *encoder) { lab(e); e.uint32(0) }).string(); !strings.HasPrefix(xml, "<network connections='1'>") {
			t.Errorf("the network does not tell of its port:\n%s", xml)
		}

		// domiftune
		q.ok(408, func(e *encoder) {
			e.portRef(portRef{q.lab, first})
			e.uints([]param{{"inbound.average", uint32(77)}, {"outbound.average", uint32(0)}})
			e.uint32(0)
		})
		got := q.ok(407, q.about(first, 7, 0)).params(maxPortParams)
		if len(got) != 7 || got[0] != (param{"inbound.average", uint32(77)}) || got[4] != (param{"outbound.average", uint32(0)}) {
			t.Errorf("limits: %v", got)
		}

		// update-device
		q.create(second, 0)
		q.ok(410, q.about(first, 0))
		q.fails(405, q.about(first), codeNoPort, "network port not found: Network port with UUID "+first.String()+" does not exist")
		d.awaitDevice(t, second, "vnet0")

		// vnetd restarts; virtqemud registers what is not known.
		d.end()
		d = startDaemon(t, root, nil)
		q = newLibvirtClient(t)
		d.awaitDevice(t, second, "vnet0")
		q.create(first, portReclaim)
		d.awaitDevice(t, first, "vnet0")
		if n := len(d.Ports().List()); n != 2 {
			t.Errorf("%d ports, want 2", n)
		}
		q.ok(410, q.about(first, 0))

		// The network goes and comes back under the guest.
		q.ok(42, lab)
		q.ok(39, lab)
		nstest.Eventually(t, soon, "plugging the guest in again", func() error {
			if out := nstest.IP(t, "-o link show dev vnet0"); !strings.Contains(out, "master virbr7") {
				return errors.New(out)
			}
			return nil
		})

		// The guest dies, and whoever should say so has died before.
		nstest.IP(t, "link del vnet0")
		d.awaitEnd(t, second)
	})
}
