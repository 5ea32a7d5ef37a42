package dbusapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// mayRequest lets the caller have a port on n or returns a Denied error. A
// network's own list and QEMU's are asked before polkit. choosing says that the
// caller wants to say what the port's MAC address, addresses, device name or owner
// are, for which it needs another right.
func (r *rights) mayRequest(ctx context.Context, c *call, n *network.Network, choosing bool) error {
	if err := r.identify(ctx, c); err != nil {
		return err
	}
	if c.who.uid == 0 {
		return nil
	}
	access, ownBridge := n.Access()
	port, choose := grants(access, c.who)
	if !port && ownBridge != "" {
		allowed, err := bridgeAllowed(r.bridgeACL, ownBridge, c.who)
		if err != nil {
			r.log.Warn("QEMU's list of bridges can't be used", "error", err)
		}
		port = allowed && err == nil
	}
	name := n.Info().Name
	if !port {
		if err := r.authorize(ctx, c, requestPort, name); err != nil {
			return api.Errorf(api.Denied, "network %q: %w; its <vnetd:access> can allow it", name, err)
		}
	}
	if choosing && !choose {
		if err := r.authorize(ctx, c, chooseAddress, name); err != nil {
			return api.Errorf(api.Denied, "network %q: %w; choose='yes' in its <vnetd:access> can allow it", name, err)
		}
	}
	return nil
}

// mayChoose reports whether the caller, who may have a port on n, may also say what
// its addresses are, without being asked for a password.
func (r *rights) mayChoose(ctx context.Context, c *call, n *network.Network) bool {
	if c.who.uid == 0 {
		return true
	}
	access, _ := n.Access()
	if _, choose := grants(access, c.who); choose {
		return true
	}
	quiet := *c
	quiet.interactive = false
	return r.authorize(ctx, &quiet, chooseAddress, n.Info().Name) == nil
}

// grants tells what a network's <vnetd:access> gives to a client: ports, and the
// choice of their addresses.
func grants(a *netdef.Access, who credentials) (port, choose bool) {
	if a == nil {
		return false, false
	}
	for _, u := range a.Users {
		if who.is(u.Name) {
			port, choose = true, choose || u.Choose
		}
	}
	for _, g := range a.Groups {
		if who.inGroup(g.Name) {
			port, choose = true, choose || g.Choose
		}
	}
	return port, choose
}

// maxIncludes bounds how deep files of QEMU's list include each other.
const maxIncludes = 8

// bridgeAllowed reports whether QEMU's list of bridges at path lets the client use a
// bridge: some line allows it and none denies it. As with QEMU's own helper, which
// reads the list with its caller's rights, a file that the client can't read is
// not there. A path that is empty allows nothing.
func bridgeAllowed(path, bridge string, who credentials) (bool, error) {
	if path == "" {
		return false, nil
	}
	var l bridgeList
	if err := l.read(path, who, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return l.matches(l.allow, bridge) && !l.matches(l.deny, bridge), nil
}

// bridgeList is what QEMU's list says.
type bridgeList struct{ allow, deny []string }

func (l *bridgeList) matches(list []string, bridge string) bool {
	return slices.Contains(list, bridge) || slices.Contains(list, "all")
}

// read adds a file's lines: "allow NAME", "deny NAME", "include PATH", where a
// NAME may be all, and # begins a comment. A word that is none of these makes the
// list unusable.
func (l *bridgeList) read(path string, who credentials, depth int) error {
	if depth > maxIncludes {
		return fmt.Errorf("reading %s: files include each other more than %d deep", path, maxIncludes)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if !who.mayRead(f) {
		return fmt.Errorf("%s: %w for %s", path, os.ErrNotExist, who)
	}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		switch {
		case len(words) == 0:
		case len(words) == 2 && words[0] == "allow":
			l.allow = append(l.allow, words[1])
		case len(words) == 2 && words[0] == "deny":
			l.deny = append(l.deny, words[1])
		case len(words) == 2 && words[0] == "include":
			if err := l.read(words[1], who, depth+1); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		default:
			return fmt.Errorf("%s line %d: %q is not allow, deny or include with one name", path, n, strings.TrimSpace(text))
		}
	}
	return lines.Err()
}

// mayRead reports whether the file's permissions let the client read it.
func (c credentials) mayRead(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.Mode().IsRegular():
		return false
	case c.uid == 0:
		return true
	case st.Uid == c.uid:
		return info.Mode()&0o400 != 0
	case slices.Contains(c.groups, st.Gid):
		return info.Mode()&0o040 != 0
	default:
		return info.Mode()&0o004 != 0
	}
}

// mayForward lets the caller have a forward or returns a Denied error. It opens the host
// to others, past what its firewall says of the host itself, unless it is for a loopback
// address and a port at which every user may listen.
func (r *rights) mayForward(ctx context.Context, c *call, n *network.Network, opts api.ForwardOptions) error {
	const privileged = 1024
	at, err := netip.ParseAddr(opts.Address)
	var first int
	_, scanned := fmt.Sscanf(opts.Ports, "%d", &first)
	ends := opts.Lifetime == api.LifetimePort || opts.Lifetime == api.LifetimeBus
	if ends && err == nil && at.IsLoopback() && scanned == nil && first >= privileged {
		return r.mayRequest(ctx, c, n, false)
	}
	if err := r.authorize(ctx, c, manageNetworks, n.Name()); err != nil {
		return api.Errorf(api.Denied, "%w; who may have ports may have forwards that end with them at 127.0.0.1 and ::1, from port %d on", err, privileged)
	}
	return nil
}

// forwardOptions reads the options of AddForward. One that is not known, or not of its type,
// is an error.
func forwardOptions(options map[string]dbus.Variant) (o api.ForwardOptions, err error) {
	known := map[string]any{
		"protocol": &o.Protocol, "ports": &o.Ports, "address": &o.Address, "to": &o.To, "to_port": &o.ToPort, "from": &o.From, "lifetime": &o.Lifetime,
	}
	for key, v := range options {
		into, ok := known[key]
		if !ok {
			return o, api.Errorf(api.Invalid, "option %.80q is not known: want protocol, ports, address, to, to_port, from or lifetime", key)
		}
		if err := v.Store(into); err != nil {
			return o, api.Errorf(api.Invalid, "option %s: type %s is not what it takes", key, v.Signature())
		}
	}
	return o, nil
}
