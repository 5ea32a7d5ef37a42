package main

import (
	"context"
	"log/slog"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/backend"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// What firewall_backend may be.
const (
	autoBackend     = "auto"
	iptablesBackend = "iptables"
	nftablesBackend = "nftables"
)

// openFirewall opens the writer of networks' rules that is asked for, and what lists the rules
// of all.
func openFirewall(ctx context.Context, cfg config, log *slog.Logger) (*backend.Writer, *iptables.Observer, error) {
	keeper := new(keep.Keeper) // goes with the process
	tables := iptables.Config{
		ChainPrefix: cfg.ChainPrefix, LibvirtExactRules: cfg.LibvirtExactRules, DockerUserAccept: cfg.DockerUserAccept, Keeper: keeper, Logger: log,
	}
	observer := iptables.Observe(ctx, tables)
	leave := ""
	if cfg.FirewallBackend == autoBackend {
		leave = nftablesBackend
	}
	writer, err := backend.New(ctx, backend.Config{
		Kinds: []backend.Kind{
			{
				Name:   iptablesBackend,
				Open:   func(ctx context.Context) (firewall.Writer, error) { return iptables.New(ctx, tables) },
				Stands: observer.Stands,
				Works:  func(w firewall.Writer) error { return w.(*iptables.Writer).Works() },
			}, {
				Name: nftablesBackend,
				Open: func(context.Context) (firewall.Writer, error) {
					return nft.New(nft.Config{LibvirtExactRules: cfg.LibvirtExactRules, Others: observer, Keeper: keeper, Logger: log}), nil
				},
				Stands: func(context.Context) bool { return nft.Stands() },
			},
		},
		Choose: func(ctx context.Context, networks []firewall.Network) backend.Choice {
			return chooseFirewall(ctx, cfg, observer, networks)
		},
		Leave:  leave,
		Logger: log,
	})
	return writer, observer, err
}

// chooseFirewall says by what rules of networks are written. A packet must pass the
// tables of everybody: where something in iptables drops what guests send, rules that
// stand there before it are the only ones by which it passes.
func chooseFirewall(ctx context.Context, cfg config, observer *iptables.Observer, networks []firewall.Network) backend.Choice {
	if cfg.FirewallBackend != autoBackend {
		return askedFirewall(ctx, cfg.FirewallBackend, observer)
	}
	if cfg.DockerUserAccept {
		return backend.Choice{Name: iptablesBackend, Reason: "docker_user_accept asks for it"}
	}
	if err := nft.Works(); err != nil {
		return backend.Choice{Name: iptablesBackend, Reason: err.Error()}
	}
	if err := observer.Works(ctx); err != nil {
		return backend.Choice{Name: nftablesBackend, Reason: err.Error()}
	}
	obstacle, err := observer.Obstacle(ctx, networks)
	switch {
	case err != nil:
		return backend.Choice{Name: iptablesBackend, Reason: "what is in iptables can't be told", Doubt: err}
	case obstacle != "":
		return backend.Choice{Name: iptablesBackend, Reason: "only rules in iptables stand before " + obstacle}
	}
	return backend.Choice{Name: nftablesBackend, Reason: "nothing in iptables cuts guests off"}
}

// askedFirewall is what the configuration asks for; where the host has no iptables,
// nftables do the same.
func askedFirewall(ctx context.Context, name string, observer *iptables.Observer) backend.Choice {
	if name == iptablesBackend {
		if err := observer.Works(ctx); err != nil && nft.Works() == nil {
			return backend.Choice{Name: nftablesBackend, Reason: err.Error()}
		}
	}
	return backend.Choice{Name: name, Reason: "firewall_backend asks for it"}
}
