package nstest_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// dnsmasq serves 192.0.2.10 to 192.0.2.20 on b0.
func dnsmasq(t *testing.T) {
	t.Helper()
	nstest.IP(t, "link add b0 type bridge")
	nstest.IP(t, "addr add 192.0.2.1/24 dev b0")
	nstest.IP(t, "link set b0 up")
	cmd := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts",
		"--interface=b0", "--except-interface=lo", "--bind-interfaces", "--dhcp-range=192.0.2.10,192.0.2.20", "--dhcp-leasefile=/run/leases",
		"--address=/lan-host.example/203.0.113.1")
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting dnsmasq: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", out)
		}
	})
}

// tap makes a persistent TAP on b0, so that QEMU finds it plugged in.
func tap(t *testing.T, name string) string {
	t.Helper()
	nstest.IP(t, "tuntap add "+name+" mode tap vnet_hdr")
	nstest.IP(t, "link set "+name+" master b0 up")
	return "tap,id=n0,ifname=" + name + ",script=no,downscript=no"
}

func TestGuestBootsAndObeys(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dnsmasq(t)
		q := nstest.BootGuest(t, nstest.GuestConfig{Name: "myhost", Netdev: tap(t, "t0"), MAC: "00:00:5e:00:53:01"})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		lease, err := q.Lease(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := lease.Address.String(); !strings.HasPrefix(got, "192.0.2.") || lease.Router != "192.0.2.1" || lease.Duration != time.Hour {
			t.Errorf("the guest's lease is %+v", lease)
		}
		for _, c := range []struct {
			command, want string
			status        int
		}{
			{"hostname", "myhost\n", 0},
			{"printf 'no newline'", "no newline", 0},
			{"cat /sys/class/net/eth0/address", "00:00:5e:00:53:01\n", 0},
			{"echo out; echo err >&2; echo end", "out\nerr\nend\n", 0},
			{"exit 7", "", 7},
			{"nslookup -type=a lan-host.example | grep -c 203.0.113.1", "1\n", 0},
			{"ping -c1 -W20 192.0.2.1 >/dev/null", "", 0},
		} {
			if got, status, err := q.Run(ctx, c.command); got != c.want || status != c.status || err != nil {
				t.Errorf("%q in the guest gave %q, status %d, %v; want %q, status %d", c.command, got, status, err, c.want, c.status)
			}
		}
		nstest.Exec(t, "ping", "-c1", "-W20", lease.Address.Addr().String())
	})
}

func TestGuestThatDies(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		q := nstest.BootGuest(t, nstest.GuestConfig{Name: "myhost", Netdev: "tap,id=n0,br=none,helper=/bin/false"})
		if _, err := q.Lease(t.Context()); err == nil || !strings.Contains(err.Error(), "helper") {
			t.Errorf("a guest whose helper fails ends with %v, want QEMU's message", err)
		}
		if q.Err() == nil {
			t.Error("QEMU exited with 0")
		}
	})
}
