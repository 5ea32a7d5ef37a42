package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vnetd/vnetd/internal/nstest"
)

// dnsmasqSettings are what libvirt 9.0 writes for a network with one range, in
// its order. The pid file is written once dnsmasq listens.
const dnsmasqSettings = `strict-order
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

// dnsmasq is the incumbent. libvirt runs it with a script that keeps the leases
// and lets it check each new address by ping.
func dnsmasq(script, ping bool) subject {
	var left []string
	if !script {
		left = append(left, "no script")
	}
	if !ping {
		left = append(left, "no ping")
	}
	name := "dnsmasq as libvirt runs it"
	if left != nil {
		name = "dnsmasq, " + strings.Join(left, ", ")
	}
	return subject{name, func(b *bench, dir string) server { return startDnsmasq(b, dir, script, ping) }}
}

func startDnsmasq(b *bench, dir string, script, ping bool) server {
	makeBridge(b)
	settings := fmt.Sprintf(dnsmasqSettings, dir, maxClients)
	if !ping {
		settings += "no-ping\n"
	}
	var args []string
	if script {
		args = append(args, "--dhcp-script="+installLeasesHelper(b, dir))
	}
	srv := server{comm: "dnsmasq"}
	b.Cleanup(func() { gone(b, srv.comm) })
	kill := runDnsmasq(b, dir, settings, args...)
	if script {
		srv.stored = func() (int, error) {
			kill()
			return countHelperLeases(leasesFile(dir))
		}
	}
	return srv
}

// runDnsmasq starts a dnsmasq with its files in dir, until b ends or the function is called that
// it returns.
func runDnsmasq(b *bench, dir, settings string, args ...string) (kill func()) {
	b.write(filepath.Join(dir, "conf"), settings)
	b.write(filepath.Join(dir, "hostsfile"), "")
	b.write(filepath.Join(dir, "addnhosts"), "")
	// libvirt lets it log to syslog, of which there is none here.
	args = append(args, "--conf-file="+filepath.Join(dir, "conf"), "--leasefile-ro", "--keep-in-foreground", "--log-facility=/dev/null")
	cmd := exec.CommandContext(b.cleanupContext(), "dnsmasq", args...)
	complaints := new(strings.Builder)
	cmd.Stderr = complaints
	cmd.Env = append(os.Environ(), envLeases+"="+leasesFile(dir))
	if err := cmd.Start(); err != nil {
		b.Fatalf("starting dnsmasq: %w", err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	b.Cleanup(kill)
	nstest.Eventually(b, startLimit, "dnsmasq serves", func() error {
		_, err := os.Stat(filepath.Join(dir, "pid"))
		if cmd.Process.Signal(syscall.Signal(0)) != nil {
			err = fmt.Errorf("%w: %s", err, complaints)
		}
		return err
	})
	return kill
}

// makeBridge makes the bridge as libvirt does, up and with an address, for as
// long as b lasts.
func makeBridge(b *bench) {
	nstest.IP(b, "link add "+bridge+" type bridge stp_state 0 forward_delay 0")
	b.Cleanup(func() { nstest.IP(b, "link del "+bridge) })
	nstest.IP(b, "addr add "+serverAddr+prefix+" dev "+bridge)
	nstest.IP(b, "addr add "+serverAddr6+"/64 dev "+bridge+" nodad")
	nstest.IP(b, "link set "+bridge+" up")
}
