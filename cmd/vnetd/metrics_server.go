package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Limits of the metrics' server.
const (
	headerLimit  = 5 * time.Second
	goodbyeLimit = time.Second
)

// checkListen refuses places to listen at that are neither a socket in the file
// system nor the host alone: metrics name guests, and nobody asks for a password.
func checkListen(listen string) error {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("metrics.listen: %q is no absolute path", path)
		}
		return nil
	}
	if listen == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(listen)
	if err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
		return fmt.Errorf("metrics.listen: %q is no place to listen at, want an address of the host alone with a port as in 127.0.0.1:9753, or unix:/PATH", listen)
	}
	return nil
}

// openMetrics listens where the configuration says.
func openMetrics(listen string) (net.Listener, error) {
	path, ok := strings.CutPrefix(listen, "unix:")
	if !ok {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return nil, fmt.Errorf("listening for metrics: %w", err)
		}
		return l, nil
	}
	// A former vnetd's. Its lock is ours by now.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing a former socket for metrics: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	// For the user and the group that vnetd runs as.
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for metrics: %w", err), l.Close())
	}
	return l, nil
}

// serveMetrics answers scrapes on l until ctx ends.
func serveMetrics(ctx context.Context, l net.Listener, h *daemon, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", newExposition(h.measure, log))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	log.Info("metrics are served", "listen", l.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serving metrics: %w", err)
	case <-ctx.Done():
	}
	// A scrape under way may end; a scraper that hangs is hung up on.
	goodbye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeLimit)
	defer cancel()
	err := errors.Join(srv.Shutdown(goodbye), srv.Close())
	<-served
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		log.Warn("ending the service of metrics", "error", err)
	}
	return nil
}
