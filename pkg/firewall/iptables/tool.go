package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// tool is one family's programs: iptables or ip6tables with its -save and
// -restore beside it.
type tool struct {
	family  firewall.Family
	command string // iptables or ip6tables as configured
	path    string // where it was found
	variant string // variantNFT or variantLegacy, "" if it does not run
	// missing is why the family can't be used, nil if it can.
	missing error
}

// list reads all tables of the family, with one exec.
func (t *tool) list(ctx context.Context) (listing, error) {
	out, err := run(ctx, "", t.path+"-save")
	if err != nil {
		return nil, fmt.Errorf("listing the %s rules: %w", t.family, err)
	}
	l, err := parseListing(out)
	if err != nil {
		return nil, fmt.Errorf("listing the %s rules: %w", t.family, err)
	}
	return l, nil
}

// apply carries out increments, with one exec. Each table of the text takes
// effect at its COMMIT, as a whole or not at all; after a fault in one the later
// ones are not looked at.
func (t *tool) apply(ctx context.Context, text string) error {
	wait := strconv.Itoa(int(lockWait / time.Second))
	_, err := run(ctx, text, t.path+"-restore", "--noflush", "-w", wait)
	var failed *execError
	if errors.As(err, &failed) {
		return explain(t.family, t.variant, text, failed)
	}
	return err
}

// newTools are the programs of both families, not looked for yet.
func newTools(ipv4, ipv6 string) []*tool {
	return []*tool{
		{family: firewall.IPv4, command: orDefault(ipv4, "iptables")},
		{family: firewall.IPv6, command: orDefault(ipv6, "ip6tables")},
	}
}

// nfproto is a family's number in messages of netfilter.
func nfproto(f firewall.Family) uint8 {
	if f == firewall.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// errNoIPv6 says that no firewall is needed.
var errNoIPv6 = errors.New("the kernel has no IPv6")

// errNotInstalled says that a program is not there.
var errNotInstalled = errors.New("is not installed")

// detect finds the family's programs and tries them on the kernel. What is
// amiss stands in missing afterwards.
func (t *tool) detect(ctx context.Context) {
	t.missing = t.probe(ctx)
	if t.missing == nil {
		return
	}
	needs := "every network of mode nat, route and isolated needs"
	if t.family == firewall.IPv6 {
		needs = "networks with IPv6 need"
	}
	t.missing = fmt.Errorf("no %s firewall, which %s: %w", t.family, needs, t.missing)
}

// look finds a program. The error says that it is not installed.
func look(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s %w: %w", program, errNotInstalled, errors.Unwrap(err))
	}
	return path, nil
}

// probe fills in the tool's path and variant and lists a table, which shows
// that kernel and privileges suffice.
func (t *tool) probe(ctx context.Context) error {
	proto := iptables.ProtocolIPv4
	if t.family == firewall.IPv6 {
		proto = iptables.ProtocolIPv6
		if _, err := os.Stat("/proc/net/if_inet6"); errors.Is(err, os.ErrNotExist) {
			return errNoIPv6
		}
	}
	if err := t.find(ctx); err != nil {
		return err
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Path(t.path), iptables.Timeout(int(lockWait.Seconds())))
	if err != nil {
		return fmt.Errorf("asking %s for its version: %w", t.command, err)
	}
	if _, err := ipt.ListChains(tableFilter); err != nil {
		return fmt.Errorf("trying %s: %w", t.command, err)
	}
	return nil
}

// find fills in the tool's path and variant, and touches nothing: iptables-legacy makes
// the tables that it lists.
func (t *tool) find(ctx context.Context) error {
	path, err := look(t.command)
	if err != nil {
		return err
	}
	t.path = path
	if err := t.version(ctx); err != nil {
		return err
	}
	for _, part := range []string{"-save", "-restore"} {
		if _, err := look(path + part); err != nil {
			return err
		}
	}
	return nil
}

// appeared reports whether a program that was not installed is now.
func (t *tool) appeared() bool {
	if !errors.Is(t.missing, errNotInstalled) {
		return false
	}
	_, err := look(t.command)
	return err == nil
}

// version finds out the variant, which "iptables --version" prints in brackets
// since 1.8.0. Before there was only what is now called legacy.
func (t *tool) version(ctx context.Context) error {
	out, err := run(ctx, "", t.path, "--version")
	if err != nil {
		return err
	}
	t.variant = variantLegacy
	if strings.Contains(out, "("+variantNFT+")") {
		t.variant = variantNFT
	}
	return nil
}

// rival reports whether the other variant of iptables holds rules: the kernel
// passes every packet through both, so an accept in ours does not end it.
func (t *tool) rival(ctx context.Context) (program string, holds bool) {
	program = "iptables-legacy"
	if t.variant == variantLegacy {
		program = "iptables-nft"
	}
	if t.family == firewall.IPv6 {
		program = strings.Replace(program, "iptables", "ip6tables", 1)
	}
	path, err := exec.LookPath(filepath.Join(filepath.Dir(t.path), program+"-save"))
	if err != nil {
		return program, false
	}
	out, err := run(ctx, "", path)
	return program, err == nil && strings.Contains(out, "\n-A ")
}

// orDefault is s, or def for an empty s.
func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
