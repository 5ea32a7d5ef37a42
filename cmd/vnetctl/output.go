package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/format"
	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
)

// printer prints to standard output.
type printer struct {
	out      io.Writer
	format   *format.Template // in the place of JSON; nil: none
	coloured bool
	width    int   // of the terminal in characters, 0 for what is no terminal
	err      error // the first of printf
}

// field is one line of a description. An empty name continues the line above.
type field struct{ name, value string }

// printJSON prints v as indented JSON, or by the template of --format. Keys are
// snake_case and stay what they are: scripts use them.
func (p *printer) printJSON(v any) error {
	if p.format != nil {
		return p.format.Execute(p.out, v)
	}
	enc := json.NewEncoder(p.out)
	enc.SetIndent("", "  ")
	// XML is to stay readable; this is not for web pages.
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printLine prints v as JSON in one line, or by the template of --format.
func (p *printer) printLine(v any) error {
	if p.format != nil {
		return p.format.Execute(p.out, v)
	}
	return json.NewEncoder(p.out).Encode(v)
}

// printTable prints rows under the words of header, aligned. On a terminal that
// is too narrow, the columns named by the words of spare are left out, one after
// the other, and then long cells go on in the next line: a word is never broken,
// and JSON has them all.
// Behind a "|" in spare stand columns that are left out last of all.
func (p *printer) printTable(header, spare string, rows [][]table.Cell) error {
	for _, row := range rows {
		for i := range row {
			row[i].Text = table.OrDash(row[i].Text)
		}
	}
	spare, last, _ := strings.Cut(spare, "|")
	t := table.Table{Header: header, Spare: spare, Last: last, Rows: rows, Dots: p.coloured}
	for _, line := range t.Lines(p.width) {
		p.printSpans(line)
	}
	return p.err
}

// printSpans prints a line.
func (p *printer) printSpans(line []table.Span) {
	var text strings.Builder
	for _, s := range line {
		text.WriteString(p.paint(s.Colour, s.Text))
	}
	p.printf("%s\n", text.String())
}

// texts returns a row of plain cells.
func texts(values ...string) []table.Cell {
	row := make([]table.Cell, 0, len(values))
	for _, value := range values {
		row = append(row, table.Cell{Text: value})
	}
	return row
}

// alignedRows lays rows out as lines of width characters at most, 0 for any, without a
// header.
func alignedRows(rows [][]string, width int) []string {
	if len(rows) == 0 {
		return nil
	}
	t := table.Table{Header: strings.Repeat("- ", len(rows[0]))}
	for _, row := range rows {
		cells := texts(row...)
		for i := range cells {
			cells[i].Text = table.OrDash(cells[i].Text)
		}
		t.Rows = append(t.Rows, cells)
	}
	var lines []string
	for _, line := range t.Lines(width)[1:] {
		var text strings.Builder
		for _, s := range line {
			text.WriteString(s.Text)
		}
		lines = append(lines, text.String())
	}
	return lines
}

// printFields prints names and values in two columns.
func (p *printer) printFields(fields []field) error {
	width := 0
	for _, f := range fields {
		width = max(width, utf8.RuneCountInString(f.name+":")+2)
	}
	for _, f := range fields {
		name := f.name
		if name != "" {
			name += ":"
		}
		p.printFolded(fmt.Sprintf("%-*s", width, name), width, width, table.Plain, table.OrDash(f.value))
	}
	return p.err
}

// printFolded prints text in a colour behind what stands before it, which is width
// characters wide; what a narrow terminal has no room for goes on in lines that begin with
// as many blanks as indent. A command is not for it: lines of one can't be copied.
func (p *printer) printFolded(before string, width, indent int, c table.Colour, text string) {
	lines := []string{text}
	if p.width > 0 {
		lines = table.Hang(text, p.width-width, max(p.width-indent, least))
	}
	for _, line := range lines {
		p.printf("%s%s\n", before, p.paint(c, line))
		before = strings.Repeat(" ", indent)
	}
}

// least is how many characters of a text stand in a line, however narrow the terminal is.
const least = 20

// severityColour is the colour of a severity.
func severityColour(s api.Severity) table.Colour {
	switch s {
	case api.SeverityError:
		return table.Red
	case api.SeverityWarning:
		return table.Yellow
	}
	return table.Plain
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
func (p *printer) paint(c table.Colour, text string) string {
	if !p.coloured || c == table.Plain {
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
func (p *printer) printSection(title string, c table.Colour, lines []string) {
	if len(lines) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(c, title+":"))
	for _, line := range lines {
		p.printf("  %s\n", table.Printable(line))
	}
}
