package libvirtrpc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// virtqemud plays what libvirt's QEMU driver sends to the network driver, call by
// call as recorded of 9.0.0 and 11.3.0: every operation on a domain has connections of
// its own, which it closes.
type virtqemud struct{ t *testing.T }

// connect does what the daemon does before its first call, on behalf of a user of
// virsh.
func (v virtqemud) connect() *raw {
	v.t.Helper()
	r := dial(v.t, socketPath)
	r.ok(66, nil)
	r.ok(60, func(e *encoder) { e.int32(featureKeepalive) })
	r.ok(1, func(e *encoder) { e.optString(nonEmpty(connectionURI)); e.uint32(0) })
	for _, feature := range []int32{14, 15} {
		if !r.ok(60, func(e *encoder) { e.int32(feature) }).flag() {
			v.t.Errorf("feature %d is not there", feature)
		}
	}
	r.ok(419, func(e *encoder) {
		text := func(field, value string) { e.string(field); e.int32(paramString); e.string(value) }
		number := func(field string, value uint64) { e.string(field); e.int32(paramUllong); e.uint64(value) }
		e.uint32(7)
		text("user-name", "root")
		number("unix-user-id", 0)
		text("group-name", "root")
		number("unix-group-id", 0)
		e.string("process-id")
		e.int32(paramLlong)
		e.int64(4711)
		number("process-time", 12345)
		text("system.token", "0123456789abcdef")
		e.uint32(0)
	})
	return r
}

// on is one connection of an operation, with the network looked up.
func (v virtqemud) on(does func(r *raw, lab ref)) {
	v.t.Helper()
	r := v.connect()
	does(r, readRef(r.ok(46, func(e *encoder) { e.string("lab") })))
	r.ok(2, nil)
	r.ended()
}

// xml reads the network's document, for its forward mode and for the address on
// which graphics listen.
func (v virtqemud) xml() (text string) {
	v.t.Helper()
	v.on(func(r *raw, lab ref) {
		text = r.ok(43, func(e *encoder) { e.ref(lab); e.uint32(0) }).string()
	})
	return text
}

// create makes a port of that card, with a plug when it is reclaimed, and reads it.
func (v virtqemud) create(u uuid, card byte, flags uint32) {
	v.t.Helper()
	doc := portDoc
	if flags == portReclaim {
		doc = portFull
	}
	mac := fmt.Sprintf("52:54:00:12:34:%02x", card)
	doc = strings.Replace(fmt.Sprintf(doc, u), "52:54:00:12:34:56", mac, 1)
	v.on(func(r *raw, lab ref) {
		made := readPortRef(r.ok(406, func(e *encoder) { e.ref(lab); e.string(doc); e.uint32(flags) }))
		if made != (portRef{lab, u}) {
			v.t.Errorf("made port %+v, want %s of %+v", made, u, lab)
		}
		want := strings.Replace(fmt.Sprintf(portFull, u), "52:54:00:12:34:56", mac, 1)
		if got := r.ok(409, func(e *encoder) { e.portRef(made); e.uint32(0) }).string(); got != want {
			v.t.Errorf("the port is\n%s\nwant\n%s", got, want)
		}
	})
}

// remove is a domain's stop, an unplugging, and the way back of a failed start.
func (v virtqemud) remove(u uuid) {
	v.t.Helper()
	v.on(func(r *raw, lab ref) {
		p := readPortRef(r.ok(405, func(e *encoder) { e.ref(lab); e.uuid(u) }))
		r.ok(410, func(e *encoder) { e.portRef(p); e.uint32(0) })
	})
}

// restart is what a virtqemud that starts does for each interface of a domain that
// runs: a port that is not found is reclaimed.
func (v virtqemud) restart(u uuid, card byte, known bool) {
	v.t.Helper()
	v.on(func(r *raw, lab ref) {
		m := r.call(405, func(e *encoder) { e.ref(lab); e.uuid(u) })
		if found := m.status == statusOK; found != known {
			v.t.Errorf("port %s is found: %v, want %v", u, found, known)
		}
	})
	if !known {
		v.create(u, card, portReclaim)
	}
}

// TestVirtqemud plays a domain's life: start, hot-plug, update of a device, which
// has two ports of one card for a moment, unplugging, restarts of both daemons with
// and without the memory of ports, and stop.
func TestVirtqemud(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		d := startDaemon(t, root, nil)
		c := opened(t, socketPath)
		c.ok(41, func(e *encoder) { e.string(portNetwork) })
		c.ok(39, func(e *encoder) { e.ref(ref{"lab", uuid{1}}) })
		v := virtqemud{t}
		first, second, third := uuid{0xa}, uuid{0xb}, uuid{0xc}

		if xml := v.xml(); !strings.Contains(xml, "<bridge name='virbr7'") {
			t.Errorf("the network is\n%s", xml)
		}
		v.create(first, 0x56, 0)
		makeTAP(t, "vnet0")
		d.awaitDevice(t, first, "vnet0")

		// hot-plug
		v.create(second, 0x57, 0)
		nstest.IP(t, "tuntap add vnet1 mode tap")
		nstest.IP(t, "link set vnet1 address fe:54:00:12:34:57")
		nstest.IP(t, "link set vnet1 master virbr7 up")
		d.awaitDevice(t, second, "vnet1")

		// update-device
		v.create(third, 0x56, 0)
		v.remove(first)
		d.awaitDevice(t, third, "vnet0")

		// unplug
		nstest.IP(t, "link del vnet1")
		v.remove(second)

		// virtqemud starts anew; then vnetd does; then vnetd without its run-state.
		v.restart(third, 0x56, true)
		d.end()
		d = startDaemon(t, root, nil)
		v.restart(third, 0x56, true)
		d.awaitDevice(t, third, "vnet0")
		c = opened(t, socketPath)
		c.ok(410, func(e *encoder) { e.portRef(portRef{ref{"lab", uuid{1}}, third}); e.uint32(0) })
		v.restart(third, 0x56, false)
		d.awaitDevice(t, third, "vnet0")

		// stop
		nstest.IP(t, "link del vnet0")
		v.remove(third)
		if ports := d.Ports(); len(ports) != 0 {
			t.Errorf("ports are left: %v", ports)
		}
	})
}
