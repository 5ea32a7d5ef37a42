// Package story tells what vnetd is for, step by step, on the real kernel and
// with a real guest: the demo prints the steps as they happen, the end-to-end
// test asserts them.
package story

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// What nat-network.xml says.
const (
	Network = "nat-network"
	Bridge  = "virbr-nat"
	Subnet  = "192.168.10.0/24"
	Gateway = "192.168.10.1"
	Host    = "myhost"
	Address = "192.168.10.10"
)

// Say shows what was observed.
type Say func(format string, args ...any)

// Step is one part of the story. Do returns an error if it did not happen as told.
type Step struct {
	Title string
	Do    func(ctx context.Context, say Say) error
}

// Story is the state between the steps, which are done in their order.
type Story struct {
	Lab   *nstest.Lab
	Guest *nstest.QEMU
	// Lease is the guest's, once it has one.
	Lease nstest.GuestLease

	t nstest.TB
}

// New begins a story in the namespaces of nstest.Run or nstest.Alone.
func New(t nstest.TB) *Story { return &Story{t: t} }

// Steps are the whole story.
func (s *Story) Steps() []Step {
	return []Step{
		{"A hypervisor with a LAN behind eno1", s.MakeLab},
		{"vnetd starts, with no configuration at all", s.StartDaemon},
		{"The network is defined and started", s.StartNetwork},
		{"QEMU starts a guest called " + Host, s.BootGuest},
		{"The guest gets the address reserved for its name", s.TakeLease},
		{"The names of the network", s.ResolveNames},
		{"The guest reaches the LAN through NAT", s.FetchPage},
		{"The LAN does not reach the guest", s.RefuseLAN},
		{"The rules are those that libvirt installs", s.CompareRules},
	}
}

// Testdata is the path of a file that the tests share.
func Testdata(name string) (string, error) {
	root, err := nstest.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "test", "testdata", name), nil
}

// MakeLab makes the surroundings.
func (s *Story) MakeLab(_ context.Context, say Say) error {
	s.Lab = nstest.NewLab(s.t)
	say("eno1 has %s; the LAN host %s has a web server and a name server", nstest.Uplink, nstest.LANHost)
	return nil
}

// StartDaemon starts vnetd.
func (s *Story) StartDaemon(_ context.Context, say Say) error {
	v := s.Lab.StartVnetd()
	say("ready after %v", v.Ready.Round(time.Millisecond))
	return nil
}

// StartNetwork defines nat-network.xml as it stands and starts it.
func (s *Story) StartNetwork(ctx context.Context, say Say) error {
	file, err := Testdata(Network + ".xml")
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"define", file}, {"start", Network}, {"list"}} {
		if _, err := s.vnetctl(ctx, say, args...); err != nil {
			return err
		}
	}
	return nil
}

// vnetctl runs a command that must succeed and shows it with its output.
func (s *Story) vnetctl(ctx context.Context, say Say, args ...string) (string, error) {
	shown := append([]string(nil), args...)
	for i, arg := range shown {
		if filepath.IsAbs(arg) {
			shown[i] = filepath.Base(arg)
		}
	}
	say("$ vnetctl %s", strings.Join(shown, " "))
	r := s.Lab.Vnetctl(ctx, args...)
	if err := r.Err(); err != nil {
		return "", fmt.Errorf("vnetctl %s: %w", strings.Join(shown, " "), err)
	}
	sayLines(say, r.Stdout)
	return r.Stdout, nil
}

// sayLines shows a program's output.
func sayLines(say Say, text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \n"); line != "" {
			say("%s", line)
		}
	}
}

// Netdev is QEMU's -netdev argument for a port of a network.
func (s *Story) Netdev(network string) string {
	return "tap,id=n0,br=" + network + ",helper=" + s.Lab.Helper()
}

// BootGuest starts QEMU and waits until the guest's link is up.
func (s *Story) BootGuest(ctx context.Context, say Say) error {
	netdev := s.Netdev(Network)
	say("$ qemu-system-x86_64 … -netdev %s", strings.ReplaceAll(netdev, s.Lab.Helper(), "vnet-bridge-helper"))
	s.Guest = nstest.BootGuest(s.t, nstest.GuestConfig{Name: Host, Netdev: netdev})
	up, err := s.Guest.LinkUp(ctx)
	if err != nil {
		return err
	}
	say("eth0 is up, %v after the kernel started", up)
	return nil
}

// TakeLease waits for the guest's lease and looks it up on the hypervisor.
func (s *Story) TakeLease(ctx context.Context, say Say) error {
	lease, err := s.Guest.Lease(ctx)
	if err != nil {
		return err
	}
	s.Lease = lease
	say("%s from %s, router %s, name server %s, for %v", lease.Address, lease.Server, lease.Router, lease.DNS, lease.Duration)
	say("%v from link up to lease (libvirt with dnsmasq: about 7 s for a first boot,", lease.After)
	say("of which 4 s wait for STP and 3 s for a ping of the address)")
	if want := netip.MustParsePrefix(Address + "/24"); lease.Address != want {
		return fmt.Errorf("the guest has %s, the network reserves %s for it", lease.Address, want)
	}
	listed, err := s.vnetctl(ctx, say, "leases", Network)
	if err != nil {
		return err
	}
	return Contains("vnetctl leases", listed, Address, Host)
}

// ResolveNames asks for names in the guest.
func (s *Story) ResolveNames(ctx context.Context, say Say) error {
	for _, q := range []struct{ query, answer string }{
		{"nslookup -type=a " + Host, Address},
		{"nslookup " + Address, Host},
		{"nslookup -type=a " + strings.TrimSuffix(nstest.LANName, "."), nstest.LANHost},
	} {
		out, err := s.InGuest(ctx, q.query)
		if err != nil {
			return err
		}
		if err := Contains(q.query, answers(out), q.answer); err != nil {
			return err
		}
		say("%s# %s", Host, q.query)
		sayLines(say, answers(out))
	}
	return nil
}

// answers drops what nslookup prints of the server that it asks.
func answers(out string) string {
	_, after, _ := strings.Cut(out, "\n\n")
	return strings.TrimSpace(after)
}

// InGuest runs a command in the guest that must succeed.
func (s *Story) InGuest(ctx context.Context, command string) (string, error) {
	out, status, err := s.Guest.Run(ctx, command)
	if err != nil {
		return "", err
	}
	if status != 0 {
		return "", fmt.Errorf("%q in the guest ended with %d: %s", command, status, out)
	}
	return out, nil
}

// FetchPage fetches a page from the LAN host by its name.
func (s *Story) FetchPage(ctx context.Context, say Say) error {
	command := "wget -q -O - http://" + strings.TrimSuffix(nstest.LANName, ".") + "/page"
	say("%s# %s", Host, command)
	out, err := s.InGuest(ctx, command)
	if err != nil {
		return err
	}
	sayLines(say, out)
	clients := s.Lab.Web.Clients()
	if len(clients) == 0 || clients[len(clients)-1] != nstest.Uplink {
		return fmt.Errorf("the web server saw the clients %q, want %s", clients, nstest.Uplink)
	}
	say("the web server saw the hypervisor's address %s as the source", nstest.Uplink)
	return nil
}

// CompareRules compares the rules with those that libvirt installs.
func (s *Story) CompareRules(ctx context.Context, say Say) error {
	got, err := nstest.Rules(ctx, "iptables-save")
	if err != nil {
		return err
	}
	sayLines(say, got)
	file, err := Testdata(Network + ".rules")
	if err != nil {
		return err
	}
	want, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		return fmt.Errorf("rules (-libvirt's +vnetd's):\n%s", diff)
	}
	return nil
}

// Contains is nil if text contains every one of the words.
func Contains(what, text string, words ...string) error {
	var errs []error
	for _, word := range words {
		if !strings.Contains(text, word) {
			errs = append(errs, fmt.Errorf("%s does not show %q: %s", what, word, text))
		}
	}
	return errors.Join(errs...)
}
