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

// TestWaitersOfOneUser has one user wait on two connections, and finds so many that no
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
		first, second := connectAs(t, alice), connectAs(t, alice)
		calls := append(waits(first, port, 50), waits(second, port, 50)...)
		const most = 64
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
		must(t, first.Close())
		must(t, second.Close())
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
