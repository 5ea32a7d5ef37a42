package main

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
)

// yesNo returns b as a word.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// oneLine joins the lines of text, as of several faults in one definition, of equal ones
// the first, and makes it safe to print.
func oneLine(text string) string {
	return table.Printable(strings.Join(slices.Compact(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })), "; "))
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
			if !yield(table.Printable(text)) {
				return
			}
		}
	}
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

		"private":     "guests are on the LAN, and do not reach each other (macvtap private)",
		"vepa":        "guests are on the LAN, and reach each other by its switch (macvtap vepa)",
		"passthrough": "guests have an interface of this host each (macvtap passthrough)",
		"hostdev":     "guests have a PCI device of this host each (hostdev)",
	}
	return cmp.Or(texts[mode], table.Printable(mode))
}

// enumerate returns the first values, most at most, and how many more there are.
func enumerate(values []string, most int) string {
	if len(values) <= most {
		return strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:most], ", "), len(values)-most)
}

// isLimit reports whether a name is that of a limit of a port's bandwidth.
func isLimit(name string) bool {
	return strings.HasPrefix(name, "inbound.") || strings.HasPrefix(name, "outbound.")
}

// setLimit sets a limit of a bandwidth, which may be nil. Which limits there are, vnetd
// knows.
func setLimit(bandwidth *map[string]uint64, name, value string) error {
	n, err := strconv.ParseUint(value, 10, 64)
	switch {
	case !isLimit(name):
		return fmt.Errorf("%s: want inbound. or outbound. and average, peak, burst or floor", name)
	case err != nil:
		return fmt.Errorf("%s=%s: want a number, of kB/s or for burst of KiB", name, value)
	}
	if *bandwidth == nil {
		*bandwidth = make(map[string]uint64)
	}
	(*bandwidth)[name] = n
	return nil
}

// bandwidthText lists limits.
func bandwidthText(limits map[string]uint64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		all = append(all, fmt.Sprintf("%s=%d", name, limits[name]))
	}
	return strings.Join(all, " ")
}

// forwardText is [ADDRESS:]PORT[:GUEST][:PORT][/PROTOCOL].
var forwardText = regexp.MustCompile(`^(?:(\[[^\]]*\]|\d+\.\d+\.\d+\.\d+):)?(\d+(?:-\d+)?)(?::(\[[^\]]*\]|[^:\[\]/]+))?(?::(\d+))?(?:/(tcp|udp|sctp))?$`)

// parseForward reads a forward, with its guest or for the guest of a port.
func parseForward(text string, guest bool) (f api.ForwardOptions, err error) {
	form := "[ADDRESS:]PORT[:PORT][/PROTOCOL]"
	if guest {
		form = "[ADDRESS:]PORT:GUEST[:PORT][/PROTOCOL]"
	}
	parts := forwardText.FindStringSubmatch(text)
	if parts == nil {
		return f, fmt.Errorf("%q: want %s", text, form)
	}
	bare := func(s string) string { return strings.Trim(s, "[]") }
	f = api.ForwardOptions{Address: bare(parts[1]), Ports: parts[2], To: bare(parts[3]), Protocol: parts[5]}
	toPort := parts[4]
	if !guest && toPort == "" {
		f.To, toPort = "", parts[3]
	}
	if guest != (f.To != "") || guest && strings.Trim(f.To, "0123456789") == "" {
		return f, fmt.Errorf("%q: want %s", text, form)
	}
	if toPort == "" {
		return f, nil
	}
	port, err := strconv.ParseUint(toPort, 10, 16)
	if err != nil || port == 0 {
		return f, fmt.Errorf("%q: %s is not a port of the guest, want one from 1 to 65535", text, toPort)
	}
	f.ToPort = uint16(port)
	return f, nil
}
