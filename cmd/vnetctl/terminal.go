package main

import (
	"cmp"
	"fmt"
	"iter"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

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

// wantsColour tells whether what is written to f is for the eyes of a person:
// f is a terminal that knows colours, and the user does not mind (NO_COLOR, see
// no-color.org).
func wantsColour(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || cmp.Or(os.Getenv("TERM"), "dumb") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
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
	cells[0].dot = " "
	return cells
}

// printCells prints an aligned table. Of a cell with a dot, the dot has the
// colour and the text is bold.
func (p *printer) printCells(rows [][]cellText) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell(c.text)))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			text := cell(c.text)
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2)
			if c.dot != "" && p.coloured {
				line.WriteString(p.paint(c.colour, c.dot) + " ")
			}
			if c.dot != "" {
				c.colour = bold
			}
			line.WriteString(p.paint(c.colour, text) + pad)
		}
		p.printf("%s\n", strings.TrimRight(line.String(), " "))
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
