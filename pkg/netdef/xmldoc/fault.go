package xmldoc

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Fault is one thing wrong with a network definition.
type Fault struct {
	// Path names the element or attribute, as in
	// network/ip[1]/dhcp/range[2]/@start. Elements that may stand more than
	// once are counted from 1. It is empty when the text is not XML at all.
	Path string
	// Value is what was written there; empty if nothing was.
	Value string
	// Problem says what is wrong with it and what would be right.
	Problem string

	more int // stands for that many faults, of which no more is known
}

// Error renders f on one line.
func (f Fault) Error() string {
	if f.more > 0 {
		return fmt.Sprintf("and %d more", f.more)
	}
	var b strings.Builder
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	if f.Value != "" {
		fmt.Fprintf(&b, "'%s': ", OneLine(f.Value))
	}
	b.WriteString(f.Problem)
	return b.String()
}

// maxQuoted bounds how much of a value an error message repeats.
const maxQuoted = 100

// OneLine returns s without line breaks and not longer than maxQuoted bytes,
// so that a message stays one line of a log.
func OneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return s
}

// Faults is everything wrong with a definition: first what can't be read, then
// what can't work. It is never empty when returned as an error. Of a document with
// more than MaxFaults, the first are here, and after them how many more there are.
type Faults []Fault

// MaxFaults is how many faults of a document are kept: a long one may have some on
// every line.
const MaxFaults = 100

// Error renders one fault per line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each Fault, for errors.As.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}

// Err returns fs as an error: nil if there are none.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// Add appends a fault, or counts it where there are MaxFaults.
func (fs *Faults) Add(path, value, problem string) {
	fs.add(Fault{Path: path, Value: value, Problem: problem})
}

func (fs *Faults) add(f Fault) {
	switch {
	case len(*fs) < MaxFaults:
		*fs = append(*fs, f)
	case len(*fs) == MaxFaults:
		*fs = append(*fs, Fault{more: max(f.more, 1)})
	default:
		(*fs)[MaxFaults].more += max(f.more, 1)
	}
}

// Addf appends a fault whose problem is formatted.
func (fs *Faults) Addf(path, value, format string, args ...any) {
	fs.Add(path, value, fmt.Sprintf(format, args...))
}

// Merge appends those of more that are not mere consequences of a fault in fs:
// a value that can't be read also looks wrong, or the element as if something
// were missing.
func (fs Faults) Merge(more Faults) Faults {
	known := make(map[string]bool, 2*len(fs))
	for _, f := range fs {
		known[f.Path] = true
		known[owner(f.Path)] = true
	}
	for _, f := range more {
		if consequence := f.more == 0 && (known[f.Path] || f.Value == "" && known[owner(f.Path)]); !consequence {
			fs.add(f)
		}
	}
	return fs
}

// Without returns those of fs that former has not. An element's place in its list
// doesn't count: another one may have come or gone before it.
func (fs Faults) Without(former Faults) Faults {
	seen := make(map[[2]string]int, len(former))
	for _, f := range former {
		seen[[2]string{f.Value, f.Problem}]++
	}
	return slices.DeleteFunc(fs, func(f Fault) bool {
		key := [2]string{f.Value, f.Problem}
		seen[key]--
		return seen[key] >= 0
	})
}

// owner returns the path of the element that an attribute stands in, and that
// of an element itself.
func owner(p string) string {
	if dir, last := path.Split(p); strings.HasPrefix(last, "@") {
		return strings.TrimSuffix(dir, "/")
	}
	return p
}

// AsFault returns err, which is a Fault, as one.
func AsFault(err error) Fault {
	var f Fault
	errors.As(err, &f)
	return f
}
