package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// Where libvirt's network driver keeps what it knows.
const (
	NetworksDir = "/etc/libvirt/qemu/networks"
	RunDir      = "/run/libvirt/network"
	DnsmasqDir  = "/var/lib/libvirt/dnsmasq"

	autostartDir = NetworksDir + "/autostart"
)

// files are those of a host, below the directory that stands before every path.
type files string

func (f files) path(path string) string { return filepath.Join("/", string(f), path) }

// network is a network by its files.
type network struct {
	name string // of the files
	file string // the one to name for it
	api.Takeover
}

// networks reads the networks of a libvirt that ran on the host, in order of
// name, without those that mirror vnetd's. Files that are not there are no error:
// there are no networks then.
func (f files) networks() ([]network, error) {
	found := make(map[string]*network)
	for _, dir := range []string{NetworksDir, RunDir} {
		texts, err := f.documents(dir)
		if err != nil {
			return nil, err
		}
		for name, text := range texts {
			n := found[name]
			if n == nil {
				n = &network{name: name, file: filepath.Join(dir, name+".xml")}
				found[name] = n
			}
			if dir == NetworksDir {
				n.Definition = text
			} else {
				n.Status = text
			}
		}
	}
	var all []network
	for _, name := range slices.Sorted(maps.Keys(found)) {
		n := found[name]
		if isMirror(n.Definition) || isMirror(n.Status) {
			continue
		}
		n.Autostart = f.isLink(filepath.Join(autostartDir, name+".xml"))
		ports, err := f.documents(filepath.Join(RunDir, name, "ports"))
		if err != nil {
			return nil, err
		}
		for _, uuid := range slices.Sorted(maps.Keys(ports)) {
			n.Ports = append(n.Ports, ports[uuid])
		}
		all = append(all, *n)
	}
	return all, nil
}

// isMirror reports whether a document of libvirt's, a network or the status of one, is
// that of a network which stands for one of vnetd's.
func isMirror(text string) bool {
	type marked struct {
		Metadata *mirrorMetadata `xml:"metadata"`
	}
	var doc struct {
		marked
		Network marked `xml:"network"`
	}
	// What can't be read is none, and refused by vnetd.
	_ = xml.Unmarshal([]byte(text), &doc)
	for _, m := range []marked{doc.marked, doc.Network} {
		if m.Metadata != nil && m.Metadata.Mark != nil {
			return true
		}
	}
	return false
}

// documents reads the XML files of a directory, by name without the ending.
func (f files) documents(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(f.path(dir))
	if err != nil {
		return nil, readable(err)
	}
	texts := make(map[string]string)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".xml")
		if !ok || e.IsDir() || name == "" {
			continue
		}
		text, err := os.ReadFile(f.path(filepath.Join(dir, e.Name())))
		if err := readable(err); err != nil {
			return nil, err
		}
		texts[name] = string(text)
	}
	return texts, nil
}

// readable is err of reading what need not be there, and says who may.
func readable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &client.Error{Kind: api.Denied, Message: fmt.Sprintf("%v: libvirt's files are for root alone", err)}
	}
	return err
}

// isLink reports whether anything of that name is there, were it a link to nothing.
func (f files) isLink(path string) bool {
	_, err := os.Lstat(f.path(path))
	return err == nil
}

// leases reads the leases of a network: what libvirt's helper keeps of the
// bridge, or what dnsmasq kept by itself for libvirt before 1.2.6.
func (f files) leases(t api.Taken) (string, error) {
	for _, file := range []string{t.Bridge + ".status", t.Name + ".leases"} {
		text, err := os.ReadFile(f.path(filepath.Join(DnsmasqDir, file)))
		if err := readable(err); err != nil {
			return "", err
		}
		if len(strings.TrimSpace(string(text))) > 0 {
			return string(text), nil
		}
	}
	return "", nil
}

// retire takes away by what libvirt would start the network again or think that it
// is active: a libvirtd that comes back for its guests must leave it alone. The
// definition stays, for the way back.
func (f files) retire(n network) error {
	errs := []error{os.RemoveAll(f.path(filepath.Join(RunDir, n.name)))}
	for _, file := range []string{
		filepath.Join(autostartDir, n.name+".xml"),
		filepath.Join(RunDir, n.name+".xml"), filepath.Join(RunDir, n.name+".pid"),
	} {
		if err := os.Remove(f.path(file)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// driver tells of a libvirt whose network driver runs: which file it has
// locked, and by which process; empty when none runs. The first file is the
// driver's own since libvirt 5.6, the others are the daemons'.
func (f files) driver() (string, error) {
	for _, file := range []string{filepath.Join(RunDir, "driver.pid"), "/run/virtnetworkd.pid", "/run/libvirtd.pid"} {
		pid, err := locker(f.path(file))
		if err := readable(err); err != nil {
			return "", err
		}
		if pid != nil {
			return fmt.Sprintf("process %d, which has locked %s", *pid, file), nil
		}
	}
	return "", nil
}

// locker is the process that holds a lock on a file, as libvirt's daemons do on
// theirs; nil for none. 0 is a process that is not visible here.
func locker(file string) (*int32, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return nil, fmt.Errorf("asking who has locked %s: %w", file, err)
	}
	if lock.Type == unix.F_UNLCK {
		return nil, nil
	}
	return &lock.Pid, nil
}
