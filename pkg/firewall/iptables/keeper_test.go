package iptables_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// keeperText is the table that keeps connections as nft lists it.
const keeperText = "table ip vnetd_keep {\tflags owner\n\tcomment \"keeps translated connections while rules are mended\"\n\n" +
	"\tchain keep {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tct state invalid\n\t}\n}\n"

// listedKeeper is the table as nft lists it now, but for the program's name.
func listedKeeper(h *host) (out string) {
	for line := range strings.Lines(nstest.Exec(h, "nft", "list", "ruleset")) {
		if strings.Contains(line, " vnetd_keep {") || out != "" {
			line, _, _ = strings.Cut(line, " # progname")
			out += line
		}
		if out != "" && strings.HasPrefix(line, "}") {
			return out
		}
	}
	return out
}

// The table that keeps connections is listed by nft as what it is, for the
// families that are translated, until the firewall is closed or purged.
func TestHoldIsListed(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, intents()["isolated"], intents()["route"])
		if got := listedKeeper(h); got != "" {
			h.Errorf("without a NAT network nft lists\n%s", got)
		}
		h.set(f, natNetwork())
		if diff := cmp.Diff(keeperText, listedKeeper(h)); diff != "" {
			h.Errorf("nft lists (-want +got):\n%s", diff)
		}
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		if got := listedKeeper(h); got != "" {
			h.Errorf("after Purge nft lists\n%s", got)
		}
	})
}

// Nobody takes the table away, or anything out of it.
func TestHoldStays(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, natNetwork())
		for _, command := range []string{
			"delete table ip vnetd_keep", "flush table ip vnetd_keep", "flush chain ip vnetd_keep keep", "delete chain ip vnetd_keep keep",
			"add chain ip vnetd_keep other", "add table ip vnetd_keep { flags dormant; }", "flush ruleset",
		} {
			if out, err := exec.CommandContext(h.Context(), "nft", command).CombinedOutput(); err == nil && command != "flush ruleset" {
				h.Errorf("nft %s succeeds: %s", command, out)
			}
			if diff := cmp.Diff(keeperText, listedKeeper(h)); diff != "" {
				h.Errorf("after nft %s it lists (-want +got):\n%s", command, diff)
			}
		}
	})
}

// A table of that name which is another's is left alone, and ours is made once it is gone.
func TestHoldComesLate(t *testing.T) {
	onKernel(t, func(h *host) {
		nstest.Exec(h, "nft", "add table ip vnetd_keep; add chain ip vnetd_keep theirs")
		h.set(h.watched(iptables.Config{}), natNetwork())
		if got := listedKeeper(h); !strings.Contains(got, "chain theirs") {
			h.Errorf("the other's table is listed as\n%s", got)
		}
		nstest.Exec(h, "nft", "delete table ip vnetd_keep")
		nstest.Eventually(h, mendLimit, "the table is made", func() error {
			if diff := cmp.Diff(keeperText, listedKeeper(h)); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	})
}
