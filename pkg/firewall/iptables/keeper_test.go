package iptables_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// The table that keeps connections is listed by nft as what it is, for the
// families that are translated, until the firewall is closed or purged.
func TestHoldIsListed(t *testing.T) {
	onKernel(t, func(h *host) {
		listed := func() (out string) {
			for line := range strings.Lines(nstest.Exec(h, "nft", "list", "ruleset")) {
				if strings.Contains(line, " vnetd {") || out != "" {
					line, _, _ = strings.Cut(line, " # progname")
					out += line
				}
				if out != "" && strings.HasPrefix(line, "}") {
					return out
				}
			}
			return out
		}
		f := h.firewall()
		h.set(f, intents()["isolated"], intents()["route"])
		if got := listed(); got != "" {
			h.Errorf("without a NAT network nft lists\n%s", got)
		}
		h.set(f, natNetwork())
		const want = "table ip vnetd {\tflags owner\n\tcomment \"keeps translated connections while rules are mended\"\n\n" +
			"\tchain keep {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tct state invalid\n\t}\n}\n"
		if diff := cmp.Diff(want, listed()); diff != "" {
			h.Errorf("nft lists (-want +got):\n%s", diff)
		}
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		if got := listed(); got != "" {
			h.Errorf("after Purge nft lists\n%s", got)
		}
	})
}
