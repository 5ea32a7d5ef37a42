package main

import (
	"fmt"
	"os"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// vnetdHost is vnetd with its defaults but for the place of its files.
type vnetdHost struct {
	b      *bench
	dir    string
	daemon *nstest.Vnetd
	conns  []*client.Client
}

func openVnetd(b *bench, dir string) host {
	b.write("/etc/vnetd/vnetd.toml", fmt.Sprintf("state_dir = %q\nnetworks_dir = %q\n", stateDir(dir), networksDir(dir)))
	h := &vnetdHost{b: b, dir: dir, conns: dialMany(b)}
	b.Cleanup(h.remove)
	return h
}

// remove takes down all that the daemon made.
func (h *vnetdHost) remove() {
	if h.daemon != nil {
		h.daemon.Kill()
	}
	removeNetworks(h.b)
	_ = os.RemoveAll("/run/vnetd")
}

func (h *vnetdHost) definitions() string { return networksDir(h.dir) }

func (h *vnetdHost) launch() { h.daemon = h.b.lab.StartVnetd() }

func (h *vnetdHost) halt() {
	if err := h.daemon.Stop(h.b.Context()); err != nil {
		h.b.Fatalf("%w", err)
	}
}

func (h *vnetdHost) start(first, count int) error {
	for n := first; n < first+count; n++ {
		if err := h.startOne(n); err != nil {
			return err
		}
	}
	return nil
}

func (h *vnetdHost) active() (int, error) {
	networks, err := h.conns[0].Networks(h.b.Context())
	n := 0
	for _, network := range networks {
		if network.Active {
			n++
		}
	}
	return n, err
}

func (h *vnetdHost) usage() usage { return server{comm: "vnetd"}.usage(h.b) }

// network is the n-th one, over one of the connections.
func (h *vnetdHost) network(n int) client.Network {
	return h.conns[n%len(h.conns)].Network(fmt.Sprintf("net%d", n))
}
