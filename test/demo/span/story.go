// Package span tells what a network that spans hosts is for, step by step, on the real
// kernel: three hosts with an etcd and a vnetd each, two real guests, of which one moves.
package span

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// The guests, and their virtual machines' UUIDs, by which a port on another host is known
// as the same guest's.
const (
	anna      = "anna"
	annaMAC   = "52:54:00:00:00:0a"
	annaOwner = "0a0a0a0a-0000-4000-8000-00000000000a"
	ben       = "ben"
	benMAC    = "52:54:00:00:00:0b"
	benOwner  = "0b0b0b0b-0000-4000-8000-00000000000b"
)

// document is the network, as an administrator writes it.
const document = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>apps</name>
  <forward mode='nat'/>
  <domain name='apps.test' localOnly='yes'/>
  <ip address='10.50.0.1' netmask='255.255.0.0'>
    <dhcp><range start='10.50.1.0' end='10.50.255.254'/></dhcp>
  </ip>
  <vnetd:span cluster='lab'/>
</network>
`

// Story is the state between the steps, which are done in their order.
type Story struct {
	t         nstest.TB
	hosts     []*nstest.Host
	etcd      []*server
	anna, ben *guest
}

// New begins a story in the namespaces of nstest.Run or nstest.Alone.
func New(t nstest.TB) *Story { return &Story{t: t} }

// Steps are the whole story.
func (s *Story) Steps() []story.Step {
	return []story.Step{
		{Title: "Three hosts on one wire", Do: s.makeHosts},
		{Title: "An authority, and etcd on each of them", Do: s.startEtcd},
		{Title: "vnetd on each of them, with the configuration of its package", Do: s.startVnetd},
		{Title: "A network is defined on the first host, and there on all", Do: s.defineNetwork},
		{Title: "QEMU starts " + anna + " on h1 and " + ben + " on h2", Do: s.bootGuests},
		{Title: "They find each other by name", Do: s.findEachOther},
		{Title: ben + " moves to h3, running", Do: s.move},
		{Title: "etcd is killed on all hosts, and nothing stops", Do: s.killEtcd},
		{Title: "etcd is back, and so is the cluster", Do: s.startAgain},
	}
}

// address is that of the host with that number, from 0, on the wire.
func address(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

// makeHosts makes the surroundings.
func (s *Story) makeHosts(_ context.Context, say story.Say) error {
	nstest.IP(s.t, "link add wire type bridge mcast_snooping 0")
	nstest.IP(s.t, "link set wire up")
	for i := range 3 {
		h := nstest.NewHost(s.t, fmt.Sprintf("h%d", i+1))
		nstest.IP(s.t, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
		nstest.IP(s.t, fmt.Sprintf("link set wire%d master wire up", i+1))
		h.IP("link set eth0 up")
		h.IP("addr add " + address(i) + "/24 dev eth0")
		s.hosts = append(s.hosts, h)
		say("%s has %s", h.Name, address(i))
	}
	return nil
}

// vnetctl runs a command that must succeed on a host, and shows it.
func (s *Story) vnetctl(ctx context.Context, say story.Say, host int, args ...string) (string, error) {
	h := s.hosts[host]
	say("%s# vnetctl %s", h.Name, strings.Join(args, " "))
	r := h.Vnetctl(ctx, "", args...)
	if err := r.Err(); err != nil {
		return "", fmt.Errorf("%s: vnetctl %s: %w", h.Name, strings.Join(args, " "), err)
	}
	return r.Stdout, nil
}

// shows runs vnetctl on a host until it succeeds and shows all of the words, and prints the
// last.
func (s *Story) shows(ctx context.Context, say story.Say, host int, words []string, args ...string) error {
	h, what := s.hosts[host], "vnetctl "+strings.Join(args, " ")
	var out string
	err := await(ctx, func() error {
		r := h.Vnetctl(ctx, "", args...)
		out = r.Stdout
		return errors.Join(r.Err(), story.Contains(what, out, words...))
	})
	if err == nil {
		say("%s# %s", h.Name, what)
		sayLines(say, out)
	}
	return err
}

// sayLines shows a program's output.
func sayLines(say story.Say, text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \n"); line != "" {
			say("%s", line)
		}
	}
}

// await probes until that succeeds; the error is of the last probe before ctx ended.
func await(ctx context.Context, probe func() error) error {
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startVnetd lets the hosts into the cluster, and starts vnetd on each.
func (s *Story) startVnetd(ctx context.Context, say story.Say) error {
	top, err := nstest.Root()
	if err != nil {
		return err
	}
	for i, h := range s.hosts {
		if _, err := s.vnetctl(ctx, say, 0, "cluster", "add-host", h.Name, "--underlay", address(i), "--may-define"); err != nil {
			return err
		}
		if err := s.copy(ctx, "/etc/vnetd/cluster/hosts/"+h.Name, i, "/etc/vnetd/cluster"); err != nil {
			return err
		}
		h.Exec("sh", "-c", `cat "$1" /etc/vnetd/cluster/vnetd.toml >/etc/vnetd/vnetd.toml`, "sh", filepath.Join(top, "configs", "vnetd.toml"))
		h.StartVnetd()
	}
	err = await(ctx, func() error {
		r := s.hosts[0].Vnetctl(ctx, "", "cluster", "hosts", "--format", "{{range .hosts}}{{.state}} {{end}}")
		if strings.TrimSpace(r.Stdout) != "alive alive alive" {
			return errors.Join(fmt.Errorf("hosts are %q", r.Stdout), r.Err())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.shows(ctx, say, 0, []string{"h1", "h2", "h3"}, "cluster", "hosts")
}

// defineNetwork defines it on the first host, and sees it on the others.
func (s *Story) defineNetwork(ctx context.Context, say story.Say) error {
	sayLines(say, document)
	say("h1# vnetctl define apps.xml")
	if err := s.hosts[0].Vnetctl(ctx, document, "define", "-").Err(); err != nil {
		return err
	}
	for _, verb := range []string{"start", "enable"} {
		if _, err := s.vnetctl(ctx, say, 0, verb, "apps"); err != nil {
			return err
		}
	}
	for i := 1; i < len(s.hosts); i++ {
		if err := s.shows(ctx, say, i, []string{"apps", " active"}, "list"); err != nil {
			return err
		}
	}
	return s.shows(ctx, say, 2, []string{"VNI ", address(0), address(1)}, "status", "apps")
}
