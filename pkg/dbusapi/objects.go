package dbusapi

import (
	"context"
	"log/slog"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// Config is what a Server works with. Manager, Version, Reload, ImportPending,
// ImportDone and Logger must be set.
type Config struct {
	Manager *network.Manager
	Version string
	Reload  func(ctx context.Context) error // what the Reload method does
	Logger  *slog.Logger
	// LogLevel is the logger's, which a client may change.
	LogLevel *slog.LevelVar

	// ImportPending reports whether libvirt's networks are to be imported on the first
	// occasion, and ImportDone says that they are.
	ImportPending func() bool
	ImportDone    func() error

	// BridgeACL is QEMU's list of who may use which bridge. Empty: none.
	BridgeACL string
	// PortsPerSecond is how often one user may request a port. 0: no limit.
	PortsPerSecond int
}

// objects answers the methods of everything that is on the bus.
type objects struct {
	cfg     Config
	rights  *rights
	holders *holders
	pace    *pacer
	led     promises
}

// paced refuses a caller who asks for ports and forwards too often.
func (o *objects) paced(ctx context.Context, c *call, what string) error {
	if err := o.rights.identify(ctx, c); err != nil {
		return err
	}
	if !o.pace.allow(c.who.uid) {
		return api.Errorf(api.LimitExceeded, "%s asks for %s too often: %d a second are allowed", c.who, what, o.pace.perSecond)
	}
	return nil
}

// promiseForwards lets a caller, who may have each of them, have forwards until done is called,
// unless they are too many for who may not manage networks. By then they are his.
func (o *objects) promiseForwards(ctx context.Context, c *call, n *network.Network, all []api.ForwardOptions) (done func(), err error) {
	rules, err := o.cfg.Manager.Forwards().Rules(all)
	if err != nil {
		return nil, err
	}
	if c.who.uid == 0 || rules == 0 {
		return func() {}, nil
	}
	done, ok := o.led.make(c.who.uid, rules, func() int {
		return o.cfg.Manager.Forwards().HeldRules(c.who.uid, func(holder string) bool { return o.holders.isOf(holder, c.who.uid) })
	})
	if ok {
		return done, nil
	}
	if err := o.rights.authorize(ctx, c, manageNetworks, n.Name()); err != nil {
		return nil, api.Errorf(api.LimitExceeded, "the forwards of %s would take more than %d rules: each takes one for each of its senders, one to other ports as many for each of its ports; more take who manages networks: %w",
			c.who, maxForwardRules, err)
	}
	return func() {}, nil
}
