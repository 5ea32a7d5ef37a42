// Package record says what the hosts of a cluster write for each other: the keys, and
// the values below them. It neither reads nor writes any store.
//
// All keys of a cluster begin with what Prefix returns. A host writes below its own name
// alone, except for blocks of addresses, names and wants, which belong to whoever made
// them first.
package record

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is what a key stands for, as it is written in the key.
type Kind string

// The kinds of keys, and where their values are described.
const (
	KindMeta    Kind = "meta"   // Meta
	KindNetwork Kind = "n"      // Network
	KindVNI     Kind = "vni"    // VNI
	KindMember  Kind = "member" // Member
	KindAlive   Kind = "alive"  // Alive
	KindPort    Kind = "p"      // Port
	KindLease   Kind = "l"      // Lease
	KindBlock   Kind = "b"      // Block
	KindName    Kind = "d"      // Name
	KindRight   Kind = "r"      // Right
	KindWant    Kind = "want"   // Want
)

// MaxKey is how long a key may be, in bytes.
const MaxKey = 1024

// MaxVNI is the largest VXLAN network identifier (RFC 7348 section 5: 24 bits).
const MaxVNI = 1<<24 - 1

// Key is a key of a cluster, taken apart.
type Key struct {
	Kind    Kind
	Host    string // of member, alive, port, lease, and want
	Network string // its name; of network, port, lease, block, name, right and want
	ID      string // of port a MAC address, of lease and right an address, of block a BlockID, of name the name, of VNI the number
}

// Prefix is what all keys of a cluster begin with.
func Prefix(cluster string) string { return "/vnetd/1/" + cluster + "/" }

// HostPrefix is what all keys that a host alone writes begin with.
func HostPrefix(cluster, host string) string { return Prefix(cluster) + "h/" + host + "/" }

// Path is the whole key.
func (k Key) Path(cluster string) string {
	top := Prefix(cluster)
	switch k.Kind {
	case KindMember, KindAlive:
		return top + "h/" + k.Host + "/" + string(k.Kind)
	case KindPort, KindLease:
		return top + "h/" + k.Host + "/" + string(k.Kind) + "/" + k.Network + "/" + k.ID
	case KindNetwork:
		return top + "n/" + k.Network
	case KindVNI:
		return top + "vni/" + k.ID
	case KindBlock, KindName, KindRight:
		return top + string(k.Kind) + "/" + k.Network + "/" + k.ID
	case KindWant:
		return top + "want/" + k.Network + "/" + k.Host
	}
	return top + string(k.Kind)
}

// layouts says which parts follow the word that a key begins with, one letter each: h
// the host, n the network, i the ID.
var layouts = map[Kind]string{
	KindMeta: "", KindNetwork: "n", KindVNI: "i", KindBlock: "ni", KindName: "ni", KindRight: "ni", KindWant: "nh",
}

// below is layouts of what stands below a host.
var below = map[Kind]string{KindMember: "", KindAlive: "", KindPort: "ni", KindLease: "ni"}

// Parse takes a key of a cluster apart. A key that Path would not write is an error, so
// that nothing stands at two of them.
func Parse(cluster, path string) (Key, error) {
	rest, ok := strings.CutPrefix(path, Prefix(cluster))
	if !ok || len(path) > MaxKey {
		return Key{}, fmt.Errorf("key %.100q is none of cluster %q", path, cluster)
	}
	parts, table := strings.Split(rest, "/"), layouts
	k := Key{}
	if parts[0] == "h" && len(parts) > 2 {
		k.Host, parts, table = parts[1], parts[2:], below
		if err := CheckHost(k.Host); err != nil {
			return Key{}, fmt.Errorf("key %q: %w", path, err)
		}
	}
	k.Kind = Kind(parts[0])
	layout, known := table[k.Kind]
	if !known || len(parts)-1 != len(layout) {
		return Key{}, fmt.Errorf("key %q: vnetd knows no such key", path)
	}
	for i, part := range parts[1:] {
		*k.part(layout[i]) = part
	}
	if err := k.check(); err != nil {
		return Key{}, fmt.Errorf("key %q: %w", path, err)
	}
	return k, nil
}

// part is where the part of a layout's letter is kept.
func (k *Key) part(letter byte) *string {
	switch letter {
	case 'h':
		return &k.Host
	case 'n':
		return &k.Network
	}
	return &k.ID
}

// check finds parts that are not what they stand for.
func (k Key) check() error {
	var errs []error
	if k.Kind == KindWant {
		errs = append(errs, CheckHost(k.Host))
	}
	switch k.Kind {
	case KindNetwork, KindPort, KindLease, KindBlock, KindName, KindRight, KindWant:
		errs = append(errs, CheckNetwork(k.Network))
	}
	switch k.Kind {
	case KindPort:
		m, err := ParseMAC(k.ID)
		errs = append(errs, err, same(m.String(), k.ID))
	case KindLease, KindRight:
		a, err := netip.ParseAddr(k.ID)
		errs = append(errs, err, same(a.String(), k.ID))
		if a.Zone() != "" {
			errs = append(errs, fmt.Errorf("%q has a zone", k.ID))
		}
	case KindBlock:
		_, err := ParseBlockID(k.ID)
		errs = append(errs, err)
	case KindVNI:
		n, err := strconv.ParseUint(k.ID, 10, 24)
		errs = append(errs, err, same(strconv.FormatUint(n, 10), k.ID))
	case KindName:
		errs = append(errs, checkWord("name", k.ID, 253))
	}
	return errors.Join(errs...)
}

// same reports that something is written in another way than the one in which vnetd
// writes it.
func same(want, is string) error {
	if want != is {
		return fmt.Errorf("%q is not written as %q", is, want)
	}
	return nil
}

// CheckHost reports what keeps a name from being that of a host of a cluster: 1 to 64
// letters, digits, '.', '-' and '_', of which the first is a letter or a digit.
func CheckHost(name string) error {
	for i, c := range []byte(name) {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || c != '.' && c != '-' && c != '_') {
			return fmt.Errorf("%.100q is no name of a host: want letters, digits, '.', '-' and '_'", name)
		}
	}
	if name == "" || len(name) > 64 {
		return fmt.Errorf("%.100q is no name of a host: want 1 to 64 bytes, has %d", name, len(name))
	}
	return nil
}

// CheckNetwork reports what keeps a name from being that of a network that spans hosts.
func CheckNetwork(name string) error { return checkWord("network", name, 255) }

// checkWord reports what keeps text from being one part of a key of at most so many bytes.
func checkWord(what, text string, most int) error {
	switch {
	case text == "" || len(text) > most:
		return fmt.Errorf("%s %.100q: want 1 to %d bytes, has %d", what, text, most, len(text))
	case !utf8.ValidString(text):
		return fmt.Errorf("%s %.100q is not UTF-8", what, text)
	case strings.Contains(text, "/") || strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s %.100q has a slash or a control character", what, text)
	}
	return nil
}
