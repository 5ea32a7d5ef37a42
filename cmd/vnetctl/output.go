package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
)

// printer prints to standard output.
type printer struct {
	out      io.Writer
	coloured bool
	width    int   // of the terminal in characters, 0 for what is no terminal
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

// printTable prints rows under the words of header, aligned. On a terminal that
// is too narrow, the columns named by the words of spare are left out, one after
// the other: a word is never broken, and JSON has them all.
func (p *printer) printTable(header, spare string, rows [][]cellText) error {
	all := [][]cellText{headerCells(header)}
	for _, row := range rows {
		for i := range row {
			row[i].text = cell(row[i].text)
		}
		all[0][0].dot = strings.Map(func(rune) rune { return ' ' }, row[0].dot)
		all = append(all, row)
	}
	for _, name := range strings.Fields(spare) {
		if p.width == 0 || tableWidth(all) <= p.width {
			break
		}
		i := slices.IndexFunc(all[0], func(c cellText) bool { return c.text == name })
		for j, row := range all {
			all[j] = slices.Delete(row, i, i+1)
		}
	}
	p.printCells(all)
	return p.err
}

// texts returns a row of plain cells.
func texts(values ...string) []cellText {
	row := make([]cellText, 0, len(values))
	for _, value := range values {
		row = append(row, cellText{text: value})
	}
	return row
}

// columnGap is the number of blanks between two columns.
const columnGap = 2

// columnWidths returns the width of each column of rows in characters.
func columnWidths(rows [][]cellText) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	return widths
}

// tableWidth returns the width of the longest row in characters, its dot
// included.
func tableWidth(rows [][]cellText) int {
	total := -columnGap
	if rows[0][0].dot != "" {
		total += len("  ") // the dot and a blank
	}
	for _, width := range columnWidths(rows) {
		total += width + columnGap
	}
	return total
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

// colour is a way in which a terminal shows text (ECMA-48, SGR).
type colour string

// The colours in use.
const (
	plain  colour = ""
	bold   colour = "1"
	red    colour = "1;31"
	green  colour = "1;32"
	yellow colour = "1;33"
)

// stateColour is the colour of a state, as systemctl has them.
func stateColour(s api.State) colour {
	switch s {
	case api.Active:
		return green
	case api.Failed:
		return red
	case api.Degraded, api.Starting, api.Stopping:
		return yellow
	}
	return plain
}

// severityColour is the colour of a severity.
func severityColour(s api.Severity) colour {
	switch s {
	case api.SeverityError:
		return red
	case api.SeverityWarning:
		return yellow
	}
	return plain
}

// wantsColour reports whether what is written to f is for the eyes of a person:
// f is a terminal that knows colours, and the user does not mind (NO_COLOR, see
// no-color.org).
func wantsColour(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || cmp.Or(os.Getenv("TERM"), "dumb") == "dumb" {
		return false
	}
	return isTerminal(f)
}

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// terminalWidth returns how many characters a line of the terminal f has, or 0
// if f is none.
func terminalWidth(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// paint returns text in a colour, where colours are wanted.
func (p *printer) paint(c colour, text string) string {
	if !p.coloured || c == plain {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// printf prints to standard output. The first error is kept in p.err, and
// nothing is printed after it.
func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

// printSection prints lines under a title.
func (p *printer) printSection(title string, c colour, lines []string) {
	if len(lines) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(c, title+":"))
	for _, line := range lines {
		p.printf("  %s\n", printable(line))
	}
}

// cellText is a cell of a table.
type cellText struct {
	colour colour
	dot    string // shown before the text where there are colours
	text   string
}

// headerCells are the words of a header.
func headerCells(words string) []cellText {
	var cells []cellText
	for _, word := range strings.Fields(words) {
		cells = append(cells, cellText{colour: bold, text: word})
	}
	return cells
}

// printCells prints an aligned table of texts that are safe to print. Of a cell with a dot, the dot has the
// colour and the text is bold.
func (p *printer) printCells(rows [][]cellText) {
	widths := columnWidths(rows)
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+columnGap)
			if c.dot != "" && p.coloured {
				line.WriteString(p.paint(c.colour, c.dot) + " ")
			}
			if c.dot != "" {
				c.colour = bold
			}
			line.WriteString(p.paint(c.colour, c.text) + pad)
		}
		p.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}
