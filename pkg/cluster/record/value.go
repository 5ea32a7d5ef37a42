package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Schema is the version of the values: what is put into them later must be such that who
// does not know it can leave it alone.
const Schema = 1

// How many bytes a value may have: that of a network is a document, all others are small.
const (
	MaxValue    = 16 << 10
	MaxDocument = 1 << 20
)

// MAC is the address of a guest's card.
type MAC [6]byte

// String is the address as 52:54:00:12:34:56.
func (m MAC) String() string {
	var b [17]byte
	for i, x := range m {
		hex.Encode(b[3*i:], []byte{x})
		if i < 5 {
			b[3*i+2] = ':'
		}
	}
	return string(b[:])
}

// ParseMAC reads what String writes; capitals may be.
func ParseMAC(text string) (m MAC, err error) {
	ok := len(text) == 17
	for i := 0; ok && i < len(m); i++ {
		_, err := hex.Decode(m[i:i+1], []byte(text[3*i:3*i+2]))
		ok = err == nil && (i == 5 || text[3*i+2] == ':')
	}
	if !ok {
		return MAC{}, fmt.Errorf("%.40q is no MAC address: want, say, 52:54:00:12:34:56", text)
	}
	return m, nil
}

// MarshalText is String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMAC.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// Head is what every value has.
type Head struct {
	V int `json:"v"`

	// Unknown are fields that a newer vnetd wrote. They are written again as they came.
	Unknown map[string]json.RawMessage `json:"-"`
}

func (h *Head) head() *Head { return h }

// Value is any of the values of this package, by its pointer.
type Value interface{ head() *Head }

// Meta is what the cluster is.
type Meta struct {
	Head
	UUID   string `json:"uuid"`
	Schema int    `json:"schema"`
	Epoch  int    `json:"epoch"` // raised when the cluster is written anew after its store lost it

	// Await are hosts of which was known when the cluster was written anew after its
	// store had lost it. Until each of them has written what is its own, nobody claims
	// addresses, for they may be one of theirs.
	Await []string `json:"await,omitempty"`
}

// Network is the definition of a network.
type Network struct {
	Head
	XML        string `json:"xml"`
	Generation int    `json:"generation"` // raised with each change
	Autostart  bool   `json:"autostart,omitempty"`

	// Origin is the host whose network it was before it was one of the cluster's, or that
	// defined it.
	Origin string `json:"origin,omitempty"`
}

// VNI says whose a VXLAN network identifier is.
type VNI struct {
	Head
	Network string `json:"network"` // its UUID
}

// Member is a host.
type Member struct {
	Head
	Underlay netip.Addr `json:"underlay"` // where its tunnels end
	MTU      int        `json:"mtu"`      // of the underlay, in bytes
	Version  string     `json:"version"`  // of its vnetd
	Boot     string     `json:"boot"`     // another one each time that its vnetd starts

	// Epoch is that of Meta for which it has written all that is its own.
	Epoch int `json:"epoch"`
}

// Alive stands while the host's vnetd talks to the store.
type Alive struct {
	Head
	Boot string `json:"boot"`
}

// State is what a host says of a guest's card.
type State string

// The states of a port.
const (
	Incoming State = "incoming" // made for a guest that is about to move here
	Here     State = "here"     // the guest sends from here
	Moved    State = "moved"    // it sent from here, and sends from another host now
)

// Port is a guest's card on a host.
type Port struct {
	Head
	UUID      string       `json:"uuid"`            // of the port: another one each time that it is made
	Owner     string       `json:"owner,omitempty"` // who may have it on two hosts at a time: the guest's UUID
	Name      string       `json:"name,omitempty"`  // of the guest
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Seq       uint64       `json:"seq"` // how often the card has moved
	State     State        `json:"state"`
}

// Lease is an address that a host has given to a guest.
type Lease struct {
	Head
	MAC    MAC    `json:"mac"`
	Client string `json:"client,omitempty"` // its DHCP identifier, in hex; of IPv6 its DUID
	IAID   uint32 `json:"iaid,omitempty"`   // of IPv6: the number of its interface
	Name   string `json:"name,omitempty"`
	End    int64  `json:"end"` // seconds since 1970, by the clock of the host that wrote it; 0: never

	// Seconds is how long it had to run when the host gave it, or took it over: what counts for
	// other hosts, whose clocks may say something else.
	Seconds int64 `json:"for,omitempty"`

	Seq uint64 `json:"seq"` // raised by each host that takes the lease on
}

// Block says whose a block of addresses is.
type Block struct {
	Head
	Host string `json:"host"`

	// Without are addresses in it that its host gives to nobody by it: who gives one of them
	// needs a Right. In order.
	Without []netip.Addr `json:"without,omitempty"`
}

// MaxWithout is how many addresses a Block may be without.
const MaxWithout = 256

// Right says which host gives an address that is reserved, or that a port asks for.
type Right struct {
	Head
	Host string `json:"host"`
}

// Name says which guest has a name.
type Name struct {
	Head
	Host string `json:"host"`
	MAC  MAC    `json:"mac"`
}

// Want asks the other hosts for addresses.
type Want struct {
	Head
	Addresses  int `json:"addresses"`            // of IPv4
	Addresses6 int `json:"addresses6,omitempty"` // of IPv6
}

// Encode writes a value. It does not fail: no value has anything that JSON can't say.
func Encode(v Value) []byte {
	h := v.head()
	h.V = max(h.V, Schema)
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	for _, name := range slices.Sorted(maps.Keys(h.Unknown)) {
		key, _ := json.Marshal(name)
		text = append(append(append(append(text[:len(text)-1], ','), key...), ':'), h.Unknown[name]...)
		text = append(text, '}')
	}
	return text
}

// Decode reads a value, whatever wrote it: fields that are not known are kept, those that
// can't be are an error.
func Decode(text []byte, v Value) error {
	most := MaxValue
	if _, document := v.(*Network); document {
		most = MaxDocument
	}
	if len(text) > most {
		return fmt.Errorf("%T: has %d bytes, at most %d are read", v, len(text), most)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil || d.More() {
		if err := decodeUnknown(text, v); err != nil {
			return fmt.Errorf("%T: %w", v, err)
		}
	}
	if h := v.head(); h.V < 1 {
		return fmt.Errorf("%T: has no version", v)
	}
	if c, ok := v.(interface{ check() error }); ok {
		return c.check()
	}
	return nil
}

// decodeUnknown is Decode for a value with fields that are not known.
func decodeUnknown(text []byte, v Value) error {
	if err := json.Unmarshal(text, v); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	known, h := fieldsOf(v), v.head()
	h.Unknown = nil
	for name, raw := range all {
		if slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			continue
		}
		if h.Unknown == nil {
			h.Unknown = make(map[string]json.RawMessage)
		}
		h.Unknown[name] = raw
	}
	return nil
}

// fieldsOf names the fields of a value as JSON has them.
func fieldsOf(v Value) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v).Elem()) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

func (m *Member) check() error {
	if !m.Underlay.IsValid() || m.Underlay.Zone() != "" || m.Underlay.IsMulticast() || m.Underlay.IsUnspecified() {
		return fmt.Errorf("member: %q is no address at which a tunnel can end", m.Underlay)
	}
	return nil
}

func (b *Block) check() error {
	if len(b.Without) > MaxWithout {
		return fmt.Errorf("block: is without %d addresses, want at most %d", len(b.Without), MaxWithout)
	}
	return nil
}

func (p *Port) check() error {
	if p.State != Incoming && p.State != Here && p.State != Moved {
		return fmt.Errorf("port: %.40q is no state", p.State)
	}
	if len(p.Addresses) > 64 {
		return errors.New("port: has more than 64 addresses")
	}
	return nil
}
