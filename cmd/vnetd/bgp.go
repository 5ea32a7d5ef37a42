package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vnetd/vnetd/pkg/bgp"
)

// fileBGP is [bgp] as the admin writes it.
type fileBGP struct {
	AS          int64           `toml:"as"`
	RouterID    string          `toml:"router_id"`
	Listen      []string        `toml:"listen"`
	NextHop     []string        `toml:"next_hop"`
	RestartTime *string         `toml:"restart_time"`
	Neighbours  []fileNeighbour `toml:"neighbour"`
}

// fileNeighbour is a [[bgp.neighbour]] as the admin writes it.
type fileNeighbour struct {
	Address      string  `toml:"address"`
	AS           int64   `toml:"as"`
	PasswordFile string  `toml:"password_file"`
	HoldTime     *string `toml:"hold_time"`
	ConnectRetry *string `toml:"connect_retry"`
	Multihop     *int    `toml:"multihop"`
}

// reading collects what is wrong with values of one table.
type reading struct {
	at     string // before each key
	faults []error
}

func (r *reading) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf(r.at+format, args...))
}

// addr reads an address, invalid for none.
func (r *reading) addr(key, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		r.fault("%s: %q: want an IP address like 192.0.2.1 or 2001:db8::1", key, text)
	}
	return a
}

// addrs reads a list of addresses.
func (r *reading) addrs(key string, texts []string) (all []netip.Addr) {
	for _, text := range texts {
		a := r.addr(key, text)
		if text == "" {
			r.fault("%s: \"\": want an IP address like 192.0.2.1 or 2001:db8::1", key)
		}
		all = append(all, a)
	}
	return all
}

// as reads the number of an autonomous system, 0 for none.
func (r *reading) as(n int64) uint32 {
	if n < 0 || n > 1<<32-1 {
		r.fault("as: %d: want a number from 1 to %d", n, 1<<32-1)
		return 0
	}
	return uint32(n)
}

// duration reads a time, usual where there is none.
func (r *reading) duration(key string, text *string, usual time.Duration) time.Duration {
	if text == nil {
		return usual
	}
	d, err := time.ParseDuration(*text)
	if err != nil {
		r.fault("%s: %q: want a time like %q", key, *text, usual.String())
		return usual
	}
	return d
}

// parseBGP reads [bgp], and says what is wrong with it; nil for none.
func parseBGP(f *fileBGP) (*bgp.Config, []error) {
	if f == nil {
		return nil, nil
	}
	r := &reading{at: "bgp."}
	cfg := &bgp.Config{
		AS: r.as(f.AS), RouterID: r.addr("router_id", f.RouterID), Listen: r.addrs("listen", f.Listen), NextHops: r.addrs("next_hop", f.NextHop),
		Restart: r.duration("restart_time", f.RestartTime, bgp.UsualRestart),
	}
	for i := range f.Neighbours {
		n := &f.Neighbours[i]
		r.at = fmt.Sprintf("bgp.neighbour[%d].", i+1)
		hops := 1
		if n.Multihop != nil {
			hops = *n.Multihop
		}
		if n.PasswordFile != "" && !filepath.IsAbs(n.PasswordFile) {
			r.fault("password_file: %q is not an absolute path", n.PasswordFile)
		}
		cfg.Neighbours = append(cfg.Neighbours, bgp.Neighbour{
			Address: r.addr("address", n.Address), AS: r.as(n.AS), PasswordFile: n.PasswordFile, Hops: hops,
			Hold: r.duration("hold_time", n.HoldTime, bgp.UsualHold), Retry: r.duration("connect_retry", n.ConnectRetry, bgp.UsualRetry),
		})
	}
	if len(r.faults) > 0 {
		return cfg, r.faults // what could not be read would be wrong a second time
	}
	for _, err := range cfg.Check() {
		r.faults = append(r.faults, fmt.Errorf("bgp.%w", err))
	}
	return cfg, r.faults
}

// openBGP makes the speaker of [bgp]; nil where there is none. Nothing runs yet.
func openBGP(cfg config, log *slog.Logger) (*bgp.Speaker, error) {
	if cfg.BGP == nil {
		return nil, nil
	}
	path, err := bgp.Find()
	if err != nil {
		return nil, err
	}
	return bgp.New(*cfg.BGP, path, log), nil
}

// withdrawLimit is how long routers are waited for that are to forget this host's networks.
const withdrawLimit = 15 * time.Second

// withdraw has routers forget the networks of a former vnetd, as far as they are reached.
func withdraw(ctx context.Context, cfg config, log *slog.Logger) {
	s, err := openBGP(cfg, log)
	if err != nil {
		log.Warn("routers keep routes to networks that are gone until the restart time is over", "error", err)
	}
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, withdrawLimit)
	defer cancel()
	if err := s.Withdraw(ctx); err != nil {
		log.Warn("some routers may keep routes to networks that are gone", "error", err)
	}
}
