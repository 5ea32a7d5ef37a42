package diagnose

import (
	"strings"
	"testing"
)

// FuzzNFT reads listings of nft(8) of any form, in which others choose names and
// comments.
func FuzzNFT(f *testing.F) {
	f.Add("table inet mine {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\n\tchain fwd {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tcounter packets 0 bytes 0 drop\n\t}\n}\n")
	f.Add("table ip x { # handle 1\n\tchain a {\n\t\tiifname \"virbr*\" log prefix \"x } \" accept\n\t}\n}\n")
	f.Add("\tchain a {\n\t\tdrop\n\t}\ntable\ntable ip6 y {\n\tchain in {\n\t\ttype filter hook")
	f.Fuzz(func(t *testing.T, text string) {
		g := guests{served: []string{"virbr0"}, forwarded: []string{"virbr0"}}
		for _, table := range ParseTables(text) {
			for _, c := range table.conditions(g) {
				if c.Evidence == "" || !strings.Contains(c.Remedy, "virbr0") {
					t.Errorf("condition %+v", c)
				}
			}
		}
	})
}
