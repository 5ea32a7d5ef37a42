package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

// networkUUID is that of vnetdNetwork.
const networkUUID = "5b4f8e0c-6a0e-4a35-9d3c-7d1e2f3a4b5c"

// vnetdNetwork is the network that vnetd serves.
const vnetdNetwork = `<network>
  <name>bench</name>
  <uuid>` + networkUUID + `</uuid>
  <forward mode='nat' dev='eno1'/>
  <bridge name='` + bridge + `' stp='off' delay='0'/>
  <ip address='` + serverAddr + `' netmask='` + netmask + `'>
    <dhcp>
      <range start='` + rangeStart + `' end='` + rangeEnd + `'/>
    </dhcp>
  </ip>
</network>
`

// vnetd is our server: the built programs, with their defaults but for the place
// of the leases.
func vnetd() subject { return subject{"vnetd", startVnetdNetwork} }

func startVnetdNetwork(b *bench, dir string) server {
	daemon := b.vnetd(dir)
	xml := filepath.Join(dir, "bench.xml")
	b.write(xml, vnetdNetwork)
	b.vnetctl("create", xml)
	return server{comm: "vnetd", stored: func() (int, error) {
		daemon.kill()
		return countLeases(dir)
	}}
}

// vnetdNetwork6 serves DHCPv6 as well, and has addresses for many.
var vnetdNetwork6 = strings.NewReplacer(netmask, wideMask, rangeStart, wideStart, rangeEnd+"'/>", wideMiddle+`'/>
      <range start='`+wideNext+`' end='`+wideEnd+"'/>", "</network>", `  <ip family='ipv6' address='`+serverAddr6+`' prefix='64'>
    <dhcp>
      <range start='`+wideStart6+`' end='`+wideMiddle6+`'/>
      <range start='`+wideNext6+`' end='`+wideEnd6+`'/>
    </dhcp>
  </ip>
</network>`).Replace(vnetdNetwork)

// startVnetdLeases starts it with so many leases of one family.
func startVnetdLeases(b *bench, dir string, ipv6 bool, leases int) server {
	if err := storeLeases(dir, ipv6, leases); err != nil {
		b.Fatalf("storing leases: %w", err)
	}
	b.vnetd(dir)
	xml := filepath.Join(dir, "bench.xml")
	b.write(xml, vnetdNetwork6)
	b.vnetctl("create", xml)
	return server{comm: "vnetd"}
}

// storeLeases writes leases as a vnetd would have left them.
func storeLeases(dir string, ipv6 bool, leases int) error {
	s, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	all := make([]dhcpd.Lease, 0, leases)
	for n := range leases {
		mac := clientMAC(n)
		l := dhcpd.Lease{Addr: held(wideStart, n), MAC: mac[:], Expiry: time.Now().Add(time.Hour), State: dhcpd.StateBound}
		if ipv6 {
			l.Addr, l.DUID, l.IAID = held(wideStart6, n), duidOf(n), 1
		}
		all = append(all, l)
	}
	for some := range slices.Chunk(all, 5000) {
		if err := s.Leases(networkUUID).Commit(some, nil); err != nil {
			return err
		}
	}
	return nil
}

// daemon is a vnetd of one measurement.
type daemon struct{ kill func() }

// vnetd starts the daemon without networks, with its state in dir. When b ends,
// all that it made is gone.
func (b *bench) vnetd(dir string, settings ...string) daemon {
	config := append([]string{fmt.Sprintf("state_dir = %q\nnetworks_dir = %q", stateDir(dir), networksDir(dir))}, settings...)
	b.write("/etc/vnetd/vnetd.toml", strings.Join(config, "\n")+"\n")
	v := b.lab.StartVnetd()
	b.Cleanup(func() {
		v.Kill()
		if err := b.lab.Cleanup(b.cleanupContext()); err != nil {
			b.Logf("%v", err)
		}
	})
	return daemon{kill: v.Kill}
}

func stateDir(dir string) string    { return filepath.Join(dir, "state") }
func networksDir(dir string) string { return filepath.Join(dir, "networks") }

// vnetctl runs vnetctl, which must succeed.
func (b *bench) vnetctl(args ...string) {
	if err := b.lab.Vnetctl(b.Context(), args...).Err(); err != nil {
		b.Fatalf("vnetctl %v: %w", args, err)
	}
}

// countLeases counts the leases that a killed vnetd left on disk.
func countLeases(dir string) (int, error) {
	s, err := openStore(dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	leases, err := s.Leases(networkUUID).Load()
	return len(leases), err
}

// openStore opens the store of a vnetd that does not run.
func openStore(dir string) (*store.Store, error) {
	run, err := os.MkdirTemp("/run", "bench")
	if err != nil {
		return nil, err
	}
	return store.Open(store.Dirs{Networks: networksDir(dir), Run: run, State: stateDir(dir)}, slog.Default())
}
