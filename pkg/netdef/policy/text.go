package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// String is the rule as one line, as ParseRule reads it.
func (r Rule) String() string {
	words := []string{r.Direction, r.Action}
	if r.Protocol != "" {
		service := r.Protocol
		if len(r.Ports) > 0 {
			service += "/" + joinBy(r.Ports, ",")
		}
		words = append(words, service)
	}
	if len(r.Remotes) > 0 {
		words = append(words, preposition(r.Direction), join(r.Remotes))
	}
	if r.Log {
		words = append(words, "log")
	}
	return strings.Join(words, " ")
}

// preposition stands before the remotes of a rule.
func preposition(direction string) string {
	if direction == Ingress {
		return "from"
	}
	return "to"
}

// ParseRule reads a rule as one line:
//
//	egress|ingress allow|reject|drop [PROTOCOL[/PORTS]] [to|from REMOTE…] [log]
//
// such as "egress allow tcp/80,443 to *.example.org @mirrors log". The error says what is
// wanted in the place of what can't be read.
func ParseRule(text string) (r Rule, err error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return r, fmt.Errorf("%.80q is no rule: want such as \"egress allow tcp/443 to www.example.org\"", text)
	}
	if r.Direction, err = word(words[0], Egress, Ingress); err != nil {
		return r, err
	}
	if r.Action, err = word(words[1], Allow, Reject, Drop); err != nil {
		return r, err
	}
	words = words[2:]
	if n := len(words); n > 0 && words[n-1] == "log" {
		r.Log, words = true, words[:n-1]
	}
	if len(words) > 0 && words[0] != preposition(r.Direction) {
		if err := r.setService(words[0]); err != nil {
			return r, err
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return r, nil
	}
	if want := preposition(r.Direction); words[0] != want {
		return r, fmt.Errorf("%.80q: want %q and what a rule of %s is for, or \"log\"", words[0], want, r.Direction)
	}
	r.Remotes, err = parseRemotes(strings.Join(words[1:], " "))
	return r, err
}

// setService has the rule be for what word says.
func (r *Rule) setService(word string) error {
	all, err := parseService(word)
	if err != nil {
		return err
	}
	r.Protocol = all[0].Protocol
	for _, s := range all {
		if s.Ports != (Ports{}) {
			r.Ports = append(r.Ports, s.Ports)
		}
	}
	return nil
}

// word reads one of words.
func word(s string, words ...string) (string, error) {
	if !slices.Contains(words, s) {
		return "", fmt.Errorf("%.80q: want %s", s, strings.Join(words, " or "))
	}
	return s, nil
}

// parseWord is word for attributes, whose value the fault has already.
func parseWord(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", errors.New("want " + strings.Join(words, " or "))
		}
		return s, nil
	}
}

// String is the peering in words, such as "db, out: tcp/5432".
func (p Peer) String() string {
	services := "everything"
	if len(p.Services) > 0 {
		services = join(p.Services)
	}
	return fmt.Sprintf("%s, %s: %s", p.Network, p.Direction, services)
}
