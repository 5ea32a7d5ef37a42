// Package table lays tables and texts out for a width: columns that matter less are left
// out, and what is too wide still goes on in the next line, but no word is ever broken.
// Widths are numbers of columns of a terminal: a Chinese character takes two, an accent that
// goes on the letter before it none (UAX #11, UAX #29).
package table

import (
	"slices"
	"strings"
)

// Colour is a way in which a terminal shows text (ECMA-48, SGR).
type Colour string

// The colours in use.
const (
	Plain  Colour = ""
	Bold   Colour = "1"
	Red    Colour = "1;31"
	Green  Colour = "1;32"
	Yellow Colour = "1;33"
)

// Cell is a cell of a table. Its text is safe to print.
type Cell struct {
	Colour Colour
	Dot    string // before the text, in the colour, with the text in bold; where dots are shown
	Text   string
}

// Span is a piece of a line that has one colour.
type Span struct {
	Colour Colour
	Text   string
}

// Table is what is to be shown. All rows have as many cells as the header has words.
type Table struct {
	Header string // words
	Spare  string // the words of columns that are left out where there is no room, first first
	Last   string // those that are left out, too, where long cells in further lines do not help
	Right  string // the words of columns that are aligned at their right
	Rows   [][]Cell
	Dots   bool // are shown
}

// gap is the number of blanks between two columns.
const gap = 2

// dotWidth is that of a dot and a blank.
const dotWidth = 2

// Lines lays the table out for a width; 0 is no limit. Only a word that is longer
// is in a line that is longer. The first line is the header.
func (t *Table) Lines(width int) [][]Span {
	all, dotted := [][]Cell{t.header()}, false
	for _, row := range t.Rows {
		all = append(all, slices.Clone(row))
		dotted = dotted || t.Dots && row[0].Dot != ""
	}
	room := width
	if dotted {
		room -= dotWidth
	}
	if width > 0 {
		drop(all, strings.Fields(t.Spare), room, Width)
		drop(all, strings.Fields(t.Last), room, longestWord)
		all = fold(all, room)
	}
	right := strings.Fields(t.Right)
	widths := columnWidths(all, Width)
	lines := make([][]Span, 0, len(all))
	for _, row := range all {
		lines = append(lines, t.line(row, all[0], widths, right, dotted))
	}
	return lines
}

// header returns the words of the header as cells.
func (t *Table) header() []Cell {
	var cells []Cell
	for _, word := range strings.Fields(t.Header) {
		cells = append(cells, Cell{Colour: Bold, Text: word})
	}
	return cells
}

// line lays one row out.
func (t *Table) line(row, header []Cell, widths []int, right []string, dotted bool) []Span {
	var line []Span
	add := func(c Colour, text string) { line = append(line, Span{c, text}) }
	for i, c := range row {
		switch {
		case i > 0 || !dotted:
		case c.Dot == "":
			add(Plain, strings.Repeat(" ", dotWidth))
		default:
			add(c.Colour, c.Dot)
			add(Plain, " ")
		}
		if c.Dot != "" {
			c.Colour = Bold
		}
		pad := strings.Repeat(" ", widths[i]-Width(c.Text))
		if slices.Contains(right, header[i].Text) {
			add(Plain, pad)
			pad = ""
		}
		add(c.Colour, c.Text)
		add(Plain, pad+strings.Repeat(" ", gap))
	}
	return trimmed(line)
}

// trimmed takes the blanks off the end of a line.
func trimmed(line []Span) []Span {
	for len(line) > 0 {
		last := &line[len(line)-1]
		if last.Text = strings.TrimRight(last.Text, " "); last.Text != "" {
			break
		}
		line = line[:len(line)-1]
	}
	return slices.DeleteFunc(line, func(s Span) bool { return s.Text == "" })
}

// drop leaves spare columns out, one after the other, until rows fit into width, as of
// measures a cell.
func drop(rows [][]Cell, spare []string, width int, of func(string) int) {
	for _, name := range spare {
		if total(columnWidths(rows, of)) <= width {
			return
		}
		i := slices.IndexFunc(rows[0], func(c Cell) bool { return c.Text == name })
		for j, row := range rows {
			rows[j] = slices.Delete(row, i, i+1)
		}
	}
}

// columnWidths returns the width of each column of rows, as of measures a cell.
func columnWidths(rows [][]Cell, of func(string) int) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], of(c.Text))
		}
	}
	return widths
}

// total returns the width of the longest line of columns.
func total(widths []int) int {
	sum := -gap
	for _, width := range widths {
		sum += width + gap
	}
	return sum
}

// fold has the widest columns go on in further lines, until rows fit into width or
// no column has anything left that can.
func fold(rows [][]Cell, width int) [][]Cell {
	widths, least := columnWidths(rows, Width), columnWidths(rows, longestWord)
	for total(widths) > width {
		widest := -1
		for i := range widths {
			if widths[i] > least[i] && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	var folded [][]Cell
	for _, row := range rows {
		folded = append(folded, foldRow(row, widths)...)
	}
	return folded
}

// foldRow returns a row as the lines that it takes with columns of these widths.
func foldRow(row []Cell, widths []int) [][]Cell {
	var lines [][]Cell
	for i, c := range row {
		for j, text := range Fold(c.Text, widths[i]) {
			if j == len(lines) {
				lines = append(lines, make([]Cell, len(row)))
			}
			lines[j][i] = Cell{Colour: c.Colour, Text: text}
		}
	}
	for i := range row {
		lines[0][i].Dot = row[i].Dot
	}
	return lines
}

// Fold returns text as lines of that width at most; 0 is no limit. It is parted at
// blanks, and behind commas where a word alone is longer; what can't be parted makes a
// line that is longer.
func Fold(text string, width int) []string { return Hang(text, width, width) }

// Hang is Fold with another width of the first line.
func Hang(text string, first, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	var lines []string
	line, room := "", first
	add := func(piece string) {
		if line != "" && Width(line+strings.TrimRight(piece, " ")) > room {
			lines = append(lines, strings.TrimRight(line, " "))
			line, room = "", width
		}
		line += piece
	}
	for word := range strings.SplitAfterSeq(text, " ") {
		if Width(strings.TrimRight(word, " ")) <= width {
			add(word)
			continue
		}
		for piece := range strings.SplitAfterSeq(word, ",") {
			add(piece)
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}

// longestWord returns the width of the longest piece of text that Fold does not part.
func longestWord(text string) (longest int) {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' }) {
		for piece := range strings.SplitAfterSeq(word, ",") {
			longest = max(longest, Width(piece))
		}
	}
	return longest
}
