package upstream

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of resolv.conf.
const (
	maxResolvConf = 64 << 10
	maxServers    = 8
)

// How often resolv.conf may be read: it is read when a query is to be
// forwarded. One that names no server is read more often, so that the moment in
// which somebody rewrites it does not last.
const (
	resolvInterval      = time.Second
	resolvIntervalEmpty = 50 * time.Millisecond
)

// ParseResolvConf returns the addresses of the nameserver lines, see
// resolv.conf(5), in their order; a line that it can't read is skipped. The
// search list and the options are the host's own affair.
func ParseResolvConf(text []byte) []netip.Addr {
	var addrs []netip.Addr
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if a = a.Unmap(); err != nil || slices.Contains(addrs, a) {
			continue
		}
		if addrs = append(addrs, a); len(addrs) == maxServers {
			break
		}
	}
	return addrs
}

// resolvConf is the list of servers that a file names. The file is read again as
// time goes by and not watched in another way: that sees every kind of change
// (rewritten, renamed over, a link or what it points to, first there now), and
// costs nothing while nothing is forwarded.
type resolvConf struct {
	mu      sync.Mutex
	path    string
	own     []netip.Addr // addresses of ours, which are not asked
	read    time.Time    // when the file was last read; zero: never
	text    []byte
	servers []*Server
}

// configure names another file and other addresses of ours.
func (r *resolvConf) configure(path string, own []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.path, r.own, r.read = path, own, time.Time{}
	r.text = nil
}

// current returns the servers to ask, in the file's order; changed says that
// they are others than before. A file that is missing or can't be read names
// none.
func (r *resolvConf) current(now time.Time) (servers []*Server, changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	interval := resolvInterval
	if len(r.servers) == 0 {
		interval = resolvIntervalEmpty
	}
	if !r.read.IsZero() && now.Sub(r.read) < interval {
		return r.servers, false
	}
	first := r.read.IsZero()
	r.read = now
	text := readFile(r.path)
	if !first && bytes.Equal(text, r.text) {
		return r.servers, false
	}
	r.text = text
	old := r.servers
	r.servers = r.merge(ParseResolvConf(text))
	return r.servers, !slices.Equal(old, r.servers)
}

// merge returns the servers at addrs, without our own addresses: a query
// must not come back to us. What is known of a server is kept. r.mu must be
// held.
func (r *resolvConf) merge(addrs []netip.Addr) []*Server {
	var servers []*Server
	for _, a := range addrs {
		if slices.Contains(r.own, a) {
			continue
		}
		i := slices.IndexFunc(r.servers, func(s *Server) bool { return s.addr.Addr() == a })
		if i >= 0 {
			servers = append(servers, r.servers[i])
			continue
		}
		servers = append(servers, &Server{addr: netip.AddrPortFrom(a, dnsPort)})
	}
	return servers
}

// readFile returns the beginning of a file, nil if it can't be read. What is no
// regular file does not keep it waiting.
func readFile(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return nil
	}
	return text
}
