package dbusapi

import (
	"context"
	"log/slog"

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
}
