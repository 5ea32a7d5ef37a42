package dhcpd

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Infinite as a lease time means that leases never expire. It is 0xffffffff seconds,
// the value that RFC 2131, section 3.3 reserves for it.
const Infinite = 0xffffffff * time.Second

// State says what a lease record stands for.
type State string

// The states of a lease record, as stored.
const (
	// StateBound: the client has the address until Expiry.
	StateBound State = "bound"
	// StateReleased: the client gave the address back (DHCPRELEASE) or moved to
	// another one. The record stays so that the client gets it again.
	StateReleased State = "released"
	// StateDeclined: a client found the address in use by somebody else
	// (DHCPDECLINE). Nobody gets it until Expiry.
	StateDeclined State = "declined"

	// stateExpired is StateBound after Expiry, in memory only.
	stateExpired State = "expired"
)

// Lease is one record of who has which address. Its JSON form, see leaseJSON, is
// stored on disk and stays readable by later versions.
type Lease struct {
	// Addr is the address and the key of the record.
	Addr netip.Addr
	// MAC is the client's hardware address, six bytes. Nil in a DHCPv6 lease whose
	// client did not tell it.
	MAC net.HardwareAddr
	// ClientID is option 61 as the client sent it, nil when it sent none and in
	// DHCPv6.
	ClientID []byte
	// DUID is the client's DHCP unique identifier and IAID the number of its
	// interface (RFC 8415, sections 11 and 12). Nil and 0 in DHCPv4.
	DUID []byte
	IAID uint32
	// From is the hardware address whose frames brought the client's messages, nil where
	// that is MAC or not known.
	From net.HardwareAddr
	// Hostname is a valid DNS label, or empty when the client has no name.
	Hostname string
	// Expiry is when the lease, or the quarantine of a declined address, ends.
	// Zero means never.
	Expiry time.Time
	// State says whether the address is taken.
	State State
}

// leaseJSON is a Lease as JSON.
type leaseJSON struct {
	Addr     netip.Addr `json:"addr"`
	MAC      string     `json:"mac"`                 // six hex bytes, with colons; may be empty
	ClientID string     `json:"client_id,omitempty"` // hex bytes, without
	DUID     string     `json:"duid,omitempty"`      // hex bytes, without; DHCPv6 only
	IAID     uint32     `json:"iaid,omitempty"`
	From     string     `json:"from,omitempty"` // as MAC
	Hostname string     `json:"hostname,omitempty"`
	Expiry   time.Time  `json:"expiry,omitzero"` // RFC 3339
	State    State      `json:"state"`
}

// MarshalJSON implements json.Marshaler.
func (l Lease) MarshalJSON() ([]byte, error) {
	return json.Marshal(leaseJSON{
		Addr: l.Addr, MAC: l.MAC.String(), ClientID: hex.EncodeToString(l.ClientID),
		DUID: hex.EncodeToString(l.DUID), IAID: l.IAID, From: l.From.String(), Hostname: l.Hostname, Expiry: l.Expiry, State: l.State,
	})
}

// UnmarshalJSON implements json.Unmarshaler. It refuses what MarshalJSON does not
// write for a Lease of this package.
func (l *Lease) UnmarshalJSON(data []byte) error {
	var j leaseJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	mac, err := parseMAC(j.MAC, len(j.DUID) > 0)
	if err != nil {
		return fmt.Errorf("reading lease of %v: %w", j.Addr, err)
	}
	from, err := parseMAC(j.From, true)
	if err != nil {
		return fmt.Errorf("reading lease of %v: from: %w", j.Addr, err)
	}
	id, err := parseHex(j.ClientID)
	if err != nil {
		return fmt.Errorf("reading lease of %v: client id: %w", j.Addr, err)
	}
	duid, err := parseHex(j.DUID)
	if err != nil {
		return fmt.Errorf("reading lease of %v: duid: %w", j.Addr, err)
	}
	switch j.State {
	case StateBound, StateReleased, StateDeclined:
	default:
		return fmt.Errorf("reading lease of %v: unknown state %q", j.Addr, j.State)
	}
	*l = Lease{
		Addr: j.Addr, MAC: mac, ClientID: id, DUID: duid, IAID: j.IAID, From: from,
		Hostname: j.Hostname, Expiry: j.Expiry, State: j.State,
	}
	return nil
}

// parseMAC reads a hardware address, which may be absent if optional.
func parseMAC(s string, optional bool) (net.HardwareAddr, error) {
	if s == "" && optional {
		return nil, nil
	}
	return net.ParseMAC(s)
}

// parseHex reads hex bytes, nil when there are none.
func parseHex(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return hex.DecodeString(s)
}

// identified reports whether the record tells whose it is, as those do that the
// server of its family writes.
func (l *Lease) identified() bool {
	if l.Addr.Is4() {
		return len(l.MAC) == HWAddrLen
	}
	return len(l.DUID) > 0
}

// live reports whether the record keeps the address from others at now.
func (l *Lease) live(now time.Time) bool {
	switch l.State {
	case StateBound, StateDeclined:
		return l.Expiry.IsZero() || now.Before(l.Expiry)
	default:
		return false
	}
}

// BoundAt reports whether a client has the address at now.
func (l *Lease) BoundAt(now time.Time) bool { return l.State == StateBound && l.live(now) }

// clone copies l, so that the caller may keep or change the result.
func (l *Lease) clone() Lease {
	c := *l
	c.MAC = append(net.HardwareAddr(nil), l.MAC...)
	c.From = append(net.HardwareAddr(nil), l.From...)
	c.ClientID = append([]byte(nil), l.ClientID...)
	c.DUID = append([]byte(nil), l.DUID...)
	return c
}

// LeaseStore keeps the lease records of one network. The network's servers
// of both families are its only users and share it.
type LeaseStore interface {
	// Load returns every record, in any order.
	Load() ([]Lease, error)
	// Commit stores puts (by their Addr, over an older record) and removes the
	// records of deletes, all or nothing. No address stands in both. It returns
	// nil only once the change is durable. It may be called concurrently: by the
	// two servers, each from one goroutine at a time, and for other networks. It
	// must not keep or change the slices.
	Commit(puts []Lease, deletes []netip.Addr) error
}

// EventKind says what happened to a lease.
type EventKind int

// The kinds of lease events.
const (
	// Bound: a client got an address that it did not have.
	Bound EventKind = iota + 1
	// Renewed: a client has its address for longer; its host name may have changed.
	Renewed
	// Released: a client gave its address back, or moved to another one.
	Released
	// Expired: a lease ended by time.
	Expired
	// Declined: a client found the address in use by somebody else. The event's
	// lease names the client that declined.
	Declined
)

// String returns the kind's name in lower case.
func (k EventKind) String() string {
	switch k {
	case Bound:
		return "bound"
	case Renewed:
		return "renewed"
	case Released:
		return "released"
	case Expired:
		return "expired"
	case Declined:
		return "declined"
	default:
		return "unknown"
	}
}

// Event tells of a change of one lease that is on disk.
type Event struct {
	Kind EventKind
	// Lease is the record after the change. It belongs to the receiver.
	Lease Lease
}
