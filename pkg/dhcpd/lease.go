package dhcpd

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
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

// Lease is one record of who has which address.
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

// record is a Lease as it is kept: without its address, in little memory, and without pointers.
type record struct {
	expiry moment
	text   index.Place // of the parts of the lease
	iaid   uint32
	state  state
}

// state is the place of a State among states.
type state uint8

const (
	none state = iota
	bound
	released
	declined
	expired
)

// states are the states of records.
var states = [...]State{none: "", bound: StateBound, released: StateReleased, declined: StateDeclined, expired: stateExpired}

// The parts of the text of a record, in their order.
const (
	partMAC = iota
	partClientID
	partDUID
	partFrom
	partHostname
)

// pack is l as it is kept, with its text among others. Former is the place of a text that may be the
// same.
func (l *Lease) pack(texts *index.Texts, former index.Place) record {
	if l.State == "" {
		return record{}
	}
	var room [128]byte
	text := room[:0]
	for _, part := range [...][]byte{l.MAC, l.ClientID, l.DUID, l.From} {
		text = index.AppendPart(text, part)
	}
	text = index.AppendPart(text, l.Hostname)
	return record{text: texts.Keep(text, former), expiry: momentOf(l.Expiry), iaid: l.IAID, state: state(slices.Index(states[:], l.State))}
}

// lease is the record as a Lease of an address, which shares no memory with it.
func (r *record) lease(texts *index.Texts, a netip.Addr) Lease {
	if r.blank() {
		return Lease{}
	}
	text := texts.At(r.text)
	bytesOf := func(part int) []byte { return append([]byte(nil), index.Part(text, part)...) }
	return Lease{
		Addr: a, MAC: bytesOf(partMAC), ClientID: bytesOf(partClientID), DUID: bytesOf(partDUID), From: bytesOf(partFrom),
		Hostname: strings.Clone(index.Part(text, partHostname)), IAID: r.iaid, Expiry: r.expiry.Time(), State: states[r.state],
	}
}

// blank reports whether it is none.
func (r *record) blank() bool { return r.state == none }

// live and BoundAt are those of the Lease.
func (r *record) live(now time.Time) bool {
	return (r.state == bound || r.state == declined) && (r.expiry.IsZero() || now.Before(r.expiry.due()))
}

// BoundAt reports whether a client has the address at now.
func (r *record) BoundAt(now time.Time) bool { return r.state == bound && r.live(now) }

// Left is how long a lease that runs does so after now.
func (l *Lease) Left(now time.Time) time.Duration {
	if l.Expiry.IsZero() {
		return Infinite
	}
	return l.Expiry.Sub(now)
}

// clone copies l, so that the caller may keep or change the result.
func (l *Lease) clone() Lease {
	c := *l
	c.MAC = append(net.HardwareAddr(nil), l.MAC...)
	c.From = append(net.HardwareAddr(nil), l.From...)
	c.ClientID = append([]byte(nil), l.ClientID...)
	c.DUID = append([]byte(nil), l.DUID...)
	return c
}

// moment is a time, by two clocks if it was made by this process: the clock of the machine may be
// set, and leases end when their clients think so. Other than a time.Time it has no pointer. The
// zero value is the zero Time.
type moment struct {
	wall  int64 // in nanoseconds since 1970
	since int64 // in nanoseconds since the process began; 0: not known
}

// began is when the process did, by both clocks.
var began = time.Now()

// momentOf is a time.
func momentOf(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	m := moment{wall: t.UnixNano()}
	if t != t.Round(0) { // it has both clocks' readings
		m.since = int64(t.Sub(began))
	}
	return m
}

// IsZero reports whether it is the zero Time.
func (m moment) IsZero() bool { return m == moment{} }

// Time is the time by the clock of the machine.
func (m moment) Time() time.Time {
	if m.IsZero() {
		return time.Time{}
	}
	return time.Unix(0, m.wall).UTC()
}

// due is the time to be compared with those of this process.
func (m moment) due() time.Time {
	if m.since != 0 {
		return began.Add(time.Duration(m.since))
	}
	return m.Time()
}

// LeaseStore keeps the lease records of one network. The network's servers
// of both families are its only users and share it.
type LeaseStore interface {
	// Load returns every record, in any order.
	Load() ([]Lease, error)
	// Commit stores puts (by their Addr, over an older record) and removes the
	// records of deletes, all or nothing. No address stands in both. It returns
	// nil only once the change is durable; without a change, where it could store one.
	// It may be called concurrently: by the two servers, each from one goroutine at a
	// time, and for other networks. It must not keep or change the slices.
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

// Lender says which addresses a server may give where servers of other hosts give addresses of
// the same ranges. Its methods return quickly and do not call the server, whose lock is held.
type Lender interface {
	// Blocks are those parts of the ranges from which new addresses are chosen.
	Blocks() []netip.Prefix
	// May reports whether the address may be promised to a card now. Own is one that the
	// settings reserve for its client, or that is in no range: the server asks for the right to
	// give it where it has not, and has it soon.
	May(a netip.Addr, mac HWAddr, own bool) bool
	// Taken reports whether the address is promised to another card, by whichever server.
	Taken(a netip.Addr, mac HWAddr) bool
	// Promise is May, and where it may has it be the card's from then on, before the lease is
	// stored.
	Promise(l *Lease, own bool) bool
	// Keep says that a lease is the one that counts.
	Keep(l *Lease)
	// End says that an address has no lease any more.
	End(a netip.Addr)
	// Begin says which leases there are: all.
	Begin(all []Lease)
	// Exhausted says that a client gets no address for want of one.
	Exhausted(mac HWAddr)
}
