package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
)

// wrongInputs are what people type that can't be done, by the part that is wrong. Behind
// " < " stands what is read from standard input; of a definition, the inside of <network>.
var wrongInputs = []struct{ part, lines string }{
	{"verbs, flags and arguments", `
lst
net-dumpxml web
show
port
port remove vnet0
lis --all
list --colour
list --mode bridged
list web
list --active --inactive
start
start web db
status --jsonn
start web --wait 5
top --interval fast
log-level loud
monitor nosuch
mirror-libvirt maybe
explain subnet-overlaps`},
	{"names of networks and ports", `
start nosuch
start Web
stop lab
start web
restart nosuch
cat nosuch
undefine nosuch
enable temporary
status 11111111-2222-4333-8444-000000000000
port show vnet99
port list nosuch
leases nosuch
leases --mac 52:54:00
leases --port vnet99
leases export nosuch
leases import web - < this is no lease
rename web db
rename lab db
rename lab ../lab
copy web lab
copy nosuch lab2`},
	{"networks in words", `
new
new web
new a/b
new waytoolong123456 --subnet 10.99.0.0/33
new a --subnet 10.99.0.0
new a --subnet 192.0.2.0/24
new a --subnet 10.99.0.1/31
new a --mode brigde
new a --mode bridge
new a --mode bridge --dev nosuch0
new a --mode isolated --dev eno1
new a --ipv6 10.0.0.0/8
new a --from nosuch
new a --domain bad_domain..example
set web
set web mtu
set web mtu=1
set web mtu=big
set web colour=red
set web mode=routed
set web dhcp=192.0.2.9
set web dhcp=198.51.100.1-198.51.100.9
set web dns=ns1
set web subnet=192.0.2.0/33
set web guard=high
set web isolated=maybe
set nosuch mtu=1400
renumber web --subnet 10.99.0.0
renumber web --subnet 10.99.0.0/29
renumber web --subnet fd00:9::/64
renumber web --subnet 198.51.100.0/24`},
	{"definitions", `
define /nosuch.xml
define - < not XML
define - < <network><name>a</name>
define - < <domain type='kvm'><name>a</name></domain>
define - <
define - < NET <name>a</name><uuid>4711</uuid>
define - < NET <name>a</name><forward mode='natt'/>
define - < NET <name>a</name><bridge name='a-name-that-is-too-long'/>
define - < NET <name>a</name><bridge name='virbr-web'/>
define - < NET <name>a</name><mac address='52:54:00:12:34'/>
define - < NET <name>a</name><mac address='01:00:5e:00:00:01'/>
define - < NET <name>a</name><mtu size='70000'/>
define - < NET <name>a</name><ip address='10.99.0.300' prefix='24'/>
define - < NET <name>a</name><ip address='10.99.0.1' prefix='33'/>
define - < NET <name>a</name><ip address='10.99.0.1' netmask='255.0.255.0'/>
define - < NET <name>a</name><ip address='10.99.0.1' prefix='24'><dhcp><range start='10.99.0.9' end='10.99.0.2'/></dhcp></ip>
define - < NET <name>a</name><ip address='10.99.0.1' prefix='24'><dhcp><range start='10.98.0.2' end='10.98.0.9'/></dhcp></ip>
define - < NET <name>a</name><ip address='10.99.0.1' prefix='24'><dhcp><range start='10.99.0.2' end='10.99.0.9'><lease expiry='1' unit='minutes'/></range></dhcp></ip>
define - < NET <name>a</name><ip adress='10.99.0.1' prefix='24'/>
define - < NET <name>a</name><dns><host ip='10.99.0.5'/></dns>
define - < NET <name>a</name><portgroup name='x'/><portgroup name='x'/>
define - < NET <name>a</name><bandwidth><inbound peak='10'/></bandwidth>
define - < NET <name>a</name><vlan><tag id='4095'/></vlan>
define - < NET <name>a</name><vnetd:subnet auto='maybe'/>
define - < NET <name>a</name><vnetd:forward proto='icmp' port='1' to='x'/>
define - < NET <name>a</name><vnetd:peer network='a'/>
define - < NET <name>a</name><vnetd:rules><vnetd:rule direction='egress' action='allow' service='tcp/99999'/></vnetd:rules>
define - --new < NET <name>web</name>
define - --now --pending < NET <name>a</name>
create - < NET <name>a</name><ip address='192.0.2.1' prefix='24'/>
plan /nosuch.xml
update web add dns-host <host ip='192.0.2.9'/>
update web bend dns-host <x/>
update web add dns-hosts <x/>
update web add ip-dhcp-host <host mac='x' ip='192.0.2.9'/>
update web delete ip-dhcp-host <host mac='52:54:00:00:00:99' ip='192.0.2.9'/>
update web add ip-dhcp-range /nosuch.xml`},
	{"ports", `
port create lab
port create nosuch
port create web --mac 52:54:00:00
port create web --mac 01:00:5e:00:00:01 --lifetime persistent
port create web --address 192.0.2.300
port create web --address 10.1.2.3 --lifetime persistent
port create web --address 192.0.2.1 --lifetime persistent
port create web --ifname a-name-that-is-too-long --lifetime persistent
port create web --ifname eno1 --lifetime persistent
port create web --name web_1 --lifetime persistent
port create web --queues 0
port create web --queues 9999 --lifetime persistent
port create web --lifetime forever
port create web --owner nobody-of-that-name
port create web --guard tight --lifetime persistent
port create web --vlan 5000 --lifetime persistent
port create web --portgroup nosuch --lifetime persistent
port create web --bandwidth inbound.average=fast
port create web --bandwidth in.average=1
port create web --rule nonsense
port set tap-web1 colour=red
port set tap-web1 vlan
port set vnet99 vlan=1
port wait vnet99
port delete vnet99
run web
run web -- /nosuch/program
run web:queues=many -- true
run nosuch -- true`},
	{"forwards, peers and rules", `
forward add web
forward add web 8080:80
port create web --forward 80:web1:80
forward add web 99999:web1:80
forward add web 8080:web1:0
forward add web 8080:web1:80/icmp
forward add web 8080-8070:web1:80
forward add web 192.0.2.77:8080:web1:80
forward add web 8081:web1:80 --from everywhere
forward add nosuch 8081:web1:80
forward add web 8080:db1:80
forward show 9999
forward delete 9999
peer add web web
peer add web db tcp/http
peer add web db --direction sideways
peer delete web db
rule add web allow tcp/80
rule add web egress permit tcp/80
rule add web egress allow tcp/0
rule add web egress allow to nowhere at all
rule add web egress allow to @nosuch
rule delete web 7
rule default web egress maybe
rule set web mirrors not/an/address`},
	{"looking", `
capture nosuch
capture web --count 0
capture web -w - --json
trace nosuch
trace tap-web1 gre
reach web1
reach web1 nobody
reach web1 db1 tcp/http
reach nobody outside
graph nosuch
graph --dot --svg
top nosuch
top --sort colour`},
}

// TestWrongInputs types each of them, and compares what is said with a file that a person can
// read: the element or option, its value, and what would be right.
func TestWrongInputs(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		for _, xml := range []string{
			"<name>web</name><uuid>11111111-2222-4333-8444-555555555551</uuid><forward mode='nat'/><bridge name='virbr-web'/><ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.10' end='192.0.2.99'/></dhcp></ip>",
			"<name>db</name><uuid>11111111-2222-4333-8444-555555555552</uuid><bridge name='virbr-db'/><ip address='198.51.100.1' prefix='24'/>",
			"<name>lab</name><uuid>11111111-2222-4333-8444-555555555553</uuid><bridge name='virbr-lab'/><ip address='203.0.113.1' prefix='24'/>",
		} {
			defineXML(t, l, "define", xml)
		}
		vnetctl(t, l, "start", "web")
		vnetctl(t, l, "start", "db")
		defineXML(t, l, "create", "<name>temporary</name><uuid>11111111-2222-4333-8444-555555555554</uuid><bridge name='virbr-tmp'/>")
		vnetctl(t, l, "port", "create", "web", "--name", "web1", "--ifname", "tap-web1", "--mac", "52:54:00:00:00:01", "--address", "192.0.2.20", "--lifetime", "persistent")
		vnetctl(t, l, "forward", "add", "web", "8080:web1:80")

		var said strings.Builder
		n := 0
		for _, group := range wrongInputs {
			fmt.Fprintf(&said, "# %s\n\n", group.part)
			for line := range strings.Lines(strings.TrimPrefix(group.lines, "\n")) {
				n++
				fmt.Fprintf(&said, "%d. %s\n\n", n, wrong(t, l, strings.TrimSuffix(line, "\n")))
			}
		}
		if n < 100 {
			t.Errorf("%d wrong inputs, want 100", n)
		}
		golden.Compare(t, "testdata/wrong-inputs.golden", said.String())
	})
}

// networkXML is a document of a network with what is inside.
func networkXML(inside string) string {
	return "<network xmlns:vnetd='urn:vnetd:network:1'>" + inside + "</network>"
}

// defineXML has a network be made.
func defineXML(t *testing.T, l *nstest.Lab, verb, inside string) {
	t.Helper()
	if r := l.VnetctlInput(t.Context(), networkXML(inside), verb, "-"); r.Err() != nil {
		t.Fatalf("%s %s: %v", verb, inside, r.Err())
	}
}

// wrong types a line and returns it with what was said.
func wrong(t *testing.T, l *nstest.Lab, line string) string {
	t.Helper()
	command, stdin, _ := strings.Cut(line, " <")
	if strings.HasPrefix(command, "update ") { // the entry is an argument
		command, stdin = line, ""
	}
	stdin = strings.TrimPrefix(stdin, " ")
	if inside, ok := strings.CutPrefix(stdin, "NET "); ok {
		stdin = networkXML(inside)
	}
	args := strings.Fields(command)
	if i := strings.Index(command, " <"); args[0] == "update" && i > 0 {
		args = append(strings.Fields(command[:i]), command[i+1:])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what is right after all may go on for ever
	defer cancel()
	r := l.VnetctlInput(ctx, stdin, args...)
	text := fmt.Sprintf("vnetctl %s\n%s", line, r.Stderr)
	if r.Stdout != "" {
		text += "printed: " + r.Stdout
	}
	if r.Code == 0 {
		t.Errorf("%s: is right", line)
	}
	if lines := strings.Count(r.Stderr, "\n"); lines != 1 || r.Stdout != "" {
		t.Errorf("%s: %d lines are said, want one, and %q is printed:\n%s", line, lines, r.Stdout, r.Stderr)
	}
	return fmt.Sprintf("%sexit: %d", text, r.Code)
}
