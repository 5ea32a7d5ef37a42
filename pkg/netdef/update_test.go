package netdef_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// updateNetwork is what the updates below change. Every line is an entry, so
// that a row can name what changes by lines.
const updateNetwork = `<network>
  <name>n</name>
  <forward dev='eno1' mode='nat'>
    <interface dev='eno1'/>
  </forward>
  <bridge name='virbr0' stp='on' delay='0'/>
  <dns>
    <txt name='a' value='1'/>
    <srv service='ldap' protocol='tcp' domain='x' target='one'/>
    <srv service='ldap' protocol='tcp' domain='y' target='two'/>
    <host ip='192.0.2.2'>
      <hostname>gw</hostname>
      <hostname>gateway</hostname>
    </host>
    <host ip='192.0.2.3'>
      <hostname>gateway</hostname>
    </host>
  </dns>
  <ip address='192.0.2.1' netmask='255.255.255.128'>
  </ip>
  <ip family='ipv6' address='2001:db8::1' prefix='64'>
  </ip>
  <ip address='192.0.2.129' netmask='255.255.255.128'>
    <dhcp>
      <range start='192.0.2.130' end='192.0.2.140'/>
      <host name='anyone' ip='192.0.2.150'/>
      <host mac='00:00:5e:00:53:01' name='one' ip='192.0.2.151'/>
    </dhcp>
  </ip>
  <portgroup name='web' default='yes'>
  </portgroup>
</network>
`

// updateRow is an update and what becomes of updateNetwork: the lines that go
// and come, or the error.
type updateRow struct {
	command, section string
	index            int
	xml              string
	lines            string // "-line" and "+line", joined with "|"
	reason           netdef.Reason
	fails            string
}

func updateRows() []updateRow {
	return slices.Concat(dhcpUpdateRows(), rangeUpdateRows(), dnsUpdateRows(), portUpdateRows(), refusedUpdateRows())
}

// recordUpdateRows change the records of recordsNetwork.
func recordUpdateRows() []updateRow {
	const section = "vnetd-record"
	return []updateRow{
		{command: "add", section: section, xml: "<vnetd:record name='b' type='TXT' value=''/>", lines: "+<vnetd:record name='b' type='TXT' value=''/>"},
		{
			command: "add-first", section: section, xml: "<v:record xmlns:v='urn:vnetd:network:1' name='*.b' type='A' value='192.0.2.9' ttl='5'/>",
			lines: "+<vnetd:record name='*.b' type='A' value='192.0.2.9' ttl='5'/>",
		},
		{command: "add", section: section, xml: "<record name='a' type='A' value='192.0.2.7'/>", lines: "+<vnetd:record name='a' type='A' value='192.0.2.7'/>"},
		{
			command: "add", section: section, xml: "<record name='A.vm.example' type='A' value='192.0.2.5'/>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <vnetd:record name='a' type='A' value='192.0.2.5'/>, which matches <vnetd:record name='A.vm.example' type='A' value='192.0.2.5'/>",
		},
		{
			command: "add", section: section, xml: "<record name='www' type='TXT' value='x'/>",
			fails: "network/vnetd:record[4]/@name: 'www': want nothing else of a name that has a CNAME record",
		},
		{command: "add", section: section, xml: "<record name='b' type='A' value='x'/>", fails: "network/vnetd:record[4]/@value: 'x': want an IPv4 address"},
		{
			command: "add", section: section, xml: "<record nmae='b' type='A' value='192.0.2.7'/>",
			fails: "record/@nmae: 'b': the attribute is not known to this version of vnetd\nrecord/@name: missing, want the name of the record",
		},
		{command: "add", section: section, xml: "<record name='b' value='192.0.2.7'/>", fails: "record/@type: missing, want the type of the record"},
		{
			command: "modify", section: section, xml: "<record name='www' type='CNAME' value='b' ttl='9'/>",
			lines: "-<vnetd:record name='www' type='CNAME' value='a'/>|+<vnetd:record name='www' type='CNAME' value='b' ttl='9'/>",
		},
		{
			command: "modify", section: section, xml: "<record name='a' type='A' value='192.0.2.7'/>", reason: netdef.ErrAmbiguous,
			fails: "network 'n' has 2 entries that match <vnetd:record name='a' type='A' value='192.0.2.7'/>: " +
				"<vnetd:record name='a' type='A' value='192.0.2.5'/> and <vnetd:record name='a' type='A' value='192.0.2.6'/>",
		},
		{
			command: "modify", section: section, xml: "<record name='b' type='A' value='192.0.2.7'/>", reason: netdef.ErrNoEntry,
			fails: "network 'n' has no entry that matches <vnetd:record name='b' type='A' value='192.0.2.7'/>",
		},
		{command: "delete", section: section, xml: "<record name='WWW.vm.example.'/>", lines: "-<vnetd:record name='www' type='CNAME' value='a'/>"},
		{command: "delete", section: section, xml: "<record name='a' type='A' value='192.0.2.6'/>", lines: "-<vnetd:record name='a' type='A' value='192.0.2.6'/>"},
		{
			command: "delete", section: section, xml: "<record name='a' type='AAAA'/>", reason: netdef.ErrNoEntry,
			fails: "network 'n' has no entry that matches <vnetd:record name='a' type='AAAA' value=''/>",
		},
		{command: "delete", section: section, xml: "<record type='A'/>", fails: "record/@name: missing, want the name of the record"},
		{command: "add", section: section, xml: "<x:record xmlns:x='urn:x' name='b' type='A' value='192.0.2.7'/>", fails: "the entry is a <x:record>, want <record> for the 'vnetd-record' section"},
		{command: "add", section: section, xml: "<dnsmasq:record/>", fails: "line 1: the namespace prefix of <dnsmasq:record> is not declared"},
	}
}

// TestUpdateRecords changes records of vnetd's own, whose namespace need not be declared.
func TestUpdateRecords(t *testing.T) {
	before := string(parse(t, []byte(recordNetwork("<vnetd:record name='a' type='A' value='192.0.2.5'/><vnetd:record name='a' type='A' value='192.0.2.6'/>"+
		"<vnetd:record name='www' type='CNAME' value='a'/>"))).XML())
	for _, tt := range recordUpdateRows() {
		t.Run(tt.command+" "+tt.xml, func(t *testing.T) {
			n := parse(t, []byte(before))
			err := n.Update(updateOf(t, tt))
			if diff := cmp.Diff(tt.fails, text(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.lines, changedLines(before, string(n.XML()))); diff != "" {
				t.Errorf("changed lines (-want +got):\n%s", diff)
			}
			checkReason(t, err, tt.reason)
		})
	}
}

func dhcpUpdateRows() []updateRow {
	const section = "ip-dhcp-host"
	return []updateRow{
		{
			command: "add", section: section, index: -1, xml: "<host mac='0:0:5e:0:53:2' ip='192.0.2.152'><lease expiry='1' unit='hours'/></host>",
			lines: "+<host mac='0:0:5e:0:53:2' ip='192.0.2.152'>|+<lease expiry='1' unit='hours'/>|+</host>",
		},
		{command: "add-first", section: section, index: 2, xml: "<host name='two' ip='192.0.2.152'/>", lines: "+<host name='two' ip='192.0.2.152'/>"},
		{
			command: "add", section: section, index: 1, xml: "<host id='0:1:2' ip='2001:db8::9'/>",
			lines: "+<dhcp>|+<host id='0:1:2' ip='2001:db8::9'/>|+</dhcp>",
		},
		{
			command: "add", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:01' name='two' ip='192.0.2.152'/>",
			reason: netdef.ErrEntryExists, fails: "network 'n' already has <host mac='00:00:5e:00:53:01' name='one' ip='192.0.2.151'/>, which matches <host mac='00:00:5e:00:53:01' name='two' ip='192.0.2.152'/>",
		},
		{
			command: "add", section: section, index: -1, xml: "<host name='anyone' ip='192.0.2.152'/>",
			reason: netdef.ErrEntryExists, fails: "network 'n' already has <host name='anyone' ip='192.0.2.150'/>, which matches <host name='anyone' ip='192.0.2.152'/>",
		},
		{
			command: "add", section: section, index: -1, xml: "<host name='two' ip='192.0.2.150'/>",
			reason: netdef.ErrEntryExists, fails: "network 'n' already has <host name='anyone' ip='192.0.2.150'/>, which matches <host name='two' ip='192.0.2.150'/>",
		},
		{
			command: "add", section: section, index: 0, xml: "<host name='two' ip='192.0.2.9'/>",
			fails: "network/ip[3]/dhcp: want DHCP on one <ip> of a family, and it is on network/ip[1]",
		},
		{
			command: "add", section: section, index: 3, xml: "<host name='two' ip='192.0.2.9'/>",
			reason: netdef.ErrNoEntry, fails: "network 'n' has no <ip> with index 3: it has 3, counted from 0",
		},
		{command: "add", section: section, index: -1, xml: "<host name='two'/>", fails: "network/ip[3]/dhcp/host[3]/@ip: missing, want an IP address"},
		{
			command: "add", section: section, index: -1, xml: "<host name='two' ip='x'/>",
			fails: "host/@ip: 'x': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
		},
		{
			command: "modify", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:01' name='new' ip='192.0.2.200'/>",
			lines: "-<host mac='00:00:5e:00:53:01' name='one' ip='192.0.2.151'/>|+<host mac='00:00:5e:00:53:01' name='new' ip='192.0.2.200'/>",
		},
		{
			command: "modify", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:09' ip='192.0.2.150'/>",
			lines: "-<host name='anyone' ip='192.0.2.150'/>|+<host mac='00:00:5e:00:53:09' ip='192.0.2.150'/>",
		},
		{
			command: "modify", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:09' ip='192.0.2.209'/>",
			reason: netdef.ErrNoEntry, fails: "network 'n' has no entry that matches <host mac='00:00:5e:00:53:09' ip='192.0.2.209'/>",
		},
		{command: "delete", section: section, index: -1, xml: "<host ip='192.0.2.151'/>", lines: "-<host mac='00:00:5e:00:53:01' name='one' ip='192.0.2.151'/>"},
		{
			command: "delete", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:01' name='two'/>",
			reason: netdef.ErrNoEntry, fails: "network 'n' has no entry that matches <host mac='00:00:5e:00:53:01' name='two'/>",
		},
		{
			command: "delete", section: section, index: -1, xml: "<host mac='00:00:5e:00:53:09'/>",
			reason: netdef.ErrNoEntry, fails: "network 'n' has no entry that matches <host mac='00:00:5e:00:53:09'/>",
		},
		{command: "delete", section: section, index: -1, xml: "<host/>", fails: "host: want a mac, name or ip to know the entry by"},
	}
}

func rangeUpdateRows() []updateRow {
	const section = "ip-dhcp-range"
	const entry = "<range start='192.0.2.130' end='192.0.2.140'/>"
	return []updateRow{
		{command: "add-last", section: section, index: -1, xml: "<range start='192.0.2.141' end='192.0.2.142'/>", lines: "+<range start='192.0.2.141' end='192.0.2.142'/>"},
		{
			command: "add-last", section: section, index: -1, xml: entry, reason: netdef.ErrEntryExists,
			fails: "network 'n' already has " + entry + ", which matches " + entry,
		},
		{
			command: "add-last", section: section, index: -1, xml: "<range start='192.0.2.2' end='192.0.2.3'/>",
			fails: "network/ip[3]/dhcp/range[2]/@start: '192.0.2.2': want an address in the subnet 192.0.2.128/25\n" +
				"network/ip[3]/dhcp/range[2]/@end: '192.0.2.3': want an address in the subnet 192.0.2.128/25",
		},
		{command: "delete", section: section, index: -1, xml: entry, lines: "-" + entry},
		{
			command: "delete", section: section, index: -1, xml: "<range start='192.0.2.130' end='192.0.2.139'/>",
			reason: netdef.ErrNoEntry, fails: "network 'n' has no entry that matches <range start='192.0.2.130' end='192.0.2.139'/>",
		},
		{command: "delete", section: section, index: -1, xml: "<range start='192.0.2.130'/>", fails: "range/@end: missing, want an IP address"},
		{
			command: "modify", section: section, index: -1, xml: entry, reason: netdef.ErrUnsupported,
			fails: "an entry of the 'ip-dhcp-range' section of network 'n' can't be modified: delete it and add the new one",
		},
	}
}

func dnsUpdateRows() []updateRow {
	return []updateRow{
		{
			command: "add", section: "dns-host", xml: "<host ip='192.0.2.4'><hostname>gateway</hostname></host>",
			lines: "+<host ip='192.0.2.4'>|+<hostname>gateway</hostname>|+</host>",
		},
		{
			command: "add", section: "dns-host", xml: "<host ip='192.0.2.3'><hostname>new</hostname></host>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <host ip='192.0.2.3'><hostname>gateway</hostname></host>, which matches <host ip='192.0.2.3'><hostname>new</hostname></host>",
		},
		{
			command: "modify", section: "dns-host", xml: "<host ip='192.0.2.3'><hostname>new</hostname></host>",
			lines: "-<hostname>gateway</hostname>|+<hostname>new</hostname>",
		},
		{command: "modify", section: "dns-host", xml: "<host ip='192.0.2.3'/>", fails: "network/dns/host[2]/hostname: missing, want at least one"},
		{command: "modify", section: "dns-host", xml: "<host><hostname>gw</hostname></host>", fails: "host/@ip: missing, want an IP address"},
		{
			command: "delete", section: "dns-host", xml: "<host><hostname>gw</hostname></host>",
			lines: "-<host ip='192.0.2.2'>|-<hostname>gw</hostname>|-<hostname>gateway</hostname>|-</host>",
		},
		{
			command: "delete", section: "dns-host", xml: "<host><hostname>gateway</hostname></host>", reason: netdef.ErrAmbiguous,
			fails: "network 'n' has 2 entries that match <host><hostname>gateway</hostname></host>: <host ip='192.0.2.2'><hostname>gw</hostname><hostname>gateway</hostname></host> and <host ip='192.0.2.3'><hostname>gateway</hostname></host>",
		},
		{command: "delete", section: "dns-host", xml: "<host/>", fails: "host/@ip: missing, want an IP address"},
		{command: "add-first", section: "dns-txt", xml: "<txt name='b' value=''/>", lines: "+<txt name='b' value=''/>"},
		{
			command: "add", section: "dns-txt", xml: "<txt name='a' value='2'/>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <txt name='a' value='1'/>, which matches <txt name='a' value='2'/>",
		},
		{command: "modify", section: "dns-txt", xml: "<txt name='a' value='2'/>", lines: "-<txt name='a' value='1'/>|+<txt name='a' value='2'/>"},
		{command: "modify", section: "dns-txt", xml: "<txt name='a'/>", fails: "txt/@value: missing, want the text of the record"},
		{command: "delete", section: "dns-txt", xml: "<txt name='a'/>", lines: "-<txt name='a' value='1'/>"},
		{command: "delete", section: "dns-txt", xml: "<txt value='1'/>", fails: "txt/@name: missing, want the name of the record"},
		{command: "add", section: "dns-srv", xml: "<srv service='name' protocol='udp'/>", lines: "+<srv service='name' protocol='udp'/>"},
		{
			command: "add", section: "dns-srv", xml: "<srv service='ldap' protocol='tcp'/>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <srv service='ldap' protocol='tcp' domain='x' target='one'/>, which matches <srv service='ldap' protocol='tcp'/>",
		},
		{command: "delete", section: "dns-srv", xml: "<srv service='ldap' target='two'/>", lines: "-<srv service='ldap' protocol='tcp' domain='y' target='two'/>"},
		{
			command: "delete", section: "dns-srv", xml: "<srv service='ldap'/>", reason: netdef.ErrAmbiguous,
			fails: "network 'n' has 2 entries that match <srv service='ldap'/>: <srv service='ldap' protocol='tcp' domain='x' target='one'/> and <srv service='ldap' protocol='tcp' domain='y' target='two'/>",
		},
		{
			command: "modify", section: "dns-srv", xml: "<srv service='ldap'/>", reason: netdef.ErrAmbiguous,
			fails: "network 'n' has 2 entries that match <srv service='ldap'/>: <srv service='ldap' protocol='tcp' domain='x' target='one'/> and <srv service='ldap' protocol='tcp' domain='y' target='two'/>",
		},
		{
			command: "modify", section: "dns-srv", xml: "<srv service='ldap' protocol='tcp' domain='y' target='two' port='1221' priority='42' weight='69'/>",
			lines: "-<srv service='ldap' protocol='tcp' domain='y' target='two'/>|+<srv service='ldap' protocol='tcp' domain='y' target='two' port='1221' priority='42' weight='69'/>",
		},
		{
			command: "modify", section: "dns-srv", xml: "<srv service='ldap' protocol='tcp' domain='z'/>", reason: netdef.ErrNoEntry,
			fails: "network 'n' has no entry that matches <srv service='ldap' protocol='tcp' domain='z'/>",
		},
		{
			command: "modify", section: "dns-srv", xml: "<srv service='ldap' domain='x'/>",
			fails: "network/dns/srv[1]/@protocol: missing, want a protocol like tcp",
		},
	}
}

func portUpdateRows() []updateRow {
	return []updateRow{
		{command: "add", section: "portgroup", xml: "<portgroup name='db'/>", lines: "+<portgroup name='db'>|+</portgroup>"},
		{
			command: "add", section: "portgroup", xml: "<portgroup name='web'/>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <portgroup name='web' default='yes'></portgroup>, which matches <portgroup name='web'></portgroup>",
		},
		{
			command: "add", section: "portgroup", xml: "<portgroup name='db' default='yes'/>",
			fails: "network/portgroup[2]/@default: 'yes': want one default group, and network/portgroup[1] is",
		},
		{command: "add", section: "portgroup", xml: "<portgroup/>", fails: "portgroup/@name: missing, want a name"},
		{command: "modify", section: "portgroup", xml: "<portgroup name='web'/>", lines: "-<portgroup name='web' default='yes'>|+<portgroup name='web'>"},
		{command: "delete", section: "portgroup", xml: "<portgroup name='web'/>", lines: "-<portgroup name='web' default='yes'>|-</portgroup>"},
		{
			command: "delete", section: "portgroup", xml: "<portgroup name='db'/>", reason: netdef.ErrNoEntry,
			fails: "network 'n' has no entry that matches <portgroup name='db'></portgroup>",
		},
		{
			command: "delete", section: "forward-interface", xml: "<interface dev='eno1'/>",
			lines: "-<forward dev='eno1' mode='nat'>|-<interface dev='eno1'/>|-</forward>|+<forward mode='nat'/>",
		},
		{
			command: "delete", section: "forward-interface", xml: "<interface dev='eno2'/>", reason: netdef.ErrNoEntry,
			fails: "network 'n' has no entry that matches <interface dev='eno2'/>",
		},
		{
			command: "add", section: "forward-interface", xml: "<interface dev='eno1'/>", reason: netdef.ErrEntryExists,
			fails: "network 'n' already has <interface dev='eno1'/>, which matches <interface dev='eno1'/>",
		},
		{
			command: "add", section: "forward-interface", xml: "<interface dev='eno2'/>",
			fails: "network/forward/interface[2]/@dev: 'eno2': only one interface is allowed in mode nat",
		},
		{command: "add", section: "forward-interface", xml: "<interface/>", fails: "interface/@dev: missing, want the name of an interface"},
	}
}

func refusedUpdateRows() []updateRow {
	rows := []updateRow{
		{command: "add", section: "dns-txt", xml: "<srv/>", fails: "the entry is a <srv>, want <txt> for the 'dns-txt' section"},
		{command: "add", section: "dns-txt", xml: "<txt", fails: "line 1: not well-formed XML: unexpected EOF"},
	}
	for _, section := range []string{"bridge", "domain", "ip", "forward", "forward-pf"} {
		rows = append(rows, updateRow{
			command: "add", section: section, xml: "<x/>", reason: netdef.ErrUnsupported,
			fails: "can't update '" + section + "' section of network 'n'",
		})
	}
	return rows
}

func TestUpdate(t *testing.T) {
	for _, tt := range updateRows() {
		t.Run(tt.command+" "+tt.section+" "+tt.xml, func(t *testing.T) {
			n := parse(t, []byte(updateNetwork))
			err := n.Update(updateOf(t, tt))
			if diff := cmp.Diff(tt.fails, text(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.lines, changedLines(updateNetwork, string(n.XML()))); diff != "" {
				t.Errorf("changed lines (-want +got):\n%s", diff)
			}
			checkReason(t, err, tt.reason)
			if diff := cmp.Diff(n, parse(t, n.XML()), same()); diff != "" {
				t.Errorf("printed and parsed again (-want +got):\n%s", diff)
			}
		})
	}
}

// updateOf returns a row's update.
func updateOf(t testing.TB, tt updateRow) netdef.Update {
	t.Helper()
	command, err := netdef.ParseCommand(tt.command)
	section, err2 := netdef.ParseSection(tt.section)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return netdef.Update{Command: command, Section: section, Index: tt.index, XML: []byte(tt.xml)}
}

// checkReason checks the kind of an error: an UpdateError with a reason, or
// Faults without.
func checkReason(t *testing.T, err error, want netdef.Reason) {
	t.Helper()
	var faults netdef.Faults
	var refused *netdef.UpdateError
	switch {
	case err == nil:
	case want == "" && !errors.As(err, &faults):
		t.Errorf("the error is a %T, want Faults", err)
	case want != "" && (!errors.Is(err, want) || !errors.As(err, &refused) || refused.Network != "n"):
		t.Errorf("the error is a %T for %q, want an UpdateError for %q", err, text(errors.Unwrap(err)), want)
	}
}

// changedLines returns what distinguishes two texts, trimmed: the lines between
// their common beginning and end.
func changedLines(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var changed []string
	for _, line := range a {
		changed = append(changed, "-"+strings.TrimSpace(line))
	}
	for _, line := range b {
		changed = append(changed, "+"+strings.TrimSpace(line))
	}
	return strings.Join(changed, "|")
}

// TestUpdateEmpties checks that an element goes with its last entry, and comes
// with its first, and that no <ip> and no <forward> come from nothing.
func TestUpdateEmpties(t *testing.T) {
	n := parse(t, []byte(network("")))
	before := string(n.XML())
	for _, tt := range []updateRow{
		{section: "dns-txt", xml: "<txt name='a' value='1'/>"},
		{section: "dns-host", xml: "<host ip='192.0.2.1'><hostname>a</hostname></host>"},
		{section: "portgroup", xml: "<portgroup name='a'/>"},
	} {
		for _, tt.command = range []string{"add", "delete"} {
			if err := n.Update(updateOf(t, tt)); err != nil {
				t.Fatalf("%s %s: %v", tt.command, tt.section, err)
			}
		}
		if diff := cmp.Diff(before, string(n.XML())); diff != "" {
			t.Errorf("%s added and deleted (-before +after):\n%s", tt.section, diff)
		}
	}
	for _, tt := range []updateRow{
		{command: "add", section: "ip-dhcp-host", index: -1, xml: "<host name='a' ip='192.0.2.1'/>", fails: "network 'n' has no <ip> to have DHCP on"},
		{command: "add", section: "forward-interface", xml: "<interface dev='eno1'/>", fails: "network 'n' is isolated: it has no <forward> to have an interface"},
	} {
		err := n.Update(updateOf(t, tt))
		if diff := cmp.Diff(tt.fails, text(err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.section, diff)
		}
		checkReason(t, err, netdef.ErrNoEntry)
	}
}

// TestUpdateSubnet checks which <ip> is meant when none is named.
func TestUpdateSubnet(t *testing.T) {
	const v4, v6 = "<ip address='192.0.2.1' prefix='24'/>", "<ip family='ipv6' address='2001:db8::1' prefix='64'/>"
	const dhcp6 = "<ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp><host name='b' ip='2001:db8::3'/></dhcp></ip>"
	for _, tt := range []struct{ ips, host, want string }{
		{v6 + v4, "<host name='a' ip='192.0.2.2'/>", ""},
		{v6, "<host name='a' ip='2001:db8::2'/>", ""},
		{v4 + dhcp6, "<host name='a' ip='2001:db8::2'/>", ""},
		{
			v4 + dhcp6, "<host name='a' ip='192.0.2.2'/>",
			"network/ip[2]/dhcp/host[2]/@ip: '192.0.2.2': want an address of the same family as 2001:db8::1",
		},
	} {
		n := parse(t, []byte(network(tt.ips)))
		err := n.Update(updateOf(t, updateRow{command: "add", section: "ip-dhcp-host", index: -1, xml: tt.host}))
		if diff := cmp.Diff(tt.want, text(err)); diff != "" {
			t.Errorf("%s to %s (-want +got):\n%s", tt.host, tt.ips, diff)
		}
	}
}

// TestUpdateNames checks the names and libvirt's numbers, which clients of its
// protocol send.
func TestUpdateNames(t *testing.T) {
	for number, name := range map[netdef.Command]string{1: "modify", 2: "delete", 3: "add-last", 4: "add-first"} {
		if c, err := netdef.ParseCommand(name); c != number || err != nil || number.String() != name {
			t.Errorf("command %s: got %d (%s), %v, want %d", name, c, c, err, number)
		}
	}
	sections := []string{
		"bridge", "domain", "ip", "ip-dhcp-host", "ip-dhcp-range", "forward", "forward-interface", "forward-pf",
		"portgroup", "dns-host", "dns-txt", "dns-srv",
	}
	for i, name := range sections {
		if s, err := netdef.ParseSection(name); s != netdef.Section(i+1) || err != nil || s.String() != name {
			t.Errorf("section %s: got %d (%s), %v, want %d", name, s, s, err, i+1)
		}
	}
	if _, err := netdef.ParseSection("none"); err == nil || !strings.Contains(err.Error(), "want one of bridge, domain") {
		t.Errorf("section none: got %v, want an error with the names", err)
	}
	if _, err := netdef.ParseCommand(""); err == nil {
		t.Error("command '': got no error")
	}
	n := parse(t, []byte(network("")))
	for _, u := range []netdef.Update{{Command: 5, Section: netdef.SectionDNSTXT}, {Command: 1, Section: 13}, {}} {
		if err := n.Update(u); !errors.Is(err, netdef.ErrUnsupported) {
			t.Errorf("command %s of section %s: got %v, want %v", u.Command, u.Section, err, netdef.ErrUnsupported)
		}
	}
}

// FuzzUpdate changes networks by what a client may send: the result is valid,
// or the network is as it was.
func FuzzUpdate(f *testing.F) {
	for _, tt := range slices.Concat(updateRows(), recordUpdateRows()) {
		u := updateOf(f, tt)
		f.Add([]byte(updateNetwork), int(u.Command), int(u.Section), u.Index, u.XML)
	}
	f.Fuzz(func(t *testing.T, src []byte, command, section, index int, entry []byte) {
		n, err := netdef.Parse(src)
		if err != nil || n.Validate() != nil {
			return
		}
		before := n.Clone()
		u := netdef.Update{Command: netdef.Command(command), Section: netdef.Section(section), Index: index, XML: entry}
		if err := n.Update(u); err != nil {
			if diff := cmp.Diff(before, n, same()); diff != "" {
				t.Errorf("failed with %v, and changed (-before +after):\n%s", err, diff)
			}
			return
		}
		again, err := netdef.Parse(n.XML())
		if err != nil {
			t.Fatalf("Parse of the changed network: %v\n%s", err, n.XML())
		}
		if diff := cmp.Diff(n, again, same()); diff != "" {
			t.Errorf("printed and parsed again (-want +got):\n%s", diff)
		}
	})
}
