package network_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// lookup asks the network's DNS for the address of a name.
func lookup(t *testing.T, server, name string) []string {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
	addrs, err := r.LookupHost(t.Context(), name)
	if err != nil {
		return nil
	}
	return addrs
}

// TestRedefineInPlace changes an active network in several steps while a guest
// floods its gateway and the LAN with pings: none may be lost while both the
// document before and the one after allow it.
func TestRedefineInPlace(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		bridge, err := net.InterfaceByName("one")
		must(t, err)
		guest := nstest.Guest(t, "one", "guest", "")
		guest.IP("addr add 192.0.2.77/24 dev eth0")
		guest.IP("route add default via 192.0.2.1")
		nstest.Eventually(t, wait, "the guest reaches the LAN", func() error {
			return guest.Command(t.Context(), "ping", "-c1", "-W1", nstest.LANHost).Run()
		})
		flood := startFlood(t, guest, nstest.LANHost)

		for _, change := range []struct{ old, new string }{
			{"192.0.2.254'/>", "192.0.2.100'/>"},
			{"ip='192.0.2.10'", "ip='192.0.2.20'"},
			{"stp='on' delay='0'/>", "stp='on' delay='3'/><mtu size='1400'/><domain name='vm.example'/>"},
			{"</network>", "<ip family='ipv6' address='2001:db8:1::1' prefix='64'/></network>"},
			{"</network>", "<ip address='198.51.100.1' netmask='255.255.255.0'/></network>"},
			{"<ip address='198.51.100.1' netmask='255.255.255.0'>\n  </ip>", ""},
			{"<forward mode='nat'/>", "<forward mode='nat' dev='eno1'/>"},
		} {
			before := string(n.XML(true))
			after := strings.Replace(before, change.old, change.new, 1)
			if before == after {
				t.Fatalf("%q is not in\n%s", change.old, before)
			}
			h.defineWith(after, api.DefineOptions{Apply: api.ApplyAll})
		}
		flood.stop(t)

		live := string(n.XML(false))
		for _, want := range []string{"192.0.2.100", "192.0.2.20", "1400", "vm.example", "2001:db8:1::1", "dev='eno1'"} {
			if !strings.Contains(live, want) {
				t.Errorf("the live document lacks %s:\n%s", want, live)
			}
		}
		if now, err := net.InterfaceByName("one"); err != nil || now.Index != bridge.Index || now.MTU != 1400 {
			t.Errorf("the bridge is %+v (%v), want index %d and MTU 1400", now, err, bridge.Index)
		}
		if got := lookup(t, "192.0.2.1", "myhost.vm.example"); len(got) != 1 || got[0] != "192.0.2.20" {
			t.Errorf("myhost.vm.example is %v, want 192.0.2.20", got)
		}
		for line := range strings.Lines(kernel(t)) {
			if strings.Contains(line, "MASQUERADE") && !strings.Contains(line, "-o eno1") {
				t.Errorf("a rule of the network as it was is left: %s", line)
			}
		}
	})
}

// flood is a guest that pings all the time.
type flood struct {
	cmd      *exec.Cmd
	mu       sync.Mutex
	rest     []byte // of a line of ping's that is not whole yet
	answered map[int]bool
	last     time.Time     // when the last answer came
	gap      time.Duration // the longest time between two
}

// startFlood has the guest ping an address a hundred times a second, and returns
// when the first answers have come.
func startFlood(t *testing.T, guest *nstest.NS, to string) *flood {
	t.Helper()
	f := &flood{cmd: guest.Command(t.Context(), "ping", "-i", "0.01", to), answered: map[int]bool{}}
	f.cmd.Stdout = f
	must(t, f.cmd.Start())
	f.more(t)
	return f
}

// Write takes what ping prints, a line per answer.
func (f *flood) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = append(f.rest, p...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		f.rest = rest
		var seq int
		_, answer, _ := strings.Cut(string(line), " icmp_seq=")
		if _, err := fmt.Sscanf(answer, "%d ttl=", &seq); err == nil {
			f.answered[seq] = true
			now := time.Now()
			if !f.last.IsZero() {
				f.gap = max(f.gap, now.Sub(f.last))
			}
			f.last = now
		}
	}
}

// more waits for ten more answers.
func (f *flood) more(t *testing.T) {
	t.Helper()
	before := f.answers()
	nstest.Eventually(t, wait, "the pings are answered", func() error {
		if now := f.answers(); now < before+10 {
			return fmt.Errorf("%d answers, then %d", before, now)
		}
		return nil
	})
}

func (f *flood) answers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.answered)
}

// end ends the flood, and returns the longest time between two answers.
func (f *flood) end() time.Duration {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gap
}

// stop ends the flood, after some more pings, and holds that none was lost.
func (f *flood) stop(t *testing.T) {
	t.Helper()
	if lost := f.lost(t); len(lost) > 0 {
		t.Errorf("of %d pings were lost %v", len(f.answered), lost)
	}
}

// lost ends the flood, after some more pings, and tells which of those up to the last that was
// answered were not.
func (f *flood) lost(t *testing.T) (lost []int) {
	t.Helper()
	f.more(t)
	must(t, f.cmd.Process.Kill())
	_ = f.cmd.Wait()
	for seq := range slices.Max(slices.Collect(maps.Keys(f.answered))) {
		if !f.answered[seq+1] {
			lost = append(lost, seq+1)
		}
	}
	return lost
}

// TestRedefineAtOnceRefuses asks for all of what can't be: nothing is changed.
func TestRedefineAtOnceRefuses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		before, rules := string(n.XML(true)), kernel(t)
		for _, args := range []string{
			"link add eth7 type veth peer name eth8", "addr add 198.51.100.1/24 dev eth7", "link set eth7 up", "link set eth8 up",
			"link add two type bridge",
		} {
			nstest.IP(t, args)
		}
		taken := kernel(t)
		for name, tt := range map[string]struct {
			old, new string
			kind     api.Kind
			says     string
		}{
			"bridge of the host": {"bridge name='one'", "bridge name='two'", api.Conflict, "network/bridge/@name"},
			"subnet of a NIC":    {"</network>", "<ip address='198.51.100.7' prefix='24'/></network>", api.Conflict, "eth7"},
		} {
			_, err := h.DefineWith(t.Context(), []byte(strings.Replace(before, tt.old, tt.new, 1)), api.DefineOptions{Apply: api.ApplyAll})
			if network.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want %s that says %s", name, err, tt.kind, tt.says)
			}
		}
		if diff := cmp.Diff(before, string(n.XML(true))); diff != "" {
			t.Errorf("the definition (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(taken, kernel(t)); diff != "" {
			t.Errorf("links and rules (-before +after):\n%s\n%s", diff, rules)
		}
	})
}

func TestStartOnDemand(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{startOnDemand: true})
		n := h.define(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		if h.master(info.IfName) != "one" || !n.Info().Active {
			t.Errorf("after a port was requested: %+v", n.Info())
		}
	})
}

// TestAutostartTriesAgain frees what kept a network from starting.
func TestAutostartTriesAgain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		must(t, h.define(natXML("one", "192.0.2")).SetAutostart(true))
		h.end()
		nstest.IP(t, "link add one type bridge")
		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("one")
		must(t, err)
		if info := n.Info(); info.State != api.Failed || !strings.Contains(info.LastError, "already exists") {
			t.Errorf("with its bridge's name taken the network is %+v", info)
		}
		nstest.IP(t, "link del one")
		until(t, "the network has started", func() bool { return n.Info().State == api.Active })
	})
}

func TestHook(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		hook, log, fail := filepath.Join(dir, "hook"), filepath.Join(dir, "log"), filepath.Join(dir, "fail")
		script := "#!/bin/sh\necho \"$@\" $(grep -c '<name>one</name>') >> " + log +
			"\n[ ! -e " + fail + "-$2 ] || { echo no way >&2; exit 1; }\n"
		must(t, os.WriteFile(hook, []byte(script), 0o755))
		h := newHub(t, t.TempDir(), hubOptions{hook: hook})
		before := kernel(t)
		n := h.started(natXML("one", "192.0.2"))
		h.define(strings.Replace(natXML("one", "192.0.2"), "192.0.2.10", "192.0.2.20", 1))
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		must(t, h.Ports().Release(t.Context(), info.UUID))
		must(t, n.Stop(t.Context()))
		said, err := os.ReadFile(log)
		must(t, err)
		want := "one start begin - 1\none started begin - 1\none updated begin - 1\n" +
			"one port-created begin - 1\none port-deleted begin - 1\none stopped end - 1\n"
		if diff := cmp.Diff(want, string(said)); diff != "" {
			t.Errorf("the hook was called (-want +got):\n%s", diff)
		}
		for _, operation := range []string{"start", "started"} {
			must(t, os.WriteFile(fail+"-"+operation, nil, 0o644))
			if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no way") {
				t.Errorf("start with a hook that fails at %s: %v", operation, err)
			}
			must(t, os.Remove(fail+"-"+operation))
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("starts that a hook refused left (-before +after):\n%s", diff)
		}
	})
}

// TestHookFails: each operation at which the hook fails is a condition with what the hook said,
// until it succeeds at that operation, or there is no such network any more.
func TestHookFails(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		hook := filepath.Join(dir, "hook")
		must(t, os.WriteFile(hook, []byte("#!/bin/sh\n[ ! -e "+dir+"/$2 ] || { echo no way at $2 >&2; exit 3; }\n"), 0o755))
		h := newHub(t, t.TempDir(), hubOptions{hook: hook})
		n := h.define(natXML("one", "192.0.2"))
		failing := func(operations ...string) {
			t.Helper()
			for _, operation := range []string{"start", "started", "port-created", "port-deleted", "stopped"} {
				_ = os.Remove(filepath.Join(dir, operation))
			}
			for _, operation := range operations {
				must(t, os.WriteFile(filepath.Join(dir, operation), nil, 0o644))
			}
		}
		// seen waits until the conditions are about those operations.
		seen := func(operations ...string) {
			t.Helper()
			nstest.Eventually(t, noticed, fmt.Sprintf("the conditions are about %q", operations), func() error {
				all := slices.DeleteFunc(n.Conditions(), func(c api.Condition) bool { return c.Kind != "hook-failed" })
				for _, operation := range operations {
					if !slices.ContainsFunc(all, func(c api.Condition) bool {
						return strings.Contains(c.Message, strconv.Quote(operation)) && strings.Contains(c.Evidence, "no way at "+operation) && strings.Contains(c.Evidence, "exit status 3")
					}) {
						return fmt.Errorf("nothing about %s in %+v", operation, all)
					}
				}
				if len(all) != len(operations) {
					return fmt.Errorf("they are %+v", all)
				}
				return nil
			})
		}
		failing("start")
		if n.Start(t.Context()) == nil {
			t.Error("a network starts that the hook refuses")
		}
		seen("start")
		failing("started")
		if n.Start(t.Context()) == nil {
			t.Error("a network starts that the hook refuses")
		}
		seen("started")
		failing("stopped", "port-deleted")
		must(t, n.Start(t.Context()))
		seen()
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		must(t, h.Ports().Release(t.Context(), info.UUID))
		seen("port-deleted")
		must(t, n.Stop(t.Context()))
		seen("port-deleted", "stopped")
		failing()
		must(t, n.Start(t.Context()))
		seen("port-deleted", "stopped") // the hook has not succeeded at these
		must(t, n.Stop(t.Context()))
		seen("port-deleted")
		must(t, n.Undefine(t.Context()))
		until(t, "nothing is said of a network that is gone", func() bool { return len(h.Conditions()) == 0 })
	})
}

// TestUpdate reserves an address for a guest that has another one.
func TestUpdate(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		add := netdef.Update{
			Command: netdef.CommandAddLast, Section: netdef.SectionIPDHCPHost, Index: -1,
			XML: []byte("<host name='web' ip='192.0.2.80'/>"),
		}
		must(t, n.Update(t.Context(), add, network.TargetCurrent))
		if got := lookup(t, "192.0.2.1", "web"); len(got) != 1 || got[0] != "192.0.2.80" {
			t.Errorf("after a live update web is %v", got)
		}
		if strings.Contains(string(n.XML(true)), "web") {
			t.Error("a live update changed the definition")
		}
		// The definition can be changed, what is live has the entry already.
		if err := n.Update(t.Context(), add, network.TargetLive|network.TargetConfig); network.KindOf(err) != api.Exists {
			t.Errorf("the same update again: %v, want Exists", err)
		}
		if strings.Contains(string(n.XML(true)), "web") {
			t.Error("an update that failed for one document changed the other")
		}
		must(t, n.Update(t.Context(), add, network.TargetConfig))
		must(t, n.Stop(t.Context()))
		must(t, n.Start(t.Context()))
		if got := lookup(t, "192.0.2.1", "web"); len(got) != 1 {
			t.Errorf("after a restart web is %v", got)
		}
		remove := add
		remove.Command = netdef.CommandDelete
		must(t, n.Update(t.Context(), remove, network.TargetLive|network.TargetConfig))
		if got := lookup(t, "192.0.2.1", "web"); got != nil {
			t.Errorf("after its deletion web is %v", got)
		}
		for kind, u := range map[api.Kind]netdef.Update{
			api.NotFound:    remove,
			api.Unsupported: {Command: netdef.CommandModify, Section: netdef.SectionBridge, Index: -1, XML: []byte("<bridge name='x'/>")},
			api.Invalid:     {Command: netdef.CommandAddLast, Section: netdef.SectionIPDHCPHost, Index: -1, XML: []byte("<host")},
		} {
			if err := n.Update(t.Context(), u, network.TargetCurrent); network.KindOf(err) != kind {
				t.Errorf("%+v: %v, want %s", u, err, kind)
			}
		}
	})
}

// TestPortsFollowTheDocument changes how ports are plugged in under a port.
func TestPortsFollowTheDocument(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		mac := net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
		info, f := h.port(n, network.PortOptions{MAC: mac})
		defer f.Close()
		for _, tt := range []struct {
			old, new string
			want     []string
		}{
			{"", "", []string{"isolated off", "learning on", "flood on"}},
			{"<ip address", "<port isolated='yes'/><ip address", []string{"isolated on", "learning on"}},
			{"stp='on' delay='0'/>", "stp='on' delay='0' macTableManager='libvirt'/>", []string{"isolated on", "learning off", "flood off"}},
		} {
			h.defineWith(strings.Replace(string(n.XML(true)), tt.old, tt.new, 1), api.DefineOptions{Apply: api.ApplyAll})
			got := nstest.IP(t, "-d link show "+info.IfName)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("after %q the port is not %q:\n%s", tt.new, want, got)
				}
			}
		}
		if fdb := nstest.Exec(t, "bridge", "fdb", "show", "dev", info.IfName); !strings.Contains(fdb, mac.String()+" master one static") {
			t.Errorf("the guest's address is not in the table:\n%s", fdb)
		}
	})
}
