package dnsd_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd"
)

// probe is a query like those by which servers are judged that are to do DNS as its RFCs have
// it, sent to the server of a zone, and what is looked at in the answer.
type probe struct {
	name   string
	change func(m *dns.Msg)
	rcode  int
	checks string // see faultsOf
	raw    func(b []byte) []byte
}

// opt gives m an OPT record, which change may alter.
func opt(change func(o *dns.OPT)) func(m *dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(4096, false)
		change(m.IsEdns0())
	}
}

// unknownOption gives o an option of a code that nobody has, as the probes do.
func unknownOption(o *dns.OPT) {
	o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: 100, Data: []byte{1}})
}

// bit sets bits of the header's third and fourth octet.
func bit(third, fourth byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b[2] |= third
		b[3] |= fourth
		return b
	}
}

// probes are the queries for the zone's SOA record.
func probes() []probe {
	version1 := func(o *dns.OPT) { o.SetVersion(1) }
	return append(opcodes(), []probe{
		{"dns", nil, 0, "soa aa noopt", nil},
		{"aa", nil, 0, "soa aa noopt", bit(0x04, 0)},
		{"tc", nil, 0, "soa aa noopt notc", bit(0x02, 0)},
		{"rd", nil, 0, "soa aa noopt rd", bit(0x01, 0)},
		{"ra", nil, 0, "soa aa noopt", bit(0, 0x80)},
		{"z", nil, 0, "soa aa noopt noz", bit(0, 0x40)},
		{"ad", nil, 0, "soa aa noopt noad", bit(0, 0x20)},
		{"cd", nil, 0, "soa aa noopt", bit(0, 0x10)},
		{"edns", opt(func(*dns.OPT) {}), 0, "soa aa opt", nil},
		{"edns1", opt(version1), dns.RcodeBadVers, "nosoa opt", nil},
		{"edns@512", opt(func(o *dns.OPT) { o.SetUDPSize(512) }), 0, "soa aa opt", nil},
		{"ednsopt", opt(unknownOption), 0, "soa aa opt noecho", nil},
		{"edns1opt", opt(func(o *dns.OPT) { version1(o); unknownOption(o) }), dns.RcodeBadVers, "nosoa opt noecho", nil},
		{"do", opt(func(o *dns.OPT) { o.SetDo() }), 0, "soa aa opt do", nil},
		{"do1", opt(func(o *dns.OPT) { version1(o); o.SetDo() }), dns.RcodeBadVers, "nosoa opt", nil},
		{"ednsflags", opt(func(o *dns.OPT) { o.Hdr.Ttl |= 0x80 }), 0, "soa aa opt nombz", nil},
		{"edns1flags", opt(func(o *dns.OPT) { version1(o); o.Hdr.Ttl |= 0x80 }), dns.RcodeBadVers, "nosoa opt nombz", nil},
		{"docookie", opt(func(o *dns.OPT) {
			o.SetDo()
			o.Option = append(o.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})
		}), 0, "soa aa opt do", nil},
		{"optlist", opt(func(o *dns.OPT) {
			o.Option = []dns.EDNS0{
				&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: make([]byte, 4)},
				&dns.EDNS0_EXPIRE{Code: dns.EDNS0EXPIRE, Empty: true}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
				&dns.EDNS0_PADDING{Padding: make([]byte, 40)}, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE},
			}
		}), 0, "soa aa opt", nil},
		{"signed", opt(func(o *dns.OPT) { o.SetDo(); o.SetUDPSize(1232) }), 0, "soa aa opt do", nil},
	}...)
}

// opcodes are queries of all opcodes but QUERY's, with and without EDNS, and with all
// the flags that there are.
func opcodes() []probe {
	var all []probe
	for code := 1; code < 16; code++ {
		set := bit(byte(code)<<3, 0)
		all = append(all,
			probe{fmt.Sprintf("opcode%d", code), nil, dns.RcodeNotImplemented, "nosoa noopt opcode", set},
			probe{fmt.Sprintf("opcode%d edns", code), opt(unknownOption), dns.RcodeNotImplemented, "nosoa opt noecho opcode", set},
			probe{fmt.Sprintf("opcode%d flags", code), nil, dns.RcodeNotImplemented, "nosoa noopt opcode noz noad noaa", bit(byte(code)<<3|0x07, 0xf0)})
	}
	return append(all, probe{"header only", nil, dns.RcodeFormatError, "nosoa noopt", func(b []byte) []byte {
		return append(append([]byte{}, b[:4]...), make([]byte, 8)...)
	}})
}

// faultsOf returns what is wrong with reply, the answer to query, by the words of the checks.
func faultsOf(t *testing.T, checks string, query, reply []byte) []string {
	t.Helper()
	r := new(dns.Msg)
	if err := r.Unpack(reply); err != nil {
		return []string{"malformed"}
	}
	o := r.IsEdns0()
	soa := len(r.Answer) == 1 && r.Answer[0].Header().Rrtype == dns.TypeSOA
	holds := map[string]bool{
		"soa": soa, "nosoa": len(r.Answer) == 0, "aa": r.Authoritative, "noaa": !r.Authoritative,
		"opt": o != nil, "noopt": o == nil, "notc": !r.Truncated, "rd": r.RecursionDesired, "noz": !r.Zero, "noad": !r.AuthenticatedData,
		"opcode": reply[2]>>3&0xf == query[2]>>3&0xf,
	}
	if o != nil {
		holds["do"], holds["noecho"], holds["nombz"] = o.Do(), len(o.Option) == 0, o.Hdr.Ttl&0x7fff == 0
		if o.Version() != 0 {
			return []string{"version"}
		}
	}
	faults := slices.DeleteFunc(strings.Fields(checks), func(check string) bool { return holds[check] })
	if !r.Response || r.Id != binary.BigEndian.Uint16(query) {
		faults = append(faults, "header")
	}
	return faults
}

// TestCompliance: a zone of ours answers as the RFCs say to whatever flags, opcodes, and
// EDNS versions, options and flags a query has, over either transport.
func TestCompliance(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{
		Addrs: []netip.Addr{addr(gateway)}, Domain: "vm.example", LocalOnly: true,
		Static: []dnsd.Host{{Name: "gateway", Addr: addr(gateway)}}, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	for _, zone := range []string{"vm.example.", "2.0.192.in-addr.arpa."} {
		for _, p := range probes() {
			m := question(zone, dns.TypeSOA)
			m.RecursionDesired = false
			if p.change != nil {
				p.change(m)
			}
			query := mustPack(t, m)
			if p.raw != nil {
				query = p.raw(query)
			}
			reply, forwarded := s.RespondUDP(bytes.Clone(query), nil)
			if forwarded || reply == nil {
				t.Errorf("%s of %s: no answer of our own", p.name, zone)
				continue
			}
			faults := faultsOf(t, p.checks, query, reply)
			r := new(dns.Msg)
			if err := r.Unpack(reply); err != nil || r.Rcode != p.rcode {
				faults = append(faults, "rcode "+dns.RcodeToString[r.Rcode])
			}
			if len(faults) > 0 {
				t.Errorf("%s of %s: %v", p.name, zone, faults)
			}
		}
	}
}

// TestTypesAndClasses: of whatever type of record, the zone's own name and a host's exist;
// meta types and other classes are refused.
func TestTypesAndClasses(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{
		Addrs: []netip.Addr{addr(gateway)}, Domain: "vm.example", LocalOnly: true, NoForward: true,
		Static: []dnsd.Host{{Name: "gateway", Addr: addr(gateway)}},
	})
	for qtype := range 1 << 16 {
		meta := qtype == 0 || qtype == int(dns.TypeOPT) || qtype >= 128 && qtype < 255
		want := map[bool]int{true: dns.RcodeRefused}[meta]
		for _, name := range []string{"vm.example.", "gateway.vm.example."} {
			reply, forwarded := s.RespondUDP(mustPack(t, question(name, uint16(qtype))), nil)
			if r := new(dns.Msg); forwarded || r.Unpack(reply) != nil || r.Rcode != want || r.Authoritative == meta {
				t.Fatalf("%s, type %d: %v", name, qtype, r)
			}
		}
	}
	for class := range 1 << 16 {
		m := question("vm.example.", dns.TypeSOA)
		m.Question[0].Qclass = uint16(class)
		want := map[bool]int{false: dns.RcodeRefused}[class == dns.ClassINET]
		reply, forwarded := s.RespondUDP(mustPack(t, m), nil)
		if r := new(dns.Msg); forwarded || r.Unpack(reply) != nil || r.Rcode != want {
			t.Fatalf("class %d: %v", class, r)
		}
	}
}
