package dbusapi_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
)

// envHostile is how long TestHostileArguments calls, as a duration; a few seconds
// unless set.
const envHostile = "VNETD_HOSTILE"

// TestHostileArguments calls every method that introspection shows, of the manager
// and of whatever networks and ports there are, with values of the right types and
// every kind of content, from several clients at once, and then finds vnetd alive
// and nothing left.
func TestHostileArguments(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		limit := 3 * time.Second
		if text := os.Getenv(envHostile); text != "" {
			var err error
			limit, err = time.ParseDuration(text)
			must(t, err)
		}
		conn := serve(t)
		methods := hostileMethods(t, conn)
		files, routines := openFiles(t), runtime.NumGoroutine()
		end := time.Now().Add(limit)
		var clients sync.WaitGroup
		var calls atomic.Int64
		for n := range 4 {
			h := &hostile{t: t, conn: connect(t), random: rand.New(rand.NewPCG(uint64(n), 1)), methods: methods}
			clients.Go(func() {
				for ; time.Now().Before(end); calls.Add(1) {
					h.call()
				}
			})
		}
		clients.Wait()
		t.Logf("%d calls in %v", calls.Load(), limit)
		var text string
		invoke(t, conn, root, manager+".Describe", nil, &text)
		// The four clients are still connected, each with its own descriptors.
		nstest.Eventually(t, time.Minute, "nothing is left", func() error {
			for path := range managed(t, conn) {
				if strings.Contains(string(path), "/port/") {
					_ = conn.Object(name, path).Call(name+".Port.Release", 0).Err
				} else {
					_ = conn.Object(name, path).Call(name+".Network.Stop", 0).Err
					_ = conn.Object(name, path).Call(name+".Network.Undefine", 0).Err
				}
			}
			if left := managed(t, conn); len(left) > 0 {
				return fmt.Errorf("objects %v", left)
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

// managed are the networks and ports, as the bus shows them.
func managed(t *testing.T, conn *dbus.Conn) map[dbus.ObjectPath]map[string]map[string]dbus.Variant {
	t.Helper()
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	invoke(t, conn, root, "org.freedesktop.DBus.ObjectManager.GetManagedObjects", nil, &objects)
	return objects
}

// hostileMethod is a method, and the types of what it takes.
type hostileMethod struct {
	member string
	args   []string
}

// hostileMethods asks a manager, a network and a port for their methods. The keys
// are the last but one element of such an object's path.
func hostileMethods(t *testing.T, conn *dbus.Conn) map[string][]hostileMethod {
	t.Helper()
	var network, port dbus.ObjectPath
	var fds []dbus.UnixFD
	var info map[string]dbus.Variant
	invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &network)
	invoke(t, conn, root, manager+".RequestPort", []any{"one", map[string]dbus.Variant{}}, &port, &fds, &info)
	methods := make(map[string][]hostileMethod)
	for _, path := range []dbus.ObjectPath{root, network, port} {
		node, err := introspect.Call(conn.Object(name, path))
		must(t, err)
		for _, i := range node.Interfaces {
			for _, m := range i.Methods {
				method := hostileMethod{member: i.Name + "." + m.Name}
				for _, a := range m.Args {
					if a.Direction == "in" {
						method.args = append(method.args, a.Type)
					}
				}
				methods[kind(path)] = append(methods[kind(path)], method)
			}
		}
	}
	sysbus.CloseFDs([]any{fds[0]})
	return methods
}

// kind is what tells paths of networks, ports and the manager apart.
func kind(p dbus.ObjectPath) string { return path.Base(path.Dir(string(p))) }

// hostile is a client that calls anything.
type hostile struct {
	t       *testing.T
	conn    *dbus.Conn
	random  *rand.Rand
	methods map[string][]hostileMethod
}

// call calls some method of some object with values made up. It may fail, but not
// by vnetd's own fault, and only who waits for an address waits.
func (h *hostile) call() {
	objects := managed(h.t, h.conn)
	if len(objects) == 0 {
		_ = h.conn.Object(name, root).Call(manager+".CreateNetwork", 0, natXML).Err
	}
	paths := append(slices.Sorted(maps.Keys(objects)), root)
	path := paths[h.random.IntN(len(paths))]
	all := h.methods[kind(path)]
	method := all[h.random.IntN(len(all))]
	args := make([]any, len(method.args))
	for i, sig := range method.args {
		args[i] = madeUp(h.random, sig)
	}
	waits, limit := strings.HasSuffix(method.member, ".WaitForAddress"), wait
	if waits {
		limit = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	call := h.conn.Object(name, path).CallWithContext(ctx, method.member, 0, args...)
	e, ok := call.Err.(dbus.Error)
	if call.Err != nil && (!ok || strings.HasSuffix(e.Name, ".Internal")) && !(waits && ctx.Err() != nil) {
		h.t.Errorf("%s %s%.300v: %v", path, method.member, args, call.Err)
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
			"name", "aliases", "mac", "ifname", "address", "queues", "vnet_hdr", "isolated", "lifetime", "id", "owner_uid", "owner_uuid", "", "x",
		}
		options := make(map[string]dbus.Variant)
		for range random.IntN(4) {
			options[keys[random.IntN(len(keys))]] = madeUp(random, "v").(dbus.Variant)
		}
		return options
	}
	return dbus.MakeVariant("an unknown type " + sig)
}
