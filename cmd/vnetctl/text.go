package main

import (
	"cmp"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// cell returns text as it stands in a column: a dash if there is none.
func cell(text string) string {
	if text == "" {
		return "-"
	}
	return printable(text)
}

// printable replaces what could steer a terminal: host names and client
// identifiers are the guests' words.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// yesNo returns b as a word.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// oneLine joins the lines of text, as of several faults in one definition, and
// makes it safe to print.
func oneLine(text string) string {
	return printable(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), "; "))
}

// quote quotes what the user typed.
func quote(text string) string { return strconv.Quote(text) }

// joined returns values with commas.
func joined[T fmt.Stringer](values []T) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ", ")
}

// printables makes each text safe to print.
func printables(texts []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, text := range texts {
			if !yield(printable(text)) {
				return
			}
		}
	}
}

// alignedRows joins the cells of each row, aligned.
func alignedRows(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i, text := range row {
			if len(widths) <= i {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell(text)))
		}
	}
	var lines []string
	for _, row := range rows {
		var line strings.Builder
		for i, text := range row {
			fmt.Fprintf(&line, "%-*s  ", widths[i], cell(text))
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return lines
}

// plural is a count of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// expiryText returns when a lease ends, in the zone of now, and how long that
// is from now.
func expiryText(expiry *time.Time, now time.Time) string {
	switch {
	case expiry == nil:
		return "never"
	case !expiry.After(now):
		return expiry.In(now.Location()).Format(time.DateTime) + " (expired)"
	}
	return fmt.Sprintf("%s (in %s)", expiry.In(now.Location()).Format(time.DateTime), remainder(expiry.Sub(now)))
}

// remainder returns d with its two highest units, as 59m, 2h05m or 3d04h.
func remainder(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}

// sizeText is a number of addresses, of which IPv6 has more than anybody reads.
func sizeText(n uint64) string {
	if n >= 1_000_000 {
		return ">1M"
	}
	return fmt.Sprint(n)
}

// modeText says what a mode does.
func modeText(mode string) string {
	texts := map[string]string{
		"nat":    "guests reach out through this host's addresses (nat)",
		"route":  "guests are routed (route)",
		"open":   "guests are routed, without rules of vnetd (open)",
		"none":   "guests reach each other and this host (isolated)",
		"bridge": "guests are on the LAN (bridge)",
	}
	return cmp.Or(texts[mode], printable(mode))
}

// enumerate returns the first values, most at most, and how many more there are.
func enumerate(values []string, most int) string {
	if len(values) <= most {
		return strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:most], ", "), len(values)-most)
}
