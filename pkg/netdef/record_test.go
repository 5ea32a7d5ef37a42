package netdef_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// recordNetwork wraps records into a network with a domain.
func recordNetwork(inside string) string {
	return extended("<domain name='vm.example'/><ip address='192.0.2.1' prefix='24'/>" + inside)
}

// TestRecords reads and prints records of DNS.
func TestRecords(t *testing.T) {
	n := parse(t, []byte(recordNetwork("<vnetd:record name='*.apps' type='A' value='192.0.2.5' ttl='60'/>"+
		"<vnetd:record name='a' type='TXT' value='x; &quot;y&quot;'/>")))
	want := []netdef.Record{{Name: "*.apps", Type: "A", Value: "192.0.2.5", TTL: 60}, {Name: "a", Type: "TXT", Value: `x; "y"`}}
	again := parse(t, n.XML())
	for _, got := range [][]netdef.Record{n.Records, again.Records} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for name, whole := range map[string]string{
		"a": "a.vm.example", "*.apps": "*.apps.vm.example", "a.VM.example": "a.VM.example", "vm.example": "vm.example",
		"www.example.com.": "www.example.com", "xvm.example": "xvm.example.vm.example",
	} {
		if got := n.RecordName(name); got != whole {
			t.Errorf("%s is %s, want %s", name, got, whole)
		}
	}
}

// recordRows are faulty records.
func recordRows() []faultRow {
	return []faultRow{
		{"records", recordNetwork("<vnetd:record/><vnetd:record name='a..b' type='A' value='2001:db8::1' ttl='-1'/>" +
			"<vnetd:record name='a' type='NS' value='b'/><vnetd:record name='c' type='CNAME' value='a'/><vnetd:record name='C.vm.example' type='TXT' value=''/>"), []string{
			"network/vnetd:record[2]/@ttl: '-1': want a number from 0 to 2147483647",
			"network/vnetd:record[1]/@name: missing, want the name of the record",
			"network/vnetd:record[1]/@type: want one of A, AAAA, CAA, CNAME, HTTPS, MX, SRV, SVCB, TXT",
			"network/vnetd:record[2]/@name: 'a..b.vm.example': want labels of 1 to 63 characters between the dots",
			"network/vnetd:record[2]/@value: '2001:db8::1': want an IPv4 address",
			"network/vnetd:record[3]/@type: 'NS': want one of A, AAAA, CAA, CNAME, HTTPS, MX, SRV, SVCB, TXT",
			"network/vnetd:record[5]/@name: 'C.vm.example': want nothing else of a name that has a CNAME record",
		}},
		{"records of a bridge", lan("<vnetd:record name='a' type='A' value='192.0.2.5'/>"), []string{
			"network/vnetd:record: not allowed in mode bridge: the network serves no DNS",
		}},
		{"records without DNS", extended("<dns enable='no'/><ip address='192.0.2.1' prefix='24'/><vnetd:record name='a' type='A' value='192.0.2.5'/>"), []string{
			"network/vnetd:record: not allowed with <dns enable='no'/>",
		}},
	}
}
