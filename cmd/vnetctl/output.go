package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// printer prints to standard output.
type printer struct {
	out      io.Writer
	coloured bool
	err      error // the first of printf
}

// field is one line of a description. An empty name continues the line above.
type field struct{ name, value string }

// printJSON prints v as indented JSON. Keys are snake_case and stay what they
// are: scripts use them.
func (p *printer) printJSON(v any) error {
	enc := json.NewEncoder(p.out)
	enc.SetIndent("", "  ")
	// XML is to stay readable; this is not for web pages.
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printTable prints rows under the words of header, aligned.
func (p *printer) printTable(header string, rows [][]string) error {
	w := newTabWriter(p.out)
	if _, err := fmt.Fprintln(w, strings.Join(strings.Fields(header), "\t")); err != nil {
		return err
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, text := range row {
			cells[i] = cell(text)
		}
		if _, err := fmt.Fprintln(w, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

// printFields prints names and values in two columns.
func (p *printer) printFields(fields []field) error {
	w := newTabWriter(p.out)
	for _, f := range fields {
		name := f.name
		if name != "" {
			name += ":"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\n", name, cell(f.value)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// newTabWriter returns a writer that aligns columns with two blanks between.
func newTabWriter(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
}

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
