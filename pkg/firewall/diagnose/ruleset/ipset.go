package ruleset

import (
	"net/netip"
	"strings"
)

// ParseIPSets reads the output of "ipset save". Sets of types that hold more than
// addresses and prefixes may have elements that it does not know.
func ParseIPSets(text string) map[string]*Set {
	sets := map[string]*Set{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 {
			continue
		}
		switch s := sets[words[1]]; {
		case words[0] == "create":
			known := words[2] == "hash:ip" || words[2] == "hash:net" || words[2] == "bitmap:ip"
			sets[words[1]] = &Set{Unknown: !known}
		case words[0] == "add" && s != nil:
			s.addIP(words[2], strings.HasSuffix(strings.TrimSpace(line), "nomatch"))
		}
	}
	return sets
}

// addIP adds an address, a prefix or a range.
func (s *Set) addIP(text string, nomatch bool) {
	element := spanSet(text)
	if a, err := netip.ParseAddr(text); err == nil {
		element = constant(Addr(a))
	} else if p, err := netip.ParsePrefix(text); err == nil {
		element = &Set{Elements: []Element{{Key: []Range{prefixRange(p)}}}}
	}
	if element == nil || nomatch {
		s.Unknown = true
		return
	}
	s.Elements = append(s.Elements, element.Elements...)
}
