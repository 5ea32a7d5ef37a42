// Package docs has what programs say out of the documents.
package docs

import (
	_ "embed"
	"regexp"
	"strings"
)

//go:embed dbus.md
var dbus string

//go:embed troubleshooting.md
var troubleshooting string

// Condition is a kind of condition, as the documents tell of it.
type Condition struct {
	Kind    string `json:"kind"`
	Meaning string `json:"meaning"`
	Help    string `json:"help"` // what is to be known beside the remedy that vnetd names; may be empty
}

// Conditions lists all kinds, in the order of dbus.md.
func Conditions() []Condition {
	help := make(map[string]string)
	for _, row := range rows(troubleshooting, "| condition | what it means, and what helps |") {
		help[row.Kind] = row.Meaning
	}
	all := rows(dbus, "| kind | meaning |")
	for i := range all {
		all[i].Help = help[all[i].Kind]
	}
	return all
}

var (
	kind = regexp.MustCompile("`([a-z0-9-]+)`")
	link = regexp.MustCompile(`\[([^\]]*)\]\(([^)#]*)[^)]*\)`)
)

// rows reads the tables of a page that have that header, each row for every kind that it
// begins with.
func rows(page, header string) []Condition {
	var all []Condition
	inside := false
	for line := range strings.Lines(page) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "|") || line == header {
			inside = line == header
			continue
		}
		kinds, text, ok := strings.Cut(strings.Trim(line, "|"), " | ")
		if !inside || !ok { // another table, or the line of dashes
			continue
		}
		for _, found := range kind.FindAllStringSubmatch(kinds, -1) {
			all = append(all, Condition{Kind: found[1], Meaning: plain(strings.TrimSpace(text))})
		}
	}
	return all
}

// plain is a cell without its links, of which the page stays.
func plain(text string) string {
	return link.ReplaceAllStringFunc(text, func(found string) string {
		parts := link.FindStringSubmatch(found)
		if parts[2] == "" {
			return parts[1]
		}
		return parts[1] + " (docs/" + parts[2] + ")"
	})
}
