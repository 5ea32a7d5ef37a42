package table

import (
	"strings"
	"unicode"

	"github.com/rivo/uniseg"

	"github.com/vnetd/vnetd/pkg/api"
)

// Width returns how many columns of a terminal text takes.
func Width(text string) int { return uniseg.StringWidth(text) }

// OrDash returns text as it stands in a column: printable, and a dash if there is none.
func OrDash(text string) string {
	if text == "" {
		return "-"
	}
	return Printable(text)
}

// Printable replaces what could steer a terminal: host names and client
// identifiers are the guests' words.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// StateColour is the colour of a network's state, as systemctl has them.
func StateColour(s api.State) Colour {
	switch s {
	case api.Active:
		return Green
	case api.Failed:
		return Red
	case api.Degraded, api.Starting, api.Stopping:
		return Yellow
	}
	return Plain
}
