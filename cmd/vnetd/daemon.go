package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bgp"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/dbusapi"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
	"github.com/vnetd/vnetd/pkg/firewall/offload"
	"github.com/vnetd/vnetd/pkg/firewall/overlay"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/announce"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/store"
)

// daemon is what vnetd is made of, before anything runs.
type daemon struct {
	store      *store.Store
	links      *bridge.Bridges
	uplinks    *uplink.Uplinks
	rules      *firewall.Firewall
	offload    *offload.Table
	spans      *overlay.Table
	tunnels    *vxlan.Tunnels
	hostLinks  *hostlink.Links
	guards     *nft.Guards
	neighbours *neighbour.Table
	shaper     *tc.Shaper
	manager    *network.Manager
	hosts      *hosts
	speaker    *bgp.Speaker // nil: nobody is told of networks
}

// build opens the store and the kernel's ends and puts the manager on them.
// sockets is network.Config's.
func build(ctx context.Context, cfg config, sockets service.Sockets, log *slog.Logger) (*daemon, error) {
	st, err := store.Open(cfg.Dirs, log)
	if err != nil {
		return nil, err
	}
	links, err := bridge.New()
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	uplinks, err := uplink.New(links)
	if err != nil {
		links.Close()
		return nil, errors.Join(err, st.Close())
	}
	shaper, err := tc.New()
	if err != nil {
		uplinks.Close()
		links.Close()
		return nil, errors.Join(err, st.Close())
	}
	closeKernel := func() {
		shaper.Close()
		uplinks.Close()
		links.Close()
	}
	writer, observer, err := openFirewall(ctx, cfg, log)
	if err != nil {
		closeKernel()
		return nil, errors.Join(err, st.Close())
	}
	offloaded := offload.New(offload.Config{Default: cfg.FlowOffload, Logger: log})
	spans, tunnels, hostLinks := overlay.New(log), new(vxlan.Tunnels), new(hostlink.Links)
	rules := firewall.New(writer, firewall.Config{Flows: flows.Table{}, Offload: offloaded, Spans: spans, Logger: log})
	guards, neighbours := nft.NewGuards(log), new(neighbour.Table)
	joined, err := joinClusters(cfg, tunnels, log)
	if err != nil {
		closeKernel()
		return nil, errors.Join(err, rules.Close(), guards.Close(), st.Close())
	}
	speaker, err := openBGP(cfg, log)
	if err != nil {
		closeKernel()
		return nil, errors.Join(err, rules.Close(), guards.Close(), joined.close(), st.Close())
	}
	var announcements *announce.Keeper
	if speaker != nil {
		announcements = announce.NewKeeper(speaker)
	}
	m := network.New(network.Config{
		Store: st, Clusters: joined.clusters, Announcements: announcements, Links: links, Uplinks: uplinks, Rules: rules, Tunnels: tunnels, HostLinks: hostLinks, Guards: guards, Neighbours: neighbours, Shaper: shaper, Sockets: sockets, Logger: log,
		Ruleset: observer.Rules, ChainPrefix: observer.Prefix(),
		DHCPIdentity: cfg.DHCPIdentity, DHCPProbe: cfg.DHCPProbe,
		ResolvConf: cfg.ResolvConf, StopRebind: cfg.StopRebind, Hook: cfg.Hook, StartOnDemand: cfg.StartOnDemand, Limits: cfg.PortLimits,
	})
	return &daemon{st, links, uplinks, rules, offloaded, spans, tunnels, hostLinks, guards, neighbours, shaper, m, joined, speaker}, nil
}

// close ends everything and leaves networks as they are.
func (h *daemon) close() error {
	h.manager.Close()
	h.shaper.Close()
	h.tunnels.Close()
	h.hostLinks.Close()
	h.uplinks.Close()
	h.neighbours.Close()
	h.links.Close()
	return errors.Join(h.rules.Close(), h.guards.Close(), h.hosts.close(), h.store.Close())
}

// serve runs the daemon until ctx ends. Networks, ports and rules stay when it
// does: only --cleanup removes them. level is the log's.
func serve(ctx context.Context, cfg config, path string, log *slog.Logger, level *slog.LevelVar) (err error) {
	// From the first moment on: unheeded, the signal would end the process.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	inherited, passed, err := inherit(log)
	if err != nil {
		return err
	}
	defer passed.close()
	h, err := build(ctx, cfg, passed, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	sockets, err := listenLibvirt(cfg, inherited, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(sockets)) }()
	sd := &notifier{systemd: passed.manager, log: log, manager: h.manager}
	reload := func(ctx context.Context) error {
		sd.reloading()
		defer sd.reloaded()
		return reload(ctx, h.manager, path)
	}
	bus, err := dbusapi.Connect(dbusapi.Config{
		Manager: h.manager, Version: programVersion(), Reload: reload, Logger: log, LogLevel: level,
		BridgeACL: cfg.BridgeACL, PortsPerSecond: cfg.PortsPerSecond,
		ImportPending: func() bool { return cfg.LibvirtImport && !h.store.Imported() }, ImportDone: h.store.SetImported,
	})
	if err != nil {
		return err
	}
	var scrapes net.Listener
	if cfg.Metrics != "" {
		if scrapes, err = openMetrics(cfg.Metrics); err != nil {
			return err
		}
	}
	log.Info("vnetd starts", "version", programVersion(), "pid", os.Getpid())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.manager.Watch(ctx) })
	g.Go(func() error { return h.offload.Watch(ctx) })
	g.Go(func() error { return h.spans.Watch(ctx) })
	g.Go(func() error { return onHangup(ctx, hangups, reload, log) })
	g.Go(func() error {
		if err := h.manager.Load(ctx); err != nil {
			return err
		}
		passed.store.Discard()
		g.Go(func() error { return h.manager.Clusters().Run(ctx) })
		g.Go(func() error { network.AnnouncementsOf(h.manager).Run(ctx); return nil })
		g.Go(func() error { keepLeaseFiles(ctx, cfg, h.manager, log); return nil })
		g.Go(func() error { return serveLibvirt(ctx, cfg, sockets, h.manager, log) })
		return bus.Serve(ctx, sd.ready)
	})
	if h.speaker != nil {
		g.Go(func() error { h.speaker.Run(ctx); return nil })
	}
	g.Go(func() error { return sd.watchdog(ctx) })
	if scrapes != nil {
		g.Go(func() error { return serveMetrics(ctx, scrapes, h, log) })
	}
	g.Go(func() error {
		<-ctx.Done()
		sd.tell("STOPPING=1")
		return nil
	})
	err = g.Wait()
	log.Info("vnetd ends: networks stay up")
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// onHangup reloads on each hangup until ctx ends.
func onHangup(ctx context.Context, hangups <-chan os.Signal, reload func(context.Context) error, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
		}
		if err := reload(ctx); err != nil {
			log.Error("reload failed in part", "error", err)
		} else {
			log.Info("reloaded")
		}
	}
}

// reload checks the configuration, whose changes take effect at the next start,
// and has the definitions read again and every active network repaired.
func reload(ctx context.Context, m *network.Manager, path string) error {
	_, err := loadConfig(path)
	return errors.Join(err, m.Reload(ctx))
}

// cleanup removes what a former vnetd left in the kernel. It refuses while one
// is running.
func cleanup(ctx context.Context, cfg config, log *slog.Logger) (err error) {
	announced := cfg
	cfg.Clusters, cfg.BGP = nil, nil // whatever is in their way, networks are taken down
	h, err := build(ctx, cfg, nil, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	withdraw(ctx, announced, log)
	return h.manager.Cleanup(ctx)
}

// check reads and validates every definition without changing anything.
func check(cfg config, w io.Writer) error {
	defs, unusable, err := store.ReadDefinitions(cfg.Dirs)
	faults := []error{err}
	for _, f := range unusable {
		faults = append(faults, f)
	}
	for _, d := range defs {
		if err := d.Network.Validate(); err != nil {
			faults = append(faults, fmt.Errorf("network %q: %w", d.Network.Name, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	fmt.Fprintf(w, "configuration and %d definitions are in order\n", len(defs))
	return nil
}
