package firewall_test

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// The tests' networks.
var (
	subnets    = firewalltest.Subnets
	natNetwork = firewalltest.NAT
	with       = firewalltest.With
	intents    = firewalltest.Intents
)

// mendLimit is how long a test waits for a repair.
const mendLimit = 20 * time.Second

// The writers of rules.
const (
	byIPTables = "iptables-nft"
	byLegacy   = "iptables-legacy"
	byNFTables = "nftables"
)

// host is a kernel of the test's own, and by what rules are written on it.
type host struct {
	*testing.T
	writer string
	log    *logBuffer
}

// logBuffer is where a host logs.
type logBuffer = firewalltest.LogBuffer

// byEachWriter runs body on a fresh kernel for each writer.
func byEachWriter(t *testing.T, body func(h *host)) {
	for _, writer := range []string{byIPTables, byLegacy, byNFTables} {
		t.Run(writer, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				body(&host{T: t, writer: writer, log: new(logBuffer)})
			})
		})
	}
}

// program is the program of iptables in the host's variant.
func (h *host) program() string {
	if h.writer == byLegacy {
		return byLegacy
	}
	return byIPTables
}

// newWriter opens the host's writer.
func (h *host) newWriter(exact bool) firewall.Writer {
	h.Helper()
	log := slog.New(slog.NewTextHandler(h.log, nil))
	if h.writer == byNFTables {
		return nft.New(nft.Config{LibvirtExactRules: exact, Logger: log})
	}
	w, err := iptables.New(h.Context(), iptables.Config{
		IPTables: h.writer, IP6Tables: strings.Replace(h.writer, "ip", "ip6", 1), LibvirtExactRules: exact, Logger: log,
	})
	if err != nil {
		h.Fatal(err)
	}
	return w
}

// firewall starts a process' worth of firewall; exact leaves out guards.
func (h *host) firewall(exact bool) *firewall.Firewall {
	h.Helper()
	f := firewall.New(h.newWriter(exact), firewall.Config{Audit: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(h.log, nil))})
	h.Cleanup(func() {
		if err := f.Close(); err != nil {
			h.Errorf("Close: %v", err)
		}
	})
	return f
}

// watched starts a firewall that repairs until the test ends.
func (h *host) watched() *firewall.Firewall {
	h.Helper()
	f := h.firewall(false)
	firewalltest.Watch(h, f)
	return f
}

// set fails the test unless Set succeeds for each network.
func (h *host) set(f *firewall.Firewall, networks ...firewall.Network) {
	h.Helper()
	firewalltest.Set(h, f, networks...)
}

// delete fails the test unless Delete succeeds.
func (h *host) delete(f *firewall.Firewall, n firewall.Network) {
	h.Helper()
	firewalltest.Delete(h, f, n)
}

// routing makes the host forward packets, but not those within a bridge, and
// answer all that it rejects.
func (h *host) routing() {
	h.Helper()
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
		"ipv4/icmp_msgs_per_sec": "1000000", "ipv4/icmp_msgs_burst": "1000000",
		"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.Fatal(err)
		}
	}
}

// batch carries out commands of one table of iptables as one transaction.
func (h *host) batch(table string, commands ...string) {
	h.Helper()
	cmd := exec.Command(h.program()+"-restore", "--noflush")
	cmd.Stdin = strings.NewReader("*" + table + "\n" + strings.Join(commands, "\n") + "\nCOMMIT\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.Fatalf("%s: %v: %s", commands, err, out)
	}
}

// nft runs commands of nft as one transaction.
func (h *host) nft(commands ...string) {
	h.Helper()
	nstest.Exec(h, "nft", strings.Join(commands, "; "))
}
