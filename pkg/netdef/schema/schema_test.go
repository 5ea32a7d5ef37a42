package schema_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
)

// schemaFile is libvirt's, as Debian's libvirt0 has it.
const schemaFile = "/usr/share/libvirt/schemas/network.rng"

// whole are documents that together have every element and attribute of the
// schema; a client's answer to each change of one of them is what libvirt would say.
var whole = []string{
	`<network connections='1' ipv6='yes' trustGuestRxFilters='no'><name>n</name><uuid>40b7c068-9791-4466-bfa6-77ca0bedb2e4</uuid>` +
		`<metadata><a:b xmlns:a='urn:a' c='d'>e</a:b></metadata><forward mode='nat' dev='eno1' managed='no'><interface dev='eno1' connections='0'/>` +
		`<nat ipv6='no'><address start='192.0.2.1' end='192.0.2.2'/><port start='1' end='2'/></nat></forward>` +
		`<bridge name='b' zone='z' stp='on' delay='0' macTableManager='libvirt'/><mtu size='1500'/><mac address='52:54:00:00:00:01'/>` +
		`<domain name='d' localOnly='yes'/><dns enable='yes' forwardPlainNames='no'><forwarder addr='192.0.2.1' domain='d'/><txt name='t' value='v'/>` +
		`<srv service='s' protocol='tcp' domain='d' target='t' port='1' priority='2' weight='3'/><host ip='192.0.2.3'><hostname>h</hostname></host></dns>` +
		`<vlan trunk='yes'><tag id='1' nativeMode='tagged'/></vlan><bandwidth><inbound average='1' peak='2' floor='3' burst='4'/><outbound average='1'/></bandwidth>` +
		`<port isolated='yes'/><ip family='ipv4' address='192.0.2.1' netmask='255.255.255.0' localPtr='no'><tftp root='/srv'/>` +
		`<dhcp><range start='192.0.2.2' end='192.0.2.9'><lease expiry='1' unit='hours'/></range><host mac='52:54:00:00:00:02' name='h' ip='192.0.2.2'>` +
		`<lease expiry='0'/></host><bootp file='f' server='192.0.2.1'/></dhcp></ip><ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp>` +
		`<host id='0:3:0:1:52:54:0:12:34:56' name='i' ip='2001:db8::2'/></dhcp></ip>` +
		`<route family='ipv4' address='198.51.100.0' prefix='24' gateway='192.0.2.2' metric='2'/><route address='198.51.101.0' netmask='255.255.255.0' gateway='192.0.2.2'/>` +
		`<portgroup name='p' default='yes' trustGuestRxFilters='yes'><virtualport type='openvswitch'><parameters profileid='p' interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport>` +
		`<vlan><tag id='1'/></vlan><bandwidth><inbound average='1'/></bandwidth></portgroup></network>`,
	`<network><name>n</name><forward mode='hostdev' managed='yes'><pf dev='eno1'/><driver name='vfio'/></forward></network>`,
	`<network><name>n</name><forward mode='hostdev'><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1' connections='1'/></forward></network>`,
	`<network><name>n</name><forward mode='vepa'/><virtualport type='802.1Qbg'><parameters managerid='11' typeid='0x0a' typeidversion='2' instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></network>`,
	`<network><name>n</name><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></network>`,
	`<network><name>n</name><virtualport type='midonet'><parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport></network>`,
	`<network><name>n</name><virtualport><parameters managerid='1' typeid='2' typeidversion='3' profileid='p'/></virtualport></network>`,
}

// values are put in place of every attribute and text: good for some, bad for others.
func values() []string {
	return []string{
		"", "maybe", "yes", "YES", " yes ", "no", "on", "off", "0", "1", "+1", "-1", "007", "1.5", " 5 ", "4095", "4096", "65535", "65536", "4294967295", "4294967296",
		"18014398509481984", "18014398509481985", "18446744073709551616", "0x1f", "0x20", "1f", "nat", "none", "bridge", "kernel", "tcp", "udp", "sctp", "pci", "seconds", "days", "ipv6", "IPV4", "tagged", "vfio",
		"a_b", "a b", "a.b-c", "a/b", "ü", "192.0.2.1", "192.0.2.256", "192.0.2", "192.0.02.1", "2001:db8::1", "2001:db8::g", "::", "fe80::1%eth0", "255.255.255.0", "129", "33",
		"52:54:00:00:00:01", "52:54:00:00:00:1", "53:54:00:00:00:01", "52-54-00-00-00-01", "40b7c06897914466bfa677ca0bedb2e4", "40b7c068", "0:3:0:1:52:54:0:12:34:56", "0:1", "802.1Qbg", "openvswitch", "midonet",
		strings.Repeat("p", 39), strings.Repeat("p", 40),
	}
}

// changes are doc with one thing changed, each thing in turn.
func changes(doc string) []string {
	all := []string{doc}
	replace := func(at []int, with string) { all = append(all, doc[:at[0]]+with+doc[at[1]:]) }
	for _, at := range regexp.MustCompile(`='([^']*)'`).FindAllStringSubmatchIndex(doc, -1) {
		if strings.HasPrefix(doc[at[2]:], "urn:") {
			continue
		}
		for _, v := range values() {
			replace(at[2:4], v)
		}
	}
	for _, at := range regexp.MustCompile(`>([^<]+)<`).FindAllStringSubmatchIndex(doc, -1) {
		for _, v := range values() {
			replace(at[2:4], v)
		}
	}
	for _, at := range regexp.MustCompile(` [a-zA-Z]+='[^']*'`).FindAllStringIndex(doc, -1) {
		replace(at, "")
		replace(at, doc[at[0]:at[1]]+" nonsense='1'")
	}
	for _, at := range regexp.MustCompile(`<[a-zA-Z]+[^>]*[^/]>`).FindAllStringIndex(doc, -1) {
		replace(at, doc[at[0]:at[1]]+"stray")
		replace(at, doc[at[0]:at[1]]+"<nonsense/>")
		replace(at, doc[at[0]:at[1]]+"<!-- comment -->\n")
	}
	for _, at := range regexp.MustCompile(`<[a-zA-Z]+[^>]*/>`).FindAllStringIndex(doc, -1) {
		replace(at, "")
		replace(at, doc[at[0]:at[1]]+doc[at[0]:at[1]])
	}
	return all
}

// TestSchemaAsLibvirt holds Check against libvirt's schema: for every element
// and attribute, a table of values, what is missing, what is twice, and what is not
// known there.
func TestSchemaAsLibvirt(t *testing.T) {
	dir := t.TempDir()
	var docs, files, bases []string
	for _, doc := range whole {
		for _, changed := range changes(doc) {
			bases = append(bases, doc)
			file := filepath.Join(dir, fmt.Sprintf("%05d.xml", len(docs)))
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			docs, files = append(docs, changed), append(files, file)
		}
	}
	valid := make(map[string]bool)
	for i := 0; i < len(files); i += 2000 {
		out, err := exec.CommandContext(t.Context(), "xmllint", append([]string{"--noout", "--relaxng", schemaFile}, files[i:min(i+2000, len(files))]...)...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatalf("running xmllint: %v", err)
		}
		for line := range strings.Lines(string(out)) {
			if file, ok := strings.CutSuffix(strings.TrimSpace(line), " validates"); ok {
				valid[file] = true
			}
		}
	}
	refused := 0
	for i, doc := range docs {
		err := schema.Check([]byte(doc))
		if err != nil {
			refused++
		}
		if want := valid[files[i]]; (err == nil) != want && !newer(doc) {
			t.Errorf("libvirt's schema accepts this: %t; Check says %v\n%s", want, err, around(bases[i], doc))
		}
	}
	t.Logf("%d documents, of which %d are refused", len(docs), refused)
	if len(valid) < 500 || refused < 500 {
		t.Errorf("%d documents are valid and %d refused: too few to tell", len(valid), refused)
	}
}

// around is what stands at the place where doc is other than base.
func around(base, doc string) string {
	i := 0
	for i < min(len(base), len(doc)) && base[i] == doc[i] {
		i++
	}
	return doc[max(i-60, 0):min(i+60, len(doc))]
}

// newer reports whether doc has a value that only a newer schema than the test's
// decides: the number of a port, a kind of driver, what fits into a number.
func newer(doc string) bool {
	return strings.Contains(doc, "<driver>") || strings.Contains(doc, "<driver/>") || regexp.MustCompile(`(average|peak|floor)='(4294967296|18014398509481984)'`).MatchString(doc)
}
