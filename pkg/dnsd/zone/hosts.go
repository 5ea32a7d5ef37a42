package zone

import (
	"github.com/miekg/dns"
)

// room is memory for the node of a host with one record. There may be as many thousands
// of static hosts as somebody likes: their memory is allocated together.
type room struct {
	node   node
	set    [1]rrset
	record [1]record
}

// fill makes r the node of a host with that record.
func (r *room) fill(rtype uint16, data record) *node {
	r.record[0] = data
	r.set[0] = rrset{rtype: rtype, records: r.record[:]}
	r.node = node{sets: r.set[:], complete: true}
	return &r.node
}

// addHosts gives v the static hosts.
func addHosts(v *View, all []Host) {
	size := 0
	for i := range all {
		size += len(all[i].Addr.AsSlice()) + len(all[i].Name) + len(v.domain) + len("..") // of the data of both records
	}
	rooms, data := make([]room, 2*len(all)), make([]byte, 0, size)
	for i, h := range all {
		key := staticKey(v, h.Name)
		if n := v.staticNames[key]; n != nil {
			n.addHost(h)
		} else {
			start := len(data)
			data = appendAddr(data, h)
			v.staticNames[key] = rooms[2*i].fill(h.addrType(), h.record(data[start:len(data):len(data)]))
		}
		if v.staticAddrs[h.Addr] == nil {
			start := len(data)
			data = appendTarget(v, data, h.Name, key)
			v.staticAddrs[h.Addr] = rooms[2*i+1].fill(dns.TypePTR, h.record(data[start:len(data):len(data)]))
		}
	}
}

// addrType returns the type of the record of h's address.
func (h Host) addrType() uint16 {
	if h.Addr.Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}

// appendAddr appends the data of the record of h's address.
func appendAddr(b []byte, h Host) []byte {
	if h.Addr.Is4() {
		a := h.Addr.As4()
		return append(b, a[:]...)
	}
	a := h.Addr.As16()
	return append(b, a[:]...)
}
