package ra

import (
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// Link is a link for router advertisements without a kernel. Its methods may
// be called from any goroutine.
type Link struct {
	in   chan solicit
	out  chan Advert
	stop chan struct{}
	down atomic.Bool
}

// Advert is an advertisement as the server sent it.
type Advert struct {
	Dst     netip.Addr
	Payload []byte
	At      time.Time
}

// NewLink makes a link that can't send yet.
func NewLink() *Link {
	l := &Link{in: make(chan solicit), out: make(chan Advert, 4096), stop: make(chan struct{})}
	l.down.Store(true)
	return l
}

// Up lets the link send.
func (l *Link) Up() { l.down.Store(false) }

// Adverts is what the server sends.
func (l *Link) Adverts() <-chan Advert { return l.out }

// Solicit brings a guest's message to the server.
func (l *Link) Solicit(payload []byte, src netip.Addr, hopLimit int) {
	l.in <- solicit{payload: payload, src: src, hopLimit: hopLimit}
}

func (l *Link) receive([]byte) (solicit, error) {
	select {
	case m := <-l.in:
		return m, nil
	case <-l.stop:
		return solicit{}, os.ErrDeadlineExceeded
	}
}

func (l *Link) source() (netip.Addr, error) {
	if l.down.Load() {
		return netip.Addr{}, errNoLinkLocal
	}
	return netip.MustParseAddr("fe80::1"), nil
}

func (l *Link) send(payload []byte, _, dst netip.Addr) error {
	l.out <- Advert{Dst: dst, Payload: payload, At: time.Now()}
	return nil
}

func (l *Link) interrupt() { close(l.stop) }

func (l *Link) copy() (*os.File, error) { return nil, os.ErrInvalid }

func (l *Link) close() error { return nil }

// OpenOn is Open on a simulated link.
func OpenOn(cfg Config, link *Link) (*Server, error) {
	return open(cfg, func() (raLink, error) { return link, nil })
}

// CheckSolicit says why a message is no valid solicitation.
func CheckSolicit(payload []byte, src netip.Addr, hopLimit int) error {
	return checkSolicit(solicit{payload: payload, src: src, hopLimit: hopLimit})
}
