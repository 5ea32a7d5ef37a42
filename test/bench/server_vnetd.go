package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

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

// daemon is a vnetd of one measurement.
type daemon struct{ kill func() }

// vnetd starts the daemon without networks, with its state in dir. When b ends,
// all that it made is gone.
func (b *bench) vnetd(dir string) daemon {
	b.write("/etc/vnetd/vnetd.toml", fmt.Sprintf("state_dir = %q\nnetworks_dir = %q\n", stateDir(dir), networksDir(dir)))
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
	run, err := os.MkdirTemp("/run", "bench")
	if err != nil {
		return 0, err
	}
	s, err := store.Open(store.Dirs{Networks: networksDir(dir), Run: run, State: stateDir(dir)}, slog.Default())
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	leases, err := s.Leases(networkUUID).Load()
	return len(leases), err
}
