package nstest

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// LANName is the name that the LAN's name server knows: the LAN host's.
const LANName = "lan-host.example."

// NameServer is a name server on the LAN host, port 53 over UDP and TCP. It
// answers LANName and knows nothing else.
type NameServer struct {
	mu      sync.Mutex
	clients []netip.Addr
	names   []string
}

// Queries returns the names that were asked for and by whom, oldest first.
func (s *NameServer) Queries() (names []string, clients []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.names...), append([]netip.Addr(nil), s.clients...)
}

// NewNameServer starts the name server in lan, ended with the test.
func NewNameServer(t TB, lan *NS) *NameServer {
	t.Helper()
	s := new(NameServer)
	udp, tcp := &dns.Server{Handler: s}, &dns.Server{Handler: s}
	err := lan.Do(func() (err error) {
		if udp.PacketConn, err = net.ListenPacket("udp4", LANHost+":53"); err != nil {
			return err
		}
		tcp.Listener, err = net.Listen("tcp4", LANHost+":53")
		return err
	})
	if err != nil {
		t.Fatalf("starting the name server on the LAN: %v", err)
	}
	for _, server := range []*dns.Server{udp, tcp} {
		started, done := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			_ = server.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { _ = server.ShutdownContext(context.Background()); <-done })
	}
	return s
}

// ServeDNS answers one query.
func (s *NameServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	for _, q := range query.Question {
		s.note(q.Name, w.RemoteAddr())
		switch {
		case dns.CanonicalName(q.Name) != LANName:
			reply.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			header := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: net.ParseIP(LANHost)})
		}
	}
	_ = w.WriteMsg(reply)
}

func (s *NameServer) note(name string, from net.Addr) {
	client, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	s.clients = append(s.clients, client.Addr())
}
