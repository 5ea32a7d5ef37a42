package network_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
	"github.com/vnetd/vnetd/pkg/firewall/overlay"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/member"
	"github.com/vnetd/vnetd/pkg/store"
)

// wait bounds everything that should happen soon.
const wait = 30 * time.Second

// hub is a manager with all that is below it, on the namespace of the test.
type hub struct {
	*network.Manager
	t     *testing.T
	dirs  store.Dirs
	store *store.Store
	links *bridge.Bridges
	end   func()

	mu     sync.Mutex
	events []network.Event
}

// hubOptions replace parts of a hub.
type hubOptions struct {
	rules  func(network.Rules) network.Rules // wraps the real one
	bare   bool                              // nothing is loaded
	limits network.Limits

	startOnDemand bool
	hook          string
	resolvConf    string    // empty: the machine's
	log           io.Writer // beside stderr
	unguarded     bool      // ports have no guards: guests of the test pose as others
	sysfs         string    // where virtual functions are; empty: the machine's
	nftables      bool      // rules are written by nftables
	clusters      *member.Clusters
}

// writerOf opens the writer of rules that is asked for.
func writerOf(t *testing.T, opts hubOptions, observer *iptables.Observer, log *slog.Logger) (firewall.Writer, error) {
	if opts.nftables {
		return nft.New(nft.Config{Others: observer, Keeper: new(keep.Keeper), Logger: log}), nil
	}
	return iptables.New(t.Context(), iptables.Config{Logger: log})
}

// newHub starts a hub whose state is below root, as vnetd would; closing it
// leaves networks up, and another newHub on the same root adopts them.
func newHub(t *testing.T, root string, opts hubOptions) *hub {
	t.Helper()
	var out io.Writer = os.Stderr
	if opts.log != nil {
		out = io.MultiWriter(os.Stderr, opts.log)
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := &hub{t: t, dirs: store.Dirs{
		Networks: filepath.Join(root, "networks"), Run: filepath.Join(root, "run"), State: filepath.Join(root, "state"),
	}}
	var err error
	h.store, err = store.Open(h.dirs, log)
	must(t, err)
	h.links, err = bridge.New()
	must(t, err)
	uplinks, err := uplink.New(h.links)
	must(t, err)
	observer := iptables.Observe(t.Context(), iptables.Config{Logger: log})
	writer, err := writerOf(t, opts, observer, log)
	must(t, err)
	spans, tunnels, hostLinks := overlay.New(log), new(vxlan.Tunnels), new(hostlink.Links)
	fw := firewall.New(writer, firewall.Config{Flows: flows.Table{}, Spans: spans, Logger: log})
	rules := network.Rules(fw)
	if opts.rules != nil {
		rules = opts.rules(rules)
	}
	shaper, err := tc.New()
	must(t, err)
	guards, neighbours := nft.NewGuards(log), new(neighbour.Table)
	cfg := network.Config{
		Store: h.store, Links: h.links, Uplinks: uplinks, Rules: rules, Tunnels: tunnels, HostLinks: hostLinks, Guards: guards, Neighbours: neighbours, Shaper: shaper, Logger: log, Clusters: opts.clusters,
		Ruleset: observer.Rules, ChainPrefix: observer.Prefix(),
		StartOnDemand: opts.startOnDemand, Hook: opts.hook, ResolvConf: opts.resolvConf, Limits: opts.limits, SysFS: opts.sysfs,
	}
	if opts.unguarded {
		cfg.Guards = nil
	}
	h.Manager = network.New(cfg)
	cancelEvents := h.Subscribe(h.onEvent)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := h.Watch(ctx); err != nil {
			t.Errorf("watching links: %v", err)
		}
	})
	watching.Go(func() { _ = spans.Watch(ctx) })
	h.end = sync.OnceFunc(func() {
		cancel()
		watching.Wait()
		h.Manager.Close()
		cancelEvents()
		uplinks.Close()
		neighbours.Close()
		shaper.Close()
		tunnels.Close()
		hostLinks.Close()
		h.links.Close()
		must(t, errors.Join(fw.Close(), guards.Close()))
		if err := h.store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	t.Cleanup(h.end)
	if !opts.bare {
		must(t, h.Load(t.Context()))
	}
	return h
}

func (h *hub) onEvent(e network.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// saw reports whether an event of that kind was seen.
func (h *hub) saw(kind network.EventKind) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == kind {
			return true
		}
	}
	return false
}

// define defines a network and returns it.
func (h *hub) define(xml string) *network.Network {
	h.t.Helper()
	n, err := h.Define(h.t.Context(), []byte(xml))
	must(h.t, err)
	return n
}

// defineWith is define with options, and tells what became of the network.
func (h *hub) defineWith(xml string, opts api.DefineOptions) network.Defined {
	h.t.Helper()
	d, err := h.DefineWith(h.t.Context(), []byte(xml), opts)
	must(h.t, err)
	return d
}

// started defines and starts a network.
func (h *hub) started(xml string) *network.Network {
	h.t.Helper()
	n := h.define(xml)
	must(h.t, n.Start(h.t.Context()))
	return n
}

// port requests a port and returns it with its only file.
func (h *hub) port(n *network.Network, opts network.PortOptions) (api.Port, *os.File) {
	h.t.Helper()
	info, files, err := h.Ports().Request(h.t.Context(), n, opts)
	must(h.t, err)
	if len(files) != 1 {
		h.t.Fatalf("a port with one queue came with %d files", len(files))
	}
	return info, files[0]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	nstest.Eventually(t, wait, what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

// natXML is a NAT network; name and bridge are the same.
func natXML(name, subnet string) string {
	return "<network><name>" + name + "</name><forward mode='nat'/><bridge name='" + name + "'/>" +
		"<ip address='" + subnet + ".1' netmask='255.255.255.0'><dhcp><range start='" + subnet + ".2' end='" + subnet + ".254'/>" +
		"<host name='myhost' ip='" + subnet + ".10'/></dhcp></ip></network>"
}

// kernel is what a network may leave behind: links and rules.
func kernel(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	var links []string
	for line := range strings.Lines(nstest.Exec(t, "ip", "-br", "link")) {
		f := strings.Fields(line) // name, state, MAC address, flags
		links = append(links, f[0]+" "+f[2]+"\n")
	}
	slices.Sort(links)
	b.WriteString(strings.Join(links, ""))
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(nstest.Exec(t, tool)) {
			if strings.HasPrefix(line, "-A LIBVIRT_") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// linkExists reports whether there is a link of that name.
func linkExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// master is the name of the bridge that a link is on.
func (h *hub) master(ifname string) string {
	l, err := h.links.Lookup(ifname)
	if err != nil || l.Master == 0 {
		return ""
	}
	m, err := h.links.LookupIndex(l.Master)
	if err != nil {
		return ""
	}
	return m.Name
}
