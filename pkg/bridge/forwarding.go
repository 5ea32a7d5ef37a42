package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
)

// Forwarding is what Forward changed on the host.
type Forwarding struct {
	// AcceptRA are the links that would have lost routes of router
	// advertisements; RestoreAcceptRA takes them.
	AcceptRA []AcceptRA
	// Unsaved is why the sysctls could not be written to the file that
	// `sysctl --system` reads; nil if they were. They are in effect all the same.
	Unsaved error
}

// AcceptRA is a link whose accept_ra was raised to 2, and the values of its IPv6
// sysctls before that and before the host forwarded.
type AcceptRA struct {
	Link       string `json:"link"`
	AcceptRA   string `json:"acceptRA"`
	Forwarding string `json:"forwarding"`
}

// Forward lets the host forward IPv4 and IPv6 packets, each if asked. It never
// switches forwarding off, and changes nothing that is so already. What it
// changes it also writes to SysctlFile, so that `sysctl --system` keeps it.
//
// A host that forwards IPv6 stops to take routes from router advertisements,
// except from links with accept_ra=2 (Documentation/networking/ip-sysctl.rst).
// Links where that would cost the host a route get accept_ra=2 first, and are
// returned, also beside an error. Where accept_ra is 0 a program such as
// systemd-networkd sees to the routes; it and they are not affected.
func (b *Bridges) Forward(v4, v6 bool) (Forwarding, error) {
	b.forwarding.Lock()
	defer b.forwarding.Unlock()
	var f Forwarding
	set := make(map[string]string)
	if v4 {
		if err := setSysctl(set, sysctlKey("ipv4", "ip_forward"), "1"); err != nil {
			return f, fmt.Errorf("enabling IPv4 forwarding: %w", err)
		}
	}
	var err error
	if v6 {
		if f.AcceptRA, err = b.forwardIPv6(set); err != nil {
			err = fmt.Errorf("enabling IPv6 forwarding: %w", err)
		}
	}
	f.Unsaved = persist(b.sysctlDir, set, nil)
	return f, err
}

// forwardIPv6 enables IPv6 forwarding; what it sets it adds to set.
func (b *Bridges) forwardIPv6(set map[string]string) ([]AcceptRA, error) {
	all := sysctlKey("ipv6", "conf", "all", "forwarding")
	if value, err := readSysctl(all); err != nil || value == "1" {
		return nil, err
	}
	links, err := b.conn.advertisedLinks()
	if err != nil {
		return nil, err
	}
	var raised []AcceptRA
	for _, link := range links {
		old, err := raiseAcceptRA(set, link)
		if err != nil {
			return raised, fmt.Errorf("raising accept_ra of %q: %w", link, err)
		}
		if old.AcceptRA != "" {
			raised = append(raised, old)
		}
	}
	return raised, setSysctl(set, all, "1")
}

// raiseAcceptRA sets a link's accept_ra from 1 to 2 and returns the values before.
// They are empty if it wasn't 1.
func raiseAcceptRA(set map[string]string, link string) (AcceptRA, error) {
	acceptRA := sysctlKey("ipv6", "conf", link, "accept_ra")
	value, err := readSysctl(acceptRA)
	if err != nil || value != "1" {
		return AcceptRA{}, err
	}
	forwarding, err := readSysctl(sysctlKey("ipv6", "conf", link, "forwarding"))
	if err != nil {
		return AcceptRA{}, err
	}
	old := AcceptRA{Link: link, AcceptRA: value, Forwarding: forwarding}
	return old, setSysctl(set, acceptRA, "2")
}

// advertisedLinks names the links with a route that a router advertised, as its
// protocol or the kernel's own mark says.
func (c *conn) advertisedLinks() ([]string, error) {
	routes, err := c.routes(unix.AF_INET6, 0)
	if err != nil {
		return nil, err
	}
	marked, err := AdvertisedRoutes()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range marked {
		names = append(names, r.Link)
	}
	for _, r := range routes {
		if r.protocol != unix.RTPROT_RA {
			continue
		}
		for _, index := range r.indexes {
			l, err := c.byIndex(index)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RestoreAcceptRA gives the links that Forward returned their values back. The
// host may go on forwarding: the link's own `forwarding` (which is about being a
// router to that link, not about passing packets on) goes back as well, without
// which accept_ra=1 would let the routes run out.
//
// A link that is gone is success; one whose accept_ra isn't 2 any more was
// changed by somebody else and is left alone. Failures are joined.
func (b *Bridges) RestoreAcceptRA(raised []AcceptRA) error {
	b.forwarding.Lock()
	defer b.forwarding.Unlock()
	var errs []error
	var unset []string
	for _, old := range raised {
		if !ether.ValidName(old.Link) {
			errs = append(errs, fmt.Errorf("restoring accept_ra: invalid link name %q", old.Link))
			continue
		}
		unset = append(unset, sysctlKey("ipv6", "conf", old.Link, "accept_ra"))
		if err := restoreAcceptRA(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("restoring accept_ra of %q: %w", old.Link, err))
		}
	}
	return errors.Join(append(errs, persist(b.sysctlDir, nil, unset))...)
}

func restoreAcceptRA(old AcceptRA) error {
	acceptRA := sysctlKey("ipv6", "conf", old.Link, "accept_ra")
	value, err := readSysctl(acceptRA)
	if err != nil || value != "2" {
		return err
	}
	if err := writeSysctl(sysctlKey("ipv6", "conf", old.Link, "forwarding"), old.Forwarding); err != nil {
		return err
	}
	return writeSysctl(acceptRA, old.AcceptRA)
}

// setSysctl gives the sysctl with that path a value, and adds it to set if it had
// another.
func setSysctl(set map[string]string, path, value string) error {
	old, err := readSysctl(path)
	if err != nil || old == value {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return err
	}
	set[path] = value
	return nil
}

// sysctlKey is the path of a sysctl below net.
func sysctlKey(parts ...string) string {
	return filepath.Join(append([]string{netSysctls}, parts...)...)
}
