package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// The form of the database's file, of bbolt (file format version 2, in the byte order
// of the machine): pages, each with a header of id, flags, count and overflow; the
// first two are the roots of which the one with the higher transaction counts.
const (
	pageHeader   = 16
	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	elementSize  = 16
	bucketFlag   = 0x01 // of an element of a leaf: its value is a bucket
	bucketHeader = 16   // root page, sequence
	metaMagic    = 0xed0cdaed
	metaSize     = 64
	maxElement   = 4096 // of what the store writes: longer ones are damaged
)

// rescued are leases by network UUID and address.
type rescued map[string]map[netip.Addr]dhcpd.Lease

// count is the number of leases.
func (r rescued) count() (n int) {
	for _, leases := range r {
		n += len(leases)
	}
	return n
}

// add keeps a lease, unless one is known that lasts longer.
func (r rescued) add(uuid string, l dhcpd.Lease) {
	if r[uuid] == nil {
		r[uuid] = make(map[netip.Addr]dhcpd.Lease)
	}
	if old, ok := r[uuid][l.Addr]; ok && (old.Expiry.IsZero() || old.Expiry.After(l.Expiry) && !l.Expiry.IsZero()) {
		return
	}
	r[uuid][l.Addr] = l
}

// salvage finds the leases in a database that can't be opened, or not be read to
// its end. What hangs together from a root is taken as it is. What a damaged page
// has cut off is looked for in all other pages; there a lease may be found that has
// been given back or moved since, which keeps its address from others until it
// ends and harms nobody.
func salvage(data []byte) rescued {
	w := &wreck{data: data, page: os.Getpagesize(), seen: make(map[uint64]bool), found: make(rescued)}
	for _, m := range w.roots() {
		clear(w.seen)
		w.visit(m.root, nil)
		if len(w.found) > 0 {
			break
		}
	}
	cutOff := &wreck{data: data, page: w.page, found: make(rescued)}
	cutOff.comb(slices.Collect(maps.Keys(w.found)))
	for uuid, leases := range cutOff.found {
		for addr, l := range leases {
			if _, ok := w.found[uuid][addr]; !ok {
				w.found.add(uuid, l)
			}
		}
	}
	return w.found
}

// wreck is a damaged database. No number in it is trusted.
type wreck struct {
	data  []byte
	page  int             // size of a page
	seen  map[uint64]bool // pages visited: a damaged tree may have circles
	found rescued
}

// meta is a root of the database.
type meta struct{ root, transaction uint64 }

// roots are the roots that are whole, the newest first.
func (w *wreck) roots() []meta {
	var all []meta
	for id := range uint64(2) {
		p := w.pageAt(id)
		if len(p) < pageHeader+metaSize {
			continue
		}
		b, ne := p[pageHeader:], binary.NativeEndian
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSize-8])
		if ne.Uint32(b) == metaMagic && ne.Uint64(b[metaSize-8:]) == sum.Sum64() {
			all = append(all, meta{root: ne.Uint64(b[16:]), transaction: ne.Uint64(b[48:])})
		}
	}
	slices.SortFunc(all, func(a, b meta) int { return cmp.Compare(b.transaction, a.transaction) })
	return all
}

// pageAt is the page with that number and those that continue it, as far as the
// file goes; nil when it is beyond.
func (w *wreck) pageAt(id uint64) []byte {
	if id >= uint64(len(w.data)/w.page) {
		return nil
	}
	rest := w.data[int(id)*w.page:]
	if len(rest) < pageHeader {
		return nil
	}
	pages := uint64(binary.NativeEndian.Uint32(rest[12:])) + 1
	return rest[:min(uint64(len(rest)), pages*uint64(w.page))]
}

// visit takes what hangs below the page with that number, which belongs to bucket:
// nil for the top, where the networks are.
func (w *wreck) visit(id uint64, bucket []byte) {
	p := w.pageAt(id)
	if w.seen[id] || p == nil || binary.NativeEndian.Uint64(p) != id {
		return
	}
	w.seen[id] = true
	switch flagsOf(p) {
	case pageLeaf:
		w.leaf(p, bucket)
	case pageBranch:
		for i := range countOf(p) {
			if at := pageHeader + i*elementSize; at+elementSize <= len(p) {
				w.visit(binary.NativeEndian.Uint64(p[at+8:]), bucket)
			}
		}
	}
}

// leaf takes the records of a leaf, and those of the buckets in it.
func (w *wreck) leaf(p, bucket []byte) {
	for _, e := range elements(p) {
		switch {
		case bucket != nil:
			if l, err := decodeRecord(bucket, e.value); err == nil {
				w.found.add(string(bucket), l)
			}
		case e.bucket && binary.NativeEndian.Uint64(e.value) != 0:
			w.visit(binary.NativeEndian.Uint64(e.value), e.key)
		case e.bucket: // a small one stands in its parent
			w.leaf(e.value[bucketHeader:], e.key)
		}
	}
}

// comb takes the records of all leaves, whatever they belong to: their checksums
// tell of which network they are. networks are those known by name.
func (w *wreck) comb(networks []string) {
	for id := range uint64(len(w.data) / w.page) {
		for _, e := range w.leafElements(id) {
			if e.bucket && uuidForm.Match(e.key) && !slices.Contains(networks, string(e.key)) {
				networks = append(networks, string(e.key))
			}
		}
	}
	for id := range uint64(len(w.data) / w.page) {
		for _, e := range w.leafElements(id) {
			w.claim(e, networks)
		}
	}
}

// claim takes a record, or those of a small bucket, for the network whose it is.
func (w *wreck) claim(e element, networks []string) {
	if e.bucket {
		if uuidForm.Match(e.key) && binary.NativeEndian.Uint64(e.value) == 0 {
			w.leaf(e.value[bucketHeader:], e.key)
		}
		return
	}
	if bytes.HasPrefix(e.value, []byte{'{'}) {
		return // without a checksum it could be anybody's
	}
	for _, uuid := range networks {
		if l, err := decodeRecord([]byte(uuid), e.value); err == nil {
			w.found.add(uuid, l)
			return
		}
	}
}

// leafElements are those of the page with that number, none unless it is a leaf.
func (w *wreck) leafElements(id uint64) []element {
	p := w.pageAt(id)
	if p == nil || binary.NativeEndian.Uint64(p) != id || flagsOf(p) != pageLeaf {
		return nil
	}
	return elements(p)
}

// uuidForm is the name of a network's bucket.
var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// element is an entry of a leaf. The value of a bucket has its header at least.
type element struct {
	bucket     bool
	key, value []byte
}

// elements are the entries of a leaf that lie inside of it.
func elements(p []byte) []element {
	var all []element
	if len(p) < pageHeader {
		return nil
	}
	for i := range countOf(p) {
		at := pageHeader + i*elementSize
		if at+elementSize > len(p) {
			break
		}
		ne := binary.NativeEndian
		begin := uint64(at) + uint64(ne.Uint32(p[at+4:]))
		middle := begin + uint64(ne.Uint32(p[at+8:]))
		end := middle + uint64(ne.Uint32(p[at+12:]))
		if end > uint64(len(p)) || end-begin > maxElement {
			continue
		}
		e := element{bucket: ne.Uint32(p[at:])&bucketFlag != 0, key: p[begin:middle], value: p[middle:end]}
		if !e.bucket || len(e.value) >= bucketHeader {
			all = append(all, e)
		}
	}
	return all
}

func flagsOf(p []byte) uint16 { return binary.NativeEndian.Uint16(p[8:]) }
func countOf(p []byte) int    { return int(binary.NativeEndian.Uint16(p[10:])) }

// String tells how many leases there are of how many networks.
func (r rescued) String() string {
	return fmt.Sprintf("%d leases of %d networks", r.count(), len(r))
}
