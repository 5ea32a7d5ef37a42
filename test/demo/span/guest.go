package span

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// guest is a virtual machine.
type guest struct {
	t                nstest.TB
	name, mac, owner string
	host             *nstest.Host
	qemu             *nstest.QEMU
	address          string // once it has one
	boot             string // what its kernel calls this boot
}

// start runs QEMU on a host with a port of the network, as libvirt does: the port is
// requested with the virtual machine's UUID, and QEMU gets it open. more stands behind
// QEMU's other arguments.
func (g *guest) start(ctx context.Context, say story.Say, host *nstest.Host, more string) error {
	mac, err := net.ParseMAC(g.mac)
	if err != nil {
		return err
	}
	if err := os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", host.Bus()); err != nil {
		return err
	}
	c, err := client.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	p, err := c.RequestPort(ctx, "apps", client.PortOptions{Name: g.name, MAC: mac, OwnerUUID: g.owner, VnetHdr: true})
	if err != nil {
		return fmt.Errorf("a port for %s on %s: %w", g.name, host.Name, err)
	}
	defer func() { _ = p.Close() }() // QEMU has it
	wrap := host.Command(ctx, "sh", "-c", `exec "$@" -qmp unix:`+g.socket()+`,server=on,wait=off `+more, "sh").Args
	say("%s# qemu-system-x86_64 … -netdev tap,id=n0,fd=3 %s", host.Name, more)
	g.host = host
	g.qemu = nstest.BootGuest(g.t, nstest.GuestConfig{Name: g.name, MAC: g.mac, Netdev: "tap,id=n0,fd=3", Wrap: wrap, Files: p.Files})
	return nil
}

// socket is that of QEMU's monitor, on its host.
func (g *guest) socket() string { return "/run/" + g.name + ".qmp" }

// run runs a command in the guest, which must succeed.
func (g *guest) run(ctx context.Context, command string) (string, error) {
	out, status, err := g.qemu.Run(ctx, command)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("%q in %s ended with %d: %s", command, g.name, status, out)
	}
	return out, nil
}

// bootGuests starts both guests, and waits for their leases.
func (s *Story) bootGuests(ctx context.Context, say story.Say) error {
	s.anna = &guest{t: s.t, name: anna, mac: annaMAC, owner: annaOwner}
	s.ben = &guest{t: s.t, name: ben, mac: benMAC, owner: benOwner}
	for i, g := range []*guest{s.anna, s.ben} {
		if err := g.start(ctx, say, s.hosts[i], ""); err != nil {
			return err
		}
	}
	for _, g := range []*guest{s.anna, s.ben} {
		lease, err := g.qemu.Lease(ctx)
		if err != nil {
			return err
		}
		g.address = lease.Address.Addr().String()
		say("%s on %s got %s, for %v, %v after its link was up", g.name, g.host.Name, lease.Address, lease.Duration, lease.After)
		if g.boot, err = g.run(ctx, "cat /proc/sys/kernel/random/boot_id"); err != nil {
			return err
		}
	}
	if s.anna.address == s.ben.address {
		return errors.New("two guests have one address")
	}
	return s.shows(ctx, say, 2, []string{"h2", s.ben.address}, "where", ben)
}

// findEachOther has each guest ping the other by its name.
func (s *Story) findEachOther(ctx context.Context, say story.Say) error {
	if err := s.find(ctx, say); err != nil {
		return err
	}
	return s.shows(ctx, say, 0, []string{s.anna.address}, "leases", "apps")
}

// find is findEachOther, without asking vnetd.
func (s *Story) find(ctx context.Context, say story.Say) error {
	for _, pair := range [][2]*guest{{s.anna, s.ben}, {s.ben, s.anna}} {
		from, to := pair[0], pair[1]
		command := "ping -c 3 -i 0.2 " + to.name
		var out string
		err := await(ctx, func() (err error) {
			if out, err = from.run(ctx, command); err == nil {
				err = story.Contains(command, out, "("+to.address+")")
			}
			return err
		})
		if err != nil {
			return err
		}
		say("%s# %s", from.name, command)
		sayLines(say, out)
	}
	return nil
}

// beginPing has the guest ping another by its name, until endPing.
func (g *guest) beginPing(ctx context.Context, name string) error {
	if _, err := g.run(ctx, "ping -i 0.1 "+name+" >/tmp/ping 2>&1 & echo $! >/tmp/pinging"); err != nil {
		return err
	}
	return await(ctx, func() error {
		_, err := g.run(ctx, "grep -q seq=2 /tmp/ping")
		return err
	})
}

// pinged is how ping sums up.
var pinged = regexp.MustCompile(`(\d+) packets transmitted, (\d+) packets received`)

// endPing ends ping, and counts the packets but for a last one that was still on its way.
func (g *guest) endPing(ctx context.Context) (sent, lost int, err error) {
	var out string
	err = await(ctx, func() (err error) {
		out, err = g.run(ctx, `kill -INT $(cat /tmp/pinging) 2>/dev/null; grep transmitted /tmp/ping`)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	match := pinged.FindStringSubmatch(out)
	if match == nil {
		return 0, 0, fmt.Errorf("ping in %s says %q", g.name, out)
	}
	var got int
	if _, err := fmt.Sscan(match[1], &sent); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(match[2], &got); err != nil {
		return 0, 0, err
	}
	last, err := g.run(ctx, "grep seq= /tmp/ping | tail -n 1")
	if err != nil {
		return 0, 0, err
	}
	if lost = sent - got; lost > 0 && !strings.Contains(last, fmt.Sprintf("seq=%d ", sent-1)) {
		lost--
	}
	return sent, lost, nil
}

// renewed is what a guest prints of it.
var renewed = regexp.MustCompile(`GUEST lease (\S+) \S+ event=renew server=(\S+)`)

// renew has the guest renew its lease.
func (g *guest) renew(ctx context.Context, say story.Say) error {
	if _, err := g.run(ctx, "killall -USR1 udhcpc"); err != nil {
		return err
	}
	match, err := g.qemu.Expect(ctx, renewed)
	if err != nil {
		return err
	}
	say("%s renewed %s at %s, its host is %s", g.name, match[1], match[2], g.host.Name)
	if !strings.HasPrefix(match[1], g.address+"/") {
		return fmt.Errorf("%s has %s, had %s", g.name, match[1], g.address)
	}
	return nil
}

// moveAt is where the QEMU that takes a guest over listens, and what it may cost the guest.
const (
	movePort = "4444"
	moveLost = 50 // of packets every 0.1 s: the guest's own pause, and finding its new host
)

// move has QEMU move a guest to another host while the other guest pings it.
func (s *Story) move(ctx context.Context, say story.Say) error {
	if err := s.anna.beginPing(ctx, ben); err != nil {
		return err
	}
	say("%s# ping %s &", anna, ben)
	was := s.ben
	is := &guest{t: s.t, name: was.name, mac: was.mac, owner: was.owner, address: was.address, boot: was.boot}
	at := "tcp:" + address(2) + ":" + movePort
	if err := is.start(ctx, say, s.hosts[2], "-incoming "+at); err != nil {
		return err
	}
	if err := was.migrate(ctx, say, is, at); err != nil {
		return err
	}
	s.ben = is
	if err := is.qemu.Wake(); err != nil {
		return err
	}
	boot, err := is.run(ctx, "cat /proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	if boot != is.boot {
		return fmt.Errorf("it is another boot: %q, was %q", boot, is.boot)
	}
	if err := s.shows(ctx, say, 0, []string{"h3", is.address}, "where", ben); err != nil {
		return err
	}
	if err := s.find(ctx, say); err != nil {
		return err
	}
	sent, lost, err := s.anna.endPing(ctx)
	if err != nil {
		return err
	}
	say("%s sent %d packets in all this time, one each 0.1 s, and lost %d", anna, sent, lost)
	if lost > moveLost {
		return fmt.Errorf("%d of %d packets were lost, want at most %d", lost, sent, moveLost)
	}
	return nil
}

// migrate moves the guest to another QEMU, which listens at an address, and ends its own.
func (g *guest) migrate(ctx context.Context, say story.Say, to *guest, at string) error {
	there, err := to.monitor(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	here, err := g.monitor(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = here.Close() }()
	say("%s# migrate %s # in QEMU's monitor", g.host.Name, at)
	m, err := here.Migrate(ctx, there, at)
	if err != nil {
		return err
	}
	say("it runs there after %d ms, of which it stood still for %d ms", m.Total.Milliseconds(), m.Pause.Milliseconds())
	g.qemu.Kill()
	return nil
}

// monitor reaches QEMU's monitor, soon.
func (g *guest) monitor(ctx context.Context) (m *nstest.Monitor, err error) {
	err = await(ctx, func() (err error) {
		m, err = nstest.DialMonitor(ctx, fmt.Sprintf("/proc/%d/root%s", g.host.PID(), g.socket()))
		return err
	})
	return m, err
}
