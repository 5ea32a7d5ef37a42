package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// keaSettings are for kea-dhcp4 and kea-dhcp6: leases in memory and in a file, to
// which each is appended before its ACK, without fsync; both processors are used.
const keaSettings = `{ "Dhcp%[1]s": {
  "interfaces-config": { "interfaces": [ %[3]s ] },
  "lease-database": { "type": "memfile", "persist": true, "name": "%[2]s", "lfc-interval": 0 },
  "multi-threading": { "enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 500 },
  %[4]s"valid-lifetime": 3600, "subnet%[1]s": [ %[5]s ],
  "loggers": [ { "name": "kea-dhcp%[1]s", "severity": "ERROR", "output_options": [ { "output": "stderr" } ] } ]
} }
`

// keaSubnet is one of the networks: its number, subnet, and pool.
const keaSubnet = `{ "id": %d, "subnet": "%s", "interface": "` + bridge + `", "pools": [ { "pool": "%s" } ] }`

// The heads of Kea's lease files.
const (
	keaHead4 = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n"
	keaHead6 = "address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source\n"
)

// keaPackages are Kea's servers.
func keaPackages() []string { return []string{"kea-dhcp4-server", "kea-dhcp6-server"} }

// startKea starts the server of one family with so many leases.
func startKea(b *bench, dir string, ipv6 bool, leases int) server {
	makeBridge(b)
	plug(b)
	file := filepath.Join(dir, "leases.csv")
	expire := time.Now().Add(time.Hour).Unix()
	family, subnet, pool, identity := "4", wideNet, wideStart+" - "+wideEnd, ""
	if ipv6 {
		family, subnet, pool = "6", subnet6, wideStart6+" - "+wideEnd6
		identity = `"server-id": { "type": "EN", "enterprise-id": 1, "identifier": "01", "persist": false }, `
		writeLines(b, file, keaHead6, leases, func(n int) string {
			mac := clientMAC(n)
			return fmt.Sprintf("%v,%s,3600,%d,1,3600,0,1,128,0,0,,%s,0,,1,2\n", held(wideStart6, n), net.HardwareAddr(duidOf(n)), expire, net.HardwareAddr(mac[:]))
		})
	} else {
		writeLines(b, file, keaHead4, leases, func(n int) string {
			mac := clientMAC(n)
			return fmt.Sprintf("%v,%s,,3600,%d,1,0,0,,0,\n", held(wideStart, n), net.HardwareAddr(mac[:]), expire)
		})
	}
	return runKea(b, dir, family, file, `"`+bridge+`"`, identity, fmt.Sprintf(keaSubnet, 1, subnet, pool))
}

// runKea starts the server of one family: its file of leases, the interfaces, settings of its
// own, and the subnets.
func runKea(b *bench, dir, family, file, interfaces, identity, subnets string) server {
	conf := filepath.Join(dir, "conf")
	b.write(conf, fmt.Sprintf(keaSettings, family, file, interfaces, identity, subnets))
	program := "kea-dhcp" + family
	cmd := exec.CommandContext(b.cleanupContext(), program, "-c", conf)
	cmd.Env = append(os.Environ(), "KEA_LOCKFILE_DIR=none", "KEA_PIDFILE_DIR="+dir)
	complaints := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = complaints, complaints
	if err := cmd.Start(); err != nil {
		b.Fatalf("starting %s: %w", program, err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		gone(b, program)
		if b.Failed() {
			b.Logf("%s says:\n%s", program, complaints)
		}
	})
	return server{comm: program}
}

// plug gives the bridge a carrier, without which Kea does not listen on it, and waits
// for its link-local address.
func plug(b *bench) { plugInto(b, bridge, "kea0", "kea1") }

// plugInto plugs a veth pair with these names into a bridge.
func plugInto(b *bench, bridge, near, far string) {
	nstest.IP(b, "link add "+near+" type veth peer name "+far)
	b.Cleanup(func() { nstest.IP(b, "link del "+near) })
	nstest.IP(b, "link set "+near+" master "+bridge+" up")
	nstest.IP(b, "link set "+far+" up")
	nstest.Eventually(b, startLimit, "the bridge has a link-local address", func() error {
		if got := nstest.IP(b, "-6 addr show dev "+bridge); strings.Contains(got, "tentative") || !strings.Contains(got, "fe80::") {
			return errors.New(got)
		}
		return nil
	})
}

// duidOf is the n-th client's DUID.
func duidOf(n int) []byte {
	mac := clientMAC(n)
	return append([]byte{0, 3, 0, 1}, mac[:]...)
}
