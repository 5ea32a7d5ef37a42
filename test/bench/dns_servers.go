package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// dnsServers are vnetd, what libvirt has, two others, and the limit.
func dnsServers() []dnsServer {
	servers := []dnsServer{
		{name: "vnetd", comm: "vnetd", start: startVnetdDNS, leases: true},
		{name: "dnsmasq", comm: "dnsmasq", start: startDnsmasqDNS},
		{name: "unbound", comm: "unbound", start: startUnbound},
	}
	if _, err := os.Stat(corednsPath()); err == nil {
		servers = append(servers, dnsServer{name: "CoreDNS", comm: "coredns", start: startCoreDNS})
	}
	return append(servers, dnsServer{name: "responder", comm: responderProgram, bare: true, leases: true, start: startResponderDNS})
}

// startResponderDNS has vnetd give leases and a responder answer questions: it has
// only the machine in common with who gives leases.
func startResponderDNS(b *bench, dir string, _ int) {
	b.vnetd(dir)
	xml := filepath.Join(dir, "bench.xml")
	b.write(xml, strings.Replace(vnetdNetwork, "  <ip ", "  <dns enable='no'/>\n  <ip ", 1))
	b.vnetctl("create", xml)
	startResponder(b, serverAddr+":53", 0)
}

// dnsNetwork is the network of the DNS benchmark. Its names are in <dns>.
const dnsNetwork = `<network>
  <name>bench</name>
  <forward mode='nat' dev='eno1'/>
  <bridge name='` + bridge + `' stp='off' delay='0'/>
  <domain name='` + dnsDomain + `' localOnly='yes'/>
  <dns>
    <forwarder addr='` + dnsUpAddr + `'/>
    <forwarder domain='` + dnsSlow + `' addr='` + dnsLate + `'/>
%s  </dns>
  <ip address='` + serverAddr + `' netmask='` + netmask + `'>
    <dhcp>
      <range start='` + rangeStart + `' end='` + rangeEnd + `'/>
    </dhcp>
  </ip>
</network>
`

// eachHost is a line for every name, of its address and number.
func eachHost(names int, format string) string {
	var text strings.Builder
	for n := range names {
		_, _ = fmt.Fprintf(&text, format, dnsHost(n), n)
	}
	return text.String()
}

func startVnetdDNS(b *bench, dir string, names int) {
	b.vnetd(dir)
	xml := filepath.Join(dir, "bench.xml")
	b.write(xml, fmt.Sprintf(dnsNetwork, eachHost(names, "    <host ip='%s'><hostname>host%d</hostname></host>\n")))
	b.vnetctl("create", xml)
}

// makeNetwork makes the bridge and the rules of dnsNetwork for a server that makes
// none: packets pass the same rules whoever serves.
func makeNetwork(b *bench) {
	makeBridge(b)
	writer, err := iptables.New(b.Context(), iptables.Config{})
	if err == nil {
		fw := firewall.New(writer, firewall.Config{})
		b.Cleanup(func() { _ = errors.Join(fw.Purge(b.cleanupContext()), fw.Close()) })
		err = fw.Set(b.Context(), firewall.Network{
			Bridge: bridge, Mode: firewall.ModeNAT, Dev: "eno1", DHCP: true,
			Subnets: []netip.Prefix{netip.MustParsePrefix(serverAddr + prefix)},
		})
	}
	if err != nil {
		b.Fatalf("making the network's rules: %w", err)
	}
}

// dnsmasqDNS is what libvirt writes for dnsNetwork.
const dnsmasqDNS = `strict-order
server=/` + dnsSlow + `/` + dnsLate + `
server=` + dnsUpAddr + `
no-resolv
local=/` + dnsDomain + `/
domain=` + dnsDomain + `
expand-hosts
pid-file=%[1]s/pid
except-interface=lo
bind-dynamic
interface=` + bridge + `
dhcp-range=` + rangeStart + `,` + rangeEnd + `,` + netmask + `
dhcp-no-override
dhcp-authoritative
dhcp-lease-max=%[2]d
dhcp-hostsfile=%[1]s/hostsfile
addn-hosts=%[1]s/addnhosts
`

func startDnsmasqDNS(b *bench, dir string, names int) {
	makeNetwork(b)
	b.write(filepath.Join(dir, "conf"), fmt.Sprintf(dnsmasqDNS, dir, maxClients))
	b.write(filepath.Join(dir, "hostsfile"), "")
	b.write(filepath.Join(dir, "addnhosts"), eachHost(names, "%s\thost%d\n"))
	b.launch(exec.CommandContext(b.cleanupContext(), "dnsmasq", "--conf-file="+filepath.Join(dir, "conf"),
		"--user=root", "--leasefile-ro", "--keep-in-foreground", "--log-facility=/dev/null"))
}

// unboundSettings have it work as the others do: one thread, no validation.
const unboundSettings = `server:
  interface: ` + serverAddr + `
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  do-ip6: no
  do-not-query-localhost: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "%s"
  module-config: "iterator"
  local-zone: "` + dnsDomain + `." static
%sforward-zone:
  name: "."
  forward-addr: ` + dnsUpAddr + `
forward-zone:
  name: "` + dnsSlow + `"
  forward-addr: ` + dnsLate + `
remote-control:
  control-enable: no
`

func startUnbound(b *bench, dir string, names int) {
	makeNetwork(b)
	conf := filepath.Join(dir, "conf")
	var data strings.Builder
	for n := range names {
		_, _ = fmt.Fprintf(&data, "  local-data: \"host%d.%s. 0 A %s\"\n", n, dnsDomain, dnsHost(n))
	}
	b.write(conf, fmt.Sprintf(unboundSettings, dir, data.String()))
	b.launch(exec.CommandContext(b.cleanupContext(), "unbound", "-d", "-c", conf))
}

// corednsSettings serve the names from a zone file.
const corednsSettings = dnsDomain + `:53 {
  bind ` + serverAddr + `
  file %s
}
` + dnsSlow + `:53 {
  bind ` + serverAddr + `
  forward . ` + dnsLate + `
}
.:53 {
  bind ` + serverAddr + `
  cache
  forward . ` + dnsUpAddr + `
}
`

func startCoreDNS(b *bench, dir string, names int) {
	makeNetwork(b)
	conf, zone := filepath.Join(dir, "Corefile"), filepath.Join(dir, "zone")
	b.write(conf, fmt.Sprintf(corednsSettings, zone))
	b.write(zone, "@ 0 IN SOA ns hostmaster 1 3600 600 86400 0\n@ 0 IN NS ns\n"+eachHost(names, "host%[2]d 0 IN A %[1]s\n"))
	b.launch(exec.CommandContext(b.cleanupContext(), corednsPath(), "-quiet", "-conf", conf))
}

// coredns is what is built of CoreDNS, and how long that may take.
const (
	coredns      = "github.com/coredns/coredns@v1.11.4"
	corednsLimit = 15 * time.Minute
)

// corednsPath is where it is.
func corednsPath() string {
	root, err := nstest.Root()
	if err != nil {
		return ""
	}
	return filepath.Join(root, ".cache", "coredns", "coredns")
}

// buildCoreDNS builds CoreDNS from the module proxy, unless it is there. Where
// that fails it is left out.
func buildCoreDNS() {
	path := corednsPath()
	if _, err := os.Stat(path); err == nil || path == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), corednsLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", coredns)
	cmd.Env = append(os.Environ(), "GOBIN="+filepath.Dir(path), "GOFLAGS=-mod=mod")
	cmd.Dir = os.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "CoreDNS is left out: building it: %v\n%s", err, tail(string(out)))
	}
}
