package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// tables are the commands that print tables and lists.
var tables = []string{
	"list", "list --active", "list --inactive", "list --mode nat", "list --names", "status", "status default", "port list", "port list lab", "port show web1",
	"leases", "leases default", "forward list", "forward show 8080", "peer list", "peer list default", "rule list default", "top --once --interval 100ms", "doctor",
	"explain subnet-overlap", "version",
}

// TestTables prints every table on terminals of 80 and of 140 characters, with a host on
// which all is well, and with one on which names are long and much is amiss.
func TestTables(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stage func(s *session)
	}{
		{"good", func(*session) {}},
		{"bad", amiss},
		{"foreign", foreign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSession(t)
			s.host = wellHost(t)
			populate(s)
			tt.stage(s)
			for _, s.width = range []int{80, 140} {
				for _, line := range tables {
					s.server.SetCounts(counted(0), counted(1))
					s.transcript.WriteString(strings.Repeat("-", s.width) + "\n")
					s.run(line)
					s.fits(line)
				}
			}
			s.check()
		})
	}
}

// fits holds that nothing that the last command has printed is broken by the terminal, but
// for commands, which are to be copied.
func (s *session) fits(command string) {
	s.t.Helper()
	_, printed, _ := cutLast(s.transcript.String(), "$ vnetctl "+command+"\n")
	for line := range strings.Lines(printed) {
		line = strings.TrimRight(line, "\n")
		text := strings.TrimLeft(line, " ")
		if table.Width(line) > s.width && !strings.HasPrefix(text, "# ") && !strings.HasPrefix(text, "try: ") && strings.Contains(text, " ") {
			s.t.Errorf("%s on a terminal of %d characters prints a line of %d: %s", command, s.width, table.Width(line), line)
		}
	}
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// populate has two guests on the network default, with what networks can have.
func populate(s *session) {
	s.server.SetLeases("default",
		clienttest.Lease{Interface: "virbr0", Expiry: now.Add(26 * time.Hour).Unix(), MAC: "00:00:5e:00:53:0a", Address: "192.0.2.100", Prefix: 24, Hostname: "web1", ClientID: "ff:9f:6e:85:24:00:02:00:00:ab:11:05:6c:3c:7f:0a:93:2d:01"},
		clienttest.Lease{Interface: "virbr0", Expiry: now.Add(time.Minute).Unix(), Type: 1, MAC: "00:00:5e:00:53:0a", IAID: "3735928559", Address: "2001:db8::1f:64", Prefix: 64, Hostname: "web1"},
	)
	s.quietly("port", "create", "default", "--name", "web1", "--address", "192.0.2.100", "--address", "2001:db8::1f:64", "--mac", "00:00:5e:00:53:0a", "--lifetime", "persistent")
	s.quietly("port", "create", "default", "--name", "db1", "--mac", "00:00:5e:00:53:0b", "--ifname", "tap-db1", "--lifetime", "persistent")
	s.quietly("forward", "add", "default", "8080:web1:80")
	s.quietly("forward", "add", "default", "[2001:db8::1]:8443:[2001:db8::1f:64]:443")
	s.server.SetDetail("default", "peers", []api.Peer{
		{Network: "lab", Direction: "out", Services: []string{"tcp/5432"}, State: "active", Met: &api.Met{Packets: 17}},
	})
	s.server.SetDetail("default", "rules", api.Rules{
		Egress: "reject", Rules: []string{"egress allow tcp/80,443 to 192.0.2.0/24 @mirrors log", "ingress allow icmp"}, Met: []api.Met{{Packets: 9}, {}},
		Sets: []api.RuleSet{{Name: "mirrors", Members: []string{"203.0.113.0/24", "*.example.org"}}},
	})
	s.server.SetCounts(counted(0), counted(1))
}

// counted is what was counted of two ports after so many seconds.
func counted(seconds uint64) api.Counts {
	c := api.Counts{Time: now.Add(time.Duration(seconds) * time.Second), Conntrack: &api.Conntrack{Entries: 130, Limit: 1000}}
	for i, name := range []string{"default", "lab"} {
		c.Networks = append(c.Networks, api.NetworkCounts{
			Name: name, UUID: name, State: api.Active, DHCP: 2 * seconds, DNS: 1500 * seconds,
			Ports: []api.PortCounts{{
				UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1), IfName: fmt.Sprint("vnet", i), Name: "web1",
				Receive: api.Traffic{Bytes: 123456 * seconds, Packets: 100 * seconds}, Stopped: seconds,
			}},
		})
	}
	return c
}

// foreign has names of which a letter takes two columns of the terminal, or none.
func foreign(s *session) {
	var leases []clienttest.Lease
	for i, name := range []string{"数据库服务器", "cafe\u0301-re\u0301serve", "ファイル", "plain"} {
		mac := fmt.Sprintf("00:00:5e:00:55:%02x", i)
		s.quietly("port", "create", "default", "--name", name, "--mac", mac, "--lifetime", "persistent")
		leases = append(leases, clienttest.Lease{Interface: "virbr1", MAC: mac, Address: fmt.Sprintf("198.51.100.%d", 10+i), Prefix: 24, Hostname: name})
	}
	s.server.SetLeases("lab", leases...)
	s.server.SetState("lab", "failed", "网桥 virbr1 不在：另一个程序删除了它，因此客户机没有网络；Réseau coupé, veuillez redémarrer le service.")
}

// amiss has guests with long names and many addresses, and a host with faults.
func amiss(s *session) {
	long := "database-server-of-the-second-floor-standby"
	s.quietly("create", "testdata/web.xml")
	s.server.SetState("web", "degraded", "dns: listening on virbr2: another program, dnsmasq with the process id 4711, has port 53 of 203.0.113.1 and [2001:db8:2::1] already")
	s.server.SetState("lab", "failed", "firewall: iptables-restore: line 12 failed; the table filter of iptables can't be read")
	var addresses []string
	for i := range 6 {
		addresses = append(addresses, "--address", fmt.Sprintf("2001:db8::1f:%d", 1000+i))
	}
	s.quietly(append([]string{"port", "create", "default", "--name", long, "--mac", "00:00:5e:00:53:0c", "--lifetime", "persistent"}, addresses...)...)
	s.quietly("forward", "add", "default", "192.0.2.1:9000-9009:"+long+":9000/udp")
	leases := make([]clienttest.Lease, 12)
	for i := range leases {
		leases[i] = clienttest.Lease{Interface: "virbr2", MAC: fmt.Sprintf("00:00:5e:00:54:%02x", i), Address: fmt.Sprintf("203.0.113.%d", 10+i), Prefix: 24, Hostname: long}
	}
	s.server.SetLeases("web", leases...)
	s.server.SetDetail("default", "peers", []api.Peer{
		{Network: "lab", Direction: "out", Services: []string{"tcp/5432", "tcp/8000-8010", "udp/53", "icmp", "tcp/443"}, State: "waiting", Reason: "network lab does not say so, and other accounts own it"},
		{Network: "a-network-that-is-not-there", Direction: "both", State: "waiting", Reason: "there is no network of that name"},
	})
	s.server.SetDetail("default", "rules", api.Rules{
		Egress: "reject", Ingress: "drop",
		Rules: []string{"egress allow tcp/80,443,8000-8010 to '*.example.org' '*.example.net' 192.0.2.0/24 198.51.100.0/24 2001:db8:1::/48 @mirrors log", "ingress allow icmp"},
		Sets:  []api.RuleSet{{Name: "mirrors", Members: []string{"203.0.113.0/24", "*.example.org", "*.mirrors.example.net", "2001:db8:5::/48", "2001:db8:6::/48"}}},
		Names: []api.RuleName{{Name: "very-long-name-of-a-mirror.example.org", Addr: netip.MustParseAddr("2001:db8:5::1"), Until: now.Add(90 * time.Second)}},
	})
	s.server.SetDetail("default", "pending", []string{
		"network/ip[1]/dhcp/range: from 192.0.2.2-192.0.2.254 to 192.0.2.100-192.0.2.199, which a restart of the network takes for guests have leases outside of it", "network/mtu: 1400",
	})
	s.server.SetConditions(
		clienttest.Condition{
			Kind: "drop-rule", Severity: "error", Networks: []string{"default", "lab", "web"}, Since: "2026-03-01T10:00:00Z",
			Message:  "a rule drops packets of guests on virbr0 before the networks' rules are asked, so that no guest reaches anything beyond this host",
			Evidence: "iptables -A FORWARD -i virbr0 -m comment --comment \"written by the site's own script\" -m conntrack --ctstate NEW -j DROP",
			Remedy:   "iptables -D FORWARD -i virbr0 -m comment --comment \"written by the site's own script\" -m conntrack --ctstate NEW -j DROP",
		},
		clienttest.Condition{Kind: "clock-jump", Severity: "warning", Networks: []string{}, Since: "2026-03-01T10:00:00Z", Message: "the clock was set", Evidence: "by 1h", Remedy: "timedatectl"},
		clienttest.Condition{Kind: "drop-policy", Severity: "info", Networks: []string{}, Since: "2026-03-01T10:00:00Z", Message: "FORWARD drops what no rule accepts; the networks' rules stand before that", Evidence: "iptables -P FORWARD DROP"},
	)
}

// TestMeant names what there is not, and something is spelt much like it.
func TestMeant(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	populate(s)
	for _, line := range []string{
		"start defalt", "status Defult", "leases la", "port list lob", "cat x", "port show web2", "port delete vnt0", "port show tap", "forward delete 8081", "forward show 8443/udp",
		"capture defautl", "run -n defaul -- true", "top defaut --once", "reach nobody host", "explain drop-polcy", "explain bridge", "rename labb x", "rename lab default",
	} {
		s.run(line)
	}
	s.check()
}

// TestFormat prints parts of what --json prints, and holds that everything that --json prints
// can be printed so.
func TestFormat(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	populate(s)
	for _, line := range []string{
		"list --format {{.name}}={{.state}}", "port list --format {{.ifname}},{{.mac}}", "leases --format {{.address}}/{{.prefix}}", "forward list --format {{.ports}}:{{.connections}}",
		"status --format {{.vnetd}}", "status default --format {{.ports|len}}", "peer list default --format {{.default|json}}", "version --format {{.vnetctl}}",
		"list --format {{.nam}}", "list --format {{.name", "list --format json", "list --json --format {{.uuid}}", "explain subnet-overlap --format {{.kind}}",
	} {
		s.run(line)
	}
	for _, line := range tables {
		if strings.Contains(line, "top") {
			continue // each time another part of the counts
		}
		_, want, _ := s.execute(t.Context(), "", append(strings.Fields(line), "--json"))
		code, got, stderr := s.execute(t.Context(), "", append(strings.Fields(line), "--format", "{{json .}}"))
		if stderr != "" || code > 1 || !strings.HasPrefix(strings.TrimSpace(want), "[") && got == "" {
			t.Errorf("%s --format: exit %d: %q: %s", line, code, got, stderr)
		}
		for part := range strings.Lines(got) {
			if !json.Valid([]byte(part)) {
				t.Errorf("%s --format prints %q", line, part)
			}
		}
	}
	s.check()
}

// TestColours prints tables with colours, as a terminal has them.
func TestColours(t *testing.T) {
	s := newSession(t)
	populate(s)
	amiss(s)
	s.colour = true
	for _, line := range []string{"list", "forward list", "peer list", "leases default", "top --once --interval 100ms"} {
		s.run(line)
	}
	s.check()
}
