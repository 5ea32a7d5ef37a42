package suggest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// absence is a kind of messages that something is not there.
type absence struct {
	beginning, end string // of the message
	command        string // of vnetctl's, which lists what there is; empty: none lists all
	names          func(ctx context.Context, d *client.Client) ([]string, error)
}

func absences() []absence {
	return []absence{
		{"network ", " does not exist", "list", networks},
		{"no network", "", "list", networks},
		{"no port ", "", "port list", ports},
		{"no guest ", "", "port list", ports},
		{"no forward ", "", "forward list", forwards},
		{`"`, " is neither a network nor a port's UUID, device or guest", "", networksAndPorts},
	}
}

// of finds the kind that an error of one line is of, nil for none.
func of(err error) *absence {
	message := err.Error()
	if !errors.Is(err, api.NotFound) || strings.Contains(message, "\n") {
		return nil
	}
	for _, a := range absences() {
		if strings.HasPrefix(message, a.beginning) && strings.HasSuffix(message, a.end) {
			return &a
		}
	}
	return nil
}

// Meant adds to an error that something is not there what is spelt most like it, as far as d
// knows; any other error it returns as it is.
func Meant(ctx context.Context, d *client.Client, err error) error {
	if err == nil {
		return nil
	}
	kind := of(err)
	if kind == nil {
		return err
	}
	_, rest, _ := strings.Cut(err.Error(), `"`)
	quoted, unquotable := strconv.QuotedPrefix(`"` + rest)
	typed, unread := strconv.Unquote(quoted)
	names, unlisted := kind.names(ctx, d)
	if errors.Join(unquotable, unread, unlisted) != nil {
		return err // it says enough
	}
	if meant := Names(typed, names); meant != "" {
		return &perhaps{err, meant}
	}
	return err
}

// perhaps is an error with what was meant.
type perhaps struct {
	error
	meant string
}

func (p *perhaps) Error() string { return p.error.Error() + ", perhaps " + p.meant }

func (p *perhaps) Unwrap() error { return p.error }

// WhereListed names the command that lists what there is, for an error that something is not
// and that says no more.
func WhereListed(err error) string {
	if kind := of(err); kind != nil && kind.command != "" {
		return `; "vnetctl ` + kind.command + `" shows all`
	}
	return ""
}

// most is how many names are suggested.
const most = 3

// Names quotes the names that are fewest letters away from typed, as of commands: two at
// most and less than half of it, or else those that begin with it. Empty for none.
func Names(typed string, names []string) string {
	low := strings.ToLower(typed)
	which := func(is func(name string) bool) (meant []string) {
		for _, name := range names {
			if is(strings.ToLower(name)) {
				meant = append(meant, strconv.Quote(name))
			}
		}
		slices.Sort(meant)
		return slices.Compact(meant)
	}
	var meant []string
	for away := 1; away <= 2 && 2*away < len(low) && meant == nil; away++ {
		meant = which(func(name string) bool { return distance([]rune(low), []rune(name)) <= away })
	}
	if meant == nil && low != "" {
		meant = which(func(name string) bool { return strings.HasPrefix(name, low) })
	}
	return strings.Join(meant[:min(len(meant), most)], " or ")
}

// distance is how many letters are to be put in, left out or replaced to make b of a
// (Levenshtein).
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range a {
		last := row[0]
		row[0] = i + 1
		for j, s := range b {
			replaced := last
			if r != s {
				replaced++
			}
			last = row[j+1]
			row[j+1] = min(replaced, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}

func networks(ctx context.Context, d *client.Client) (names []string, err error) {
	all, err := d.Networks(ctx)
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names, err
}

func ports(ctx context.Context, d *client.Client) (names []string, err error) {
	all, err := d.Ports(ctx)
	for _, p := range all {
		names = append(names, p.IfName, p.Name)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" }), err
}

func forwards(ctx context.Context, d *client.Client) (names []string, err error) {
	all, err := d.Forwards(ctx)
	for _, f := range all {
		names = append(names, f.Ports, f.Ports+"/"+f.Protocol)
	}
	return names, err
}

func networksAndPorts(ctx context.Context, d *client.Client) ([]string, error) {
	names, err := networks(ctx, d)
	more, err2 := ports(ctx, d)
	return append(names, more...), errors.Join(err, err2)
}
