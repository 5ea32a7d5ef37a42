// Package polkit asks polkit whether somebody may do something.
package polkit

import (
	"context"
	"errors"
	"regexp"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
)

// Subject is who shall be allowed something, as polkit names it.
type Subject struct {
	Kind    string
	Details map[string]dbus.Variant
}

// BusName is the client of the bus with that unique name.
func BusName(name string) Subject {
	return Subject{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(name)}}
}

// Process is a process of a user, began at start, in clock ticks since the machine
// was booted.
func Process(pid uint32, start uint64, uid uint32) Subject {
	return Subject{"unix-process", map[string]dbus.Variant{
		"pid":        dbus.MakeVariant(pid),
		"start-time": dbus.MakeVariant(start),
		"uid":        dbus.MakeVariant(int32(uid)),
	}}
}

// Verdict is polkit's answer.
type Verdict struct {
	Authorized bool
	Challenge  bool // it would be yes with a password
	Details    map[string]string
}

// Check asks, over the system bus, whether subject has the right that polkit knows as
// action. details are for polkit's rules. interact allows polkit to ask the user for a
// password.
func Check(ctx context.Context, bus *sysbus.Conn, subject Subject, action string, details map[string]string, interact bool) (v Verdict, err error) {
	flags := uint32(0)
	if interact {
		flags = 1 // AllowUserInteraction
	}
	err = bus.Object("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority").
		CallWithContext(ctx, "org.freedesktop.PolicyKit1.Authority.CheckAuthorization", 0, subject, action, details, flags, "").Store(&v)
	return v, err
}

// What polkit and the bus say of an action and of a service that are not there.
var (
	notRegistered = regexp.MustCompile(`is not registered`)
	spawnError    = regexp.MustCompile(`^org\.freedesktop\.DBus\.Error\.Spawn\.`)
)

// Absent reports whether an error of Check means that polkit is not there, or not for
// vnetd: its actions are not installed.
func Absent(err error) bool {
	e, ok := errors.AsType[dbus.Error](err)
	switch e.Name {
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return true
	case "org.freedesktop.PolicyKit1.Error.Failed":
		return notRegistered.MatchString(e.Error())
	}
	return ok && spawnError.MatchString(e.Name)
}
