package dbusapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/dbusapi"
)

// connectAs joins the bus as a user.
func connectAs(t *testing.T, u nstest.User) *dbus.Conn {
	t.Helper()
	runtime.LockOSThread() // who connects is a matter of the thread
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, math.MaxUint, uintptr(uid), math.MaxUint); errno != 0 {
			t.Fatal(errno)
		}
	}
	become(int(u.UID))
	conn, err := sysbus.Connect(t.Context())
	become(0)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn.Conn
}

// waits has a connection wait for the address of a port n times, without end.
func waits(conn *dbus.Conn, port dbus.ObjectPath, n int) []*dbus.Call {
	calls := make([]*dbus.Call, n)
	for i := range calls {
		calls[i] = conn.Object(name, port).Go(name+".Port.WaitForAddress", 0, make(chan *dbus.Call, 1), uint32(math.MaxUint32))
	}
	return calls
}

// refused counts the calls that have been answered, each of which must say so.
func refused(t *testing.T, calls []*dbus.Call, errName string) (n int) {
	t.Helper()
	for _, c := range calls {
		select {
		case done := <-c.Done:
			c.Done <- done
			if e := (dbus.Error{}); !errors.As(done.Err, &e) || e.Name != errName {
				t.Errorf("a call ended with %v, want %s", done.Err, errName)
			}
			n++
		default:
		}
	}
	return n
}

// waiting counts the calls of WaitForAddress that the server waits in.
func waiting() int {
	stacks := make([]byte, 4<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("dbusapi.(*objects).waitForAddress("))
}

// TestWaitersOfOneUser has one user wait on several connections, and finds so many that no
// more are taken, others not concerned, and nothing left of them when they go.
func TestWaitersOfOneUser(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serve(t)
		var path, port dbus.ObjectPath
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		invoke(t, conn, root, manager+".RequestPort", []any{"one", map[string]dbus.Variant{}}, &port, &fds, &info)
		others := waits(conn, port, 100)
		var hostile []*dbus.Conn
		var calls []*dbus.Call
		for range 6 { // the bus lets no connection have more than 128 calls unanswered
			hostile = append(hostile, connectAs(t, alice))
			calls = append(calls, waits(hostile[len(hostile)-1], port, 100)...)
		}
		const most = 512
		nstest.Eventually(t, wait, "the rest is refused", func() error {
			if n := refused(t, calls, name+".Error.LimitExceeded"); n != len(calls)-most {
				return fmt.Errorf("%d of %d are", n, len(calls))
			}
			return nil
		})
		others = append(others, waits(connectAs(t, carol), port, 10)...)
		invoke(t, conn, root, manager+".ListNetworks", nil, new([]listed))
		if n := refused(t, others, "none"); n > 0 {
			t.Errorf("%d calls of others ended", n)
		}
		for _, c := range hostile {
			must(t, c.Close())
		}
		nstest.Eventually(t, wait, "the calls end with who made them", func() error {
			if n := waiting(); n != len(others) {
				return fmt.Errorf("%d are waited for, want those of others, %d", n, len(others))
			}
			return nil
		})
	})
}

// TestDocumentsOfOneUser has one user ask for plans of the longest documents there are,
// and finds that few are taken at a time and that those are answered.
func TestDocumentsOfOneUser(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serve(t)
		hostile := connectAs(t, alice)
		doc := "<network><name>" + strings.Repeat("x", 3<<20) + "</name></network>"
		var calls []*dbus.Call
		for range 40 {
			calls = append(calls, hostile.Object(name, root).Go(manager+".Plan", 0, make(chan *dbus.Call, 1), doc))
		}
		answered := make(map[string]int)
		for _, c := range calls {
			e := dbus.Error{}
			if done := <-c.Done; !errors.As(done.Err, &e) {
				t.Fatalf("a document of faults: %v", done.Err)
			}
			answered[e.Name]++
			if len(e.Error()) > 50_000 {
				t.Errorf("the error has %d bytes", len(e.Error()))
			}
		}
		if answered[name+".Error.Invalid"] < 2 || answered[name+".Error.LimitExceeded"] < 10 {
			t.Errorf("answers %v, want some of each", answered)
		}
		// What is longer than any document is not even read; the next call is.
		err := hostile.Object(name, root).Call(manager+".Plan", 0, strings.Repeat("x", sysbus.MaxCall)).Err
		if err == nil || !strings.Contains(err.Error(), "bytes of arguments, want at most 8388608") {
			t.Errorf("a call of %d bytes: %v", sysbus.MaxCall, err)
		}
		invoke(t, hostile, root, manager+".ListNetworks", nil, new([]listed))
		invoke(t, conn, root, manager+".ListNetworks", nil, new([]listed))
	})
}

// TestManyGuestsOfOneUser has a user start many guests at once and wait
// for the address of each, and none is refused.
func TestManyGuestsOfOneUser(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serveWith(t, func(cfg *dbusapi.Config) { cfg.PortsPerSecond = 50 }) // as vnetd.toml has it
		invoke(t, conn, root, manager+".CreateNetwork", []any{accessXML}, new(dbus.ObjectPath))
		user := connectAs(t, alice)
		requests := make([]*dbus.Call, 100)
		for i := range requests {
			requests[i] = user.Object(name, root).Go(manager+".RequestPort", 0, make(chan *dbus.Call, 1), "two", map[string]dbus.Variant{})
		}
		var waited []*dbus.Call
		for _, r := range requests {
			var port dbus.ObjectPath
			var fds []dbus.UnixFD
			must(t, (<-r.Done).Store(&port, &fds, new(map[string]dbus.Variant)))
			t.Cleanup(func() { must(t, unix.Close(int(fds[0]))) })
			waited = append(waited, waits(user, port, 1)...)
		}
		nstest.Eventually(t, wait, "all are waited for", func() error {
			if n := waiting(); n != len(waited) {
				return fmt.Errorf("%d are waited for, want %d, refused %d", n, len(waited), refused(t, waited, "none"))
			}
			return nil
		})
	})
}
