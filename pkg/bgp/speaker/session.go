package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/vnetd/vnetd/pkg/bgp"
)

// How long is waited before a neighbour whose session ended is connected again, or one that
// could not be asked: longer where the session did not stand for long.
const (
	pause     = time.Second
	longPause = 5 * time.Second
	stood     = 30 * time.Second
)

// deferral is how long a router that does not say when it has told all is waited for before it
// is told something, in seconds: nothing that it tells is of use here.
const deferral = 1

// add has a neighbour be connected, from now on or as soon as that can be.
func (s *speaker) add(p *peer) {
	password, err := p.password()
	if err == nil {
		err = s.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: s.neighbour(p.Neighbour, password)})
	}
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if reason := err.Error(); p.is.Reason != reason {
		p.is.Reason = reason
		s.reportLocked()
	}
	s.addLater(p, longPause)
}

// addLater is add in a while. The caller holds s.mu.
func (s *speaker) addLater(p *peer, after time.Duration) {
	time.AfterFunc(after, func() {
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if !closed {
			s.add(p)
		}
	})
}

// neighbour is n as GoBGP has it. This host says of every session that it has begun anew and that
// its routes to guests were kept, for which GoBGP has no other word than that it restarts: what a
// session carries is the kernel's, and stays when that ends (RFC 4724 section 3).
func (s *speaker) neighbour(n *bgp.Neighbour, password string) *api.Peer {
	seconds := func(d time.Duration) uint64 { return uint64(d / time.Second) }
	p := &api.Peer{
		Conf:   &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.AS, AuthPassword: password},
		Timers: &api.Timers{Config: &api.TimersConfig{ConnectRetry: seconds(n.Retry), HoldTime: seconds(n.Hold), KeepaliveInterval: max(seconds(n.Hold)/3, 1)}},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(s.cfg.Restart)), DeferralTime: deferral, LocalRestarting: true,
		},
	}
	if n.AS != s.cfg.AS && n.Hops > 1 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(n.Hops)}
	}
	family := func(afi api.Family_Afi) {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	v4, v6 := s.cfg.Families(n)
	if v4 {
		family(api.Family_AFI_IP)
	}
	if v6 {
		family(api.Family_AFI_IP6)
	}
	return p
}

// follow takes in that a session came or went.
func (s *speaker) follow(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if e.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, up := s.peer(e.Peer.State.NeighborAddress), e.Peer.State.SessionState == packet.BGP_FSM_ESTABLISHED
	switch {
	case p == nil || s.closed:
	case up && !p.is.Up:
		p.tried = ""
		p.is.Up, p.is.Since, p.is.Reason = true, time.Now(), ""
		s.reportLocked()
	case !up && p.is.Up:
		after := pause
		if time.Since(p.is.Since) < stood {
			after = longPause
		}
		p.is.Flaps++
		p.is.Up, p.is.Since, p.is.Reason = false, time.Now(), ended(&e.Peer.State)
		s.reportLocked()
		go s.renew(p, after)
	case !up && tells(e.Peer.State.DisconnectReason):
		s.because(p, ended(&e.Peer.State))
	}
}

// renew makes a neighbour anew whose session ended, so that the next one begins as all do.
func (s *speaker) renew(p *peer, after time.Duration) {
	_ = s.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: p.Address.String()}) // it has no session to be told by
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLater(p, after)
}

// peer finds a neighbour; nil where it is none. The caller holds s.mu.
func (s *speaker) peer(a netip.Addr) *peer {
	for _, p := range s.peers {
		if p.Address == a {
			return p
		}
	}
	return nil
}

// because says why a neighbour is not up, where that is news. The caller holds s.mu.
func (s *speaker) because(p *peer, reason string) {
	if p.is.Up || p.tried == reason {
		return
	}
	p.tried, p.is.Reason = reason, reason
	s.reportLocked()
}

// tells reports whether a reason is one why there is no session, and not what comes before one.
func tells(r api.PeerState_DisconnectReason) bool {
	return r != api.PeerState_DISCONNECT_REASON_UNSPECIFIED && r != api.PeerState_DISCONNECT_REASON_IDLE_TIMER_EXPIRED
}

// ended is why a session ended, in words.
func ended(st *apiutil.PeerState) string {
	switch st.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART, api.PeerState_DISCONNECT_REASON_READ_FAILED:
		return "the neighbour closed the connection"
	case api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		return "the neighbour said nothing for the hold time"
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		return "the neighbour refuses the session: it may expect another AS, or have this host's address for another neighbour"
	case api.PeerState_DISCONNECT_REASON_UNSPECIFIED:
		return "the session ended"
	}
	return st.DisconnectMessage
}

// heard takes in what GoBGP logs of a neighbour: why it is not reached is told nowhere else.
func (s *speaker) heard(neighbour, message, detail string) {
	a, err := netip.ParseAddr(neighbour)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peer(a)
	switch {
	case p == nil:
	case message == "failed to connect":
		s.because(p, strings.TrimSpace(detail[strings.LastIndex(detail, ": ")+1:])) // after the addresses
	case message == "outgoing connection IO error":
		s.because(p, "the neighbour closes connections at once: it may know no neighbour of this host's address")
	case message == "sent notification":
		s.because(p, "this host refuses the session: "+detail)
	case message == "received notification":
		s.because(p, "the neighbour refuses the session: "+detail)
	}
}

// handler passes records of GoBGP on, and tells of those that are about one neighbour.
type handler struct {
	next      slog.Handler
	heard     func(neighbour, message, detail string)
	neighbour string
}

// Enabled implements slog.Handler, as do the others.
func (h *handler) Enabled(context.Context, slog.Level) bool { return true }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	neighbour, detail := h.neighbour, ""
	var code, subcode uint8 // of a notification (RFC 4271 section 4.5)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "Key":
			neighbour = a.Value.String()
		case "Error":
			detail = a.Value.String()
		case "Code":
			code = number(a.Value)
		case "Subcode":
			subcode = number(a.Value)
		}
		return true
	})
	if code != 0 {
		detail = packet.NewNotificationErrorCode(code, subcode).String()
	}
	if neighbour != "" {
		// Not by this goroutine, which may hold what the server waits for.
		go h.heard(neighbour, r.Message, detail)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// number is the value of a code.
func number(v slog.Value) uint8 {
	if v.Kind() != slog.KindInt64 {
		return 0
	}
	return uint8(v.Int64())
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		if a.Key == "Key" {
			c.neighbour = a.Value.String()
		}
	}
	c.next = h.next.WithAttrs(attrs)
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	return &c
}
