package libvirtrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// leaseFiles keeps what libvirt's dnsmasq leaves of leases and guests, for all that
// reads it: the NSS modules libvirt and libvirt_guest, and scripts.
type leaseFiles struct {
	backend Backend
	dir     string
	log     *slog.Logger

	wake chan struct{} // holds a value while there is something to write

	mu    sync.Mutex
	stale map[string]api.Network // by name: whose files are to be written
}

// lookEvery is how often it is looked whether the files are there: libvirtd removes
// those of a bridge with any network of its own that names it.
const lookEvery = 5 * time.Second

// KeepLeaseFiles writes, for each network with a bridge, BRIDGE.status with its
// leases and BRIDGE.macs with the cards of its guests into dir, and again whenever
// they change or somebody has removed them, until ctx ends. Files of networks that are
// gone are removed. What can't be written is logged.
func KeepLeaseFiles(ctx context.Context, b Backend, dir string, log *slog.Logger) {
	f := &leaseFiles{backend: b, dir: dir, log: log, wake: make(chan struct{}, 1), stale: make(map[string]api.Network)}
	defer b.Subscribe(func(e network.Event) { f.note(e.Network) })()
	for _, n := range b.Networks() {
		f.note(n.Info())
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			f.noteLost()
		case <-f.wake:
		}
		for _, info := range f.take() {
			if err := f.write(info); err != nil {
				log.Warn("libvirt's lease files can't be kept", "network", info.Name, "error", err)
			}
		}
	}
}

// note has the files of a network written soon.
func (f *leaseFiles) note(info api.Network) {
	f.mu.Lock()
	f.stale[info.Name] = info
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// noteLost has the files of networks written that lack one.
func (f *leaseFiles) noteLost() {
	for _, n := range f.backend.Networks() {
		info := n.Info()
		for _, path := range f.paths(info) {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				f.note(info)
			}
		}
	}
}

// paths are those of a network's BRIDGE.status and BRIDGE.macs, if it has any.
func (f *leaseFiles) paths(info api.Network) []string {
	if info.Bridge == "" || info.Mode == "bridge" {
		return nil
	}
	base := filepath.Join(f.dir, info.Bridge)
	return []string{base + ".status", base + ".macs"}
}

func (f *leaseFiles) take() map[string]api.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale := f.stale
	f.stale = make(map[string]api.Network)
	return stale
}

// write brings the files of one network up to date.
func (f *leaseFiles) write(info api.Network) error {
	paths := f.paths(info)
	if len(paths) == 0 {
		return nil
	}
	n, err := f.backend.ByName(info.Name)
	if network.KindOf(err) == api.NotFound && err != nil {
		return errors.Join(removed(paths[0]), removed(paths[1]))
	}
	if err != nil {
		return err
	}
	leases, err := n.Leases()
	if err != nil {
		return err
	}
	status := make([]statusEntry, 0, len(leases))
	for _, l := range leases {
		status = append(status, newStatusEntry(l))
	}
	return errors.Join(writeList(paths[0], status), writeList(paths[1], guestMACs(n)))
}

// removed removes a file, if it is there.
func removed(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// statusEntry is a lease in BRIDGE.status, as libvirt's lease helper writes it.
type statusEntry struct {
	IAID     string `json:"iaid,omitempty"`
	Address  string `json:"ip-address"`
	MAC      string `json:"mac-address,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	ClientID string `json:"client-id,omitempty"`
	Expiry   int64  `json:"expiry-time"` // 0: never
}

func newStatusEntry(l network.Lease) statusEntry {
	s := statusEntry{Address: l.Addr.String(), MAC: l.MAC.String(), Hostname: l.Hostname, ClientID: net.HardwareAddr(l.ClientID).String()}
	if !l.Expiry.IsZero() {
		s.Expiry = l.Expiry.Unix()
	}
	if l.Addr.Is6() {
		s.IAID, s.ClientID = fmt.Sprint(l.IAID), net.HardwareAddr(l.DUID).String()
	}
	return s
}

// guest is one in BRIDGE.macs.
type guest struct {
	Domain string   `json:"domain"`
	MACs   []string `json:"macs"`
}

// guestMACs lists the cards of the guests that have ports on n, by guest.
func guestMACs(n Network) []guest {
	var list []guest
	for _, p := range n.PortDocuments() {
		at, known := slices.BinarySearchFunc(list, p.Owner.Name, func(g guest, name string) int { return strings.Compare(g.Domain, name) })
		if !known {
			list = slices.Insert(list, at, guest{Domain: p.Owner.Name})
		}
		if mac := p.MAC.String(); !slices.Contains(list[at].MACs, mac) {
			list[at].MACs = append(list[at].MACs, mac)
		}
	}
	return list
}

// writeList writes a list as libvirt does, readable by everybody. Readers see the
// old file or the new one, whole; a file that would not change is left alone.
func writeList[T any](path string, list []T) (err error) {
	text := []byte("[\n\n]") // as libvirt's printer has it
	if len(list) > 0 {
		if text, err = json.MarshalIndent(list, "", "  "); err != nil {
			return err
		}
	}
	text = append(text, '\n')
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, text) {
		return nil
	}
	const readable = 0o644
	next := path + ".new"
	defer func() {
		if err != nil {
			_ = os.Remove(next)
		}
	}()
	if err := os.WriteFile(next, text, readable); err != nil {
		return err
	}
	// The daemon's umask is not for this file.
	if err := os.Chmod(next, readable); err != nil {
		return err
	}
	return os.Rename(next, path)
}
