package dbusapi_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
)

// hostileRounds is how often every method is called with values made up.
const hostileRounds = 10

// TestHostileArguments calls every method that introspection shows with values of
// the right types and every kind of content, from several clients at once, and
// then finds vnetd alive and nothing left.
func TestHostileArguments(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var netPath, portPath dbus.ObjectPath
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &netPath)
		options := map[string]dbus.Variant{"lifetime": dbus.MakeVariant("persistent")}
		invoke(t, conn, root, manager+".RequestPort", []any{"one", options}, &portPath, &fds, &info)
		for _, fd := range fds {
			sysbus.CloseFDs([]any{[]dbus.UnixFD{fd}})
		}
		targets := hostileTargets(t, conn, root, netPath, portPath)
		files, routines := openFiles(t), runtime.NumGoroutine()
		var clients sync.WaitGroup
		for n := range 4 {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			c := connect(t)
			clients.Go(func() {
				for range hostileRounds {
					for _, target := range targets {
						target.call(t, c, random)
					}
				}
			})
		}
		clients.Wait()
		var text string
		invoke(t, conn, root, manager+".Describe", nil, &text)
		invoke(t, conn, portPath, name+".Port.Release", nil)
		// The four clients are still connected, each with its own descriptors.
		nstest.Eventually(t, time.Minute, "nothing is left", func() error {
			var ports []listed
			invoke(t, conn, root, manager+".ListPorts", nil, &ports)
			for _, p := range ports {
				invoke(t, conn, p.Path, name+".Port.Release", nil)
			}
			if now := openFiles(t); now > files+4*4 {
				return cmpError(files, now)
			}
			if now := runtime.NumGoroutine(); now > routines+4*8 {
				return cmpError(routines, now)
			}
			return nil
		})
	})
}

// hostileTarget is a method, and the types of what it takes.
type hostileTarget struct {
	path   dbus.ObjectPath
	member string
	args   []string
}

// hostileTargets lists the methods of objects, but for those that end what the
// others are called on, or wait.
func hostileTargets(t *testing.T, conn *dbus.Conn, paths ...dbus.ObjectPath) []hostileTarget {
	t.Helper()
	var targets []hostileTarget
	for _, path := range paths {
		node, err := introspect.Call(conn.Object(name, path))
		must(t, err)
		for _, i := range node.Interfaces {
			for _, m := range i.Methods {
				if strings.Contains("Release Stop Undefine WaitForAddress", m.Name) {
					continue
				}
				target := hostileTarget{path: path, member: i.Name + "." + m.Name}
				for _, a := range m.Args {
					if a.Direction == "in" {
						target.args = append(target.args, a.Type)
					}
				}
				targets = append(targets, target)
			}
		}
	}
	return targets
}

// call calls the method with values made up. It may fail, but not by vnetd's own
// fault.
func (h hostileTarget) call(t *testing.T, c *dbus.Conn, random *rand.Rand) {
	args := make([]any, len(h.args))
	for i, sig := range h.args {
		args[i] = madeUp(random, sig)
	}
	call := c.Object(name, h.path).Call(h.member, 0, args...)
	if e, ok := call.Err.(dbus.Error); call.Err != nil && (!ok || strings.HasSuffix(e.Name, ".Internal")) {
		t.Errorf("%s%v: %v", h.member, args, call.Err)
	}
	sysbus.CloseFDs(call.Body)
}

// madeUp is a value of the type with that signature.
func madeUp(random *rand.Rand, sig string) any {
	texts := []string{
		"", "one", "x", "../../etc/passwd", "%n%s", "\u202e\u0001\n\t", strings.Repeat("a", 70000), "org.vnetd1.Network", "LogLevel",
		natXML, "<network>", strings.Repeat("<a>", 1000), "<network><name>&#0;</name></network>", "52:54:00:00:00:01", "-1",
	}
	switch sig {
	case "s":
		return texts[random.IntN(len(texts))]
	case "u":
		return []uint32{0, 1, 2, 3, 4, 1 << 16, math.MaxUint32}[random.IntN(7)]
	case "i":
		return []int32{0, 1, -1, math.MinInt32, math.MaxInt32}[random.IntN(5)]
	case "b":
		return random.IntN(2) == 0
	case "v":
		return dbus.MakeVariant(madeUp(random, []string{"s", "u", "i", "b", "as", "a{sv}"}[random.IntN(6)]))
	case "as":
		list := make([]string, random.IntN(4))
		for i := range list {
			list[i] = texts[random.IntN(len(texts))]
		}
		return list
	case "a{sv}":
		keys := []string{
			"name", "mac", "ifname", "address", "queues", "vnet_hdr", "isolated", "lifetime", "id", "owner_uid", "owner_uuid", "", "x",
		}
		options := make(map[string]dbus.Variant)
		for range random.IntN(4) {
			options[keys[random.IntN(len(keys))]] = madeUp(random, "v").(dbus.Variant)
		}
		return options
	}
	return dbus.MakeVariant("an unknown type " + sig)
}
