package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/api"
)

// What vnetd has on the bus.
const (
	busName = "org.vnetd1"
	treeTop = dbus.ObjectPath("/org/vnetd1")
	objects = "org.freedesktop.DBus.ObjectManager"
)

// treeHolds holds that who walks through vnetd's tree of objects finds those networks and
// ports, and no others.
func treeHolds(ctx context.Context, networks []api.Network, ports []api.Port) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	want := map[string][]string{"network": nil, "port": nil}
	for _, n := range networks {
		want["network"] = append(want["network"], nodeOf(n.UUID))
	}
	for _, p := range ports {
		want["port"] = append(want["port"], nodeOf(p.UUID))
	}
	var errs []error
	for kind, nodes := range want {
		top, err := introspect.Call(conn.Object(busName, treeTop+dbus.ObjectPath("/"+kind)))
		if err != nil {
			return fmt.Errorf("walking through the objects: %w", err)
		}
		var is []string
		for _, c := range top.Children {
			is = append(is, c.Name)
		}
		slices.Sort(is)
		slices.Sort(nodes)
		if diff := cmp.Diff(nodes, is); diff != "" {
			errs = append(errs, fmt.Errorf("the objects of each %s (-by the list +by the tree):\n%s", kind, diff))
		}
	}
	return errors.Join(errs...)
}

// nodeOf is the last element of the path of what has a UUID.
func nodeOf(uuid string) string { return strings.ReplaceAll(uuid, "-", "_") }

// follower knows the objects as a client does that asks once, and listens then.
type follower struct {
	conn *dbus.Conn

	mu    sync.Mutex
	known map[dbus.ObjectPath]bool // guarded by mu
}

// follow returns a follower, which must be closed.
func follow(ctx context.Context) (*follower, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	f := &follower{conn: conn}
	told := make(chan *dbus.Signal, 16)
	conn.Signal(told)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(objects))
	if err == nil {
		f.known, err = f.managed(ctx)
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("following the objects: %w", err)
	}
	go func() {
		for s := range told {
			f.hear(s)
		}
	}()
	return f, nil
}

func (f *follower) close() { _ = f.conn.Close() }

// hear notes what a signal tells.
func (f *follower) hear(s *dbus.Signal) {
	if len(s.Body) == 0 {
		return
	}
	object, _ := s.Body[0].(dbus.ObjectPath)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch s.Name {
	case objects + ".InterfacesAdded":
		f.known[object] = true
	case objects + ".InterfacesRemoved":
		delete(f.known, object)
	}
}

// managed asks for all objects.
func (f *follower) managed(ctx context.Context) (map[dbus.ObjectPath]bool, error) {
	var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	err := f.conn.Object(busName, treeTop).CallWithContext(ctx, objects+".GetManagedObjects", 0).Store(&all)
	known := make(map[dbus.ObjectPath]bool)
	for object := range all {
		known[object] = true
	}
	return known, err
}

// knowsAll holds that what it was told is what there is.
func (f *follower) knowsAll(ctx context.Context) error {
	is, err := f.managed(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(f.known, is); diff != "" {
		return fmt.Errorf("the objects (-as told by signals +as they are):\n%s", diff)
	}
	return nil
}
