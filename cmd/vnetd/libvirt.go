package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/vnetd/vnetd/pkg/libvirtrpc"
	"github.com/vnetd/vnetd/pkg/network"
)

// adminGroup is the group whose members may do everything where polkit is not
// asked.
const adminGroup = "vnet"

// listenLibvirt makes the sockets on which libvirt's clients are answered, where
// that is configured, or takes those that systemd has made, see
// libvirtrpc.Inherited. That another daemon
// answers there already is told and no error.
func listenLibvirt(cfg config, inherited map[string]*net.UnixListener, log *slog.Logger) ([]libvirtrpc.Socket, error) {
	if cfg.LibvirtSocket == "" {
		return libvirtrpc.Sockets(inherited), nil
	}
	sockets, err := libvirtrpc.Listen(cfg.LibvirtSocket, inherited)
	if errors.Is(err, libvirtrpc.ErrServed) {
		log.Warn("libvirt's clients are not answered: stop the other daemon, then restart this one", "error", err)
		return nil, nil
	}
	return sockets, err
}

// serveLibvirt answers libvirt's clients until ctx ends.
func serveLibvirt(ctx context.Context, cfg config, sockets []libvirtrpc.Socket, m *network.Manager, log *slog.Logger) error {
	if len(sockets) == 0 {
		return nil
	}
	server := libvirtrpc.Config{Backend: libvirtrpc.NewBackend(m), Authorize: libvirtrpc.Members(adminGroup), Logger: log}
	if cfg.LibvirtPolkit {
		server.Authorize = libvirtrpc.Polkit
	}
	return libvirtrpc.NewServer(server).Serve(ctx, sockets)
}

// closeAll closes sockets, which removes those that vnetd has made.
func closeAll(sockets []libvirtrpc.Socket) error {
	var errs []error
	for _, s := range sockets {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// keepLeaseFiles keeps the files in which libvirt's NSS modules look for guests,
// where that is configured, until ctx ends.
func keepLeaseFiles(ctx context.Context, cfg config, m *network.Manager, log *slog.Logger) {
	if cfg.LibvirtLeases != "" {
		libvirtrpc.KeepLeaseFiles(ctx, libvirtrpc.NewBackend(m), cfg.LibvirtLeases, log)
	}
}
