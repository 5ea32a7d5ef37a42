package sysbus

import (
	"bytes"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// Signals are what the bus library makes of the same values.
func TestSignals(t *testing.T) {
	type values struct {
		Name string
		At   int64
		Kind int32
		Size uint32
	}
	const path, iface = "/org/vnetd/network/a", "org.vnetd.Network"
	var s Signals
	all := []values{{"a", -5, -1, 7}, {"", 1 << 40, 1, 1 << 31}, {"longer", 0, 0, 0}, {"bad\xff", 1, 1, 1}, {"bad\x00", 1, 1, 1}}
	for _, v := range all {
		s.Add(path, iface+".Happened", "s(sxiu)")
		s.Text([]byte("bound"))
		s.Struct()
		s.String(v.Name)
		s.Int64(v.At)
		s.Uint32(uint32(v.Kind))
		s.Uint32(v.Size)
		s.End()
	}
	all[3].Name, all[4].Name = "", ""
	r := bytes.NewReader(s.messages)
	for i, v := range all {
		got, err := dbus.DecodeMessage(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.IsValid(); err != nil {
			t.Errorf("signal %d: %v", i, err)
		}
		headers := map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath(path)), dbus.FieldInterface: dbus.MakeVariant(iface),
			dbus.FieldMember: dbus.MakeVariant("Happened"), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("", v)),
		}
		if diff := cmp.Diff(headers, got.Headers, cmp.Comparer(func(a, b dbus.Variant) bool { return a.String() == b.String() })); diff != "" {
			t.Errorf("headers of signal %d (-want +got):\n%s", i, diff)
		}
		var what string
		var have values
		if err := dbus.Store(got.Body, &what, &have); err != nil || what != "bound" || have != v {
			t.Errorf("signal %d has %q %+v (%v), want bound %+v", i, what, have, err, v)
		}
		if want := uint32(1<<31 + i + 1); got.Serial() != want {
			t.Errorf("signal %d has the serial %d, want %d", i, got.Serial(), want)
		}
	}
	if r.Len() != 0 {
		t.Errorf("%d bytes are left", r.Len())
	}
}
