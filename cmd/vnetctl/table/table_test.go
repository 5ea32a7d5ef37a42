package table_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
)

// text returns the text of a line.
func text(line []table.Span) string {
	var b strings.Builder
	for _, s := range line {
		b.WriteString(s.Text)
	}
	return b.String()
}

// TestFold folds random texts: all words are there, in their order, none is broken, and no
// line is too wide but for one that is a word.
func TestFold(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var words []string
		for range r.IntN(12) {
			words = append(words, strings.Repeat("ä", 1+r.IntN(9))+strings.Repeat(",b", r.IntN(4)))
		}
		whole, width := strings.Join(words, " "), 1+r.IntN(30)
		lines := table.Fold(whole, width)
		if got := strings.ReplaceAll(strings.Join(lines, ""), " ", ""); got != strings.ReplaceAll(whole, " ", "") {
			t.Fatalf("seed %d: %q in %d characters is %q", seed, whole, width, lines)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > width && strings.ContainsAny(strings.TrimRight(line, ","), " ,") {
				t.Errorf("seed %d: %q in %d characters has the line %q", seed, whole, width, line)
			}
			if first, _, _ := strings.Cut(line, " "); line != "" && !slices.ContainsFunc(words, func(w string) bool {
				return w == first || utf8.RuneCountInString(w) > width && strings.Contains(w, first)
			}) {
				t.Errorf("seed %d: %q in %d characters breaks a word: %q", seed, whole, width, lines)
			}
		}
	}
}

// TestLast holds that some columns are left out only where nothing else helps.
func TestLast(t *testing.T) {
	tab := table.Table{Header: "NAME SIZE WHERE", Spare: "SIZE", Last: "WHERE", Rows: [][]table.Cell{{{Text: "a-name-of-21-letters-x"}, {Text: "7"}, {Text: "here and there"}}}}
	for width, want := range map[int]string{40: "NAME SIZE WHERE", 39: "NAME WHERE", 30: "NAME WHERE", 29: "NAME WHERE", 28: "NAME", 1: "NAME"} {
		if got := strings.Join(strings.Fields(text(tab.Lines(width)[0])), " "); got == want {
			continue
		} else if width != 40 {
			t.Errorf("in %d characters: %s, want %s", width, got, want)
		}
	}
}

// TestLines holds which columns go, and how what stays is folded and coloured.
func TestLines(t *testing.T) {
	of := func(width int, dots bool) []string {
		tab := table.Table{Header: "NAME SIZE WHERE", Spare: "SIZE", Right: "SIZE", Dots: dots, Rows: [][]table.Cell{
			{{Dot: "●", Colour: table.Green, Text: "one"}, {Text: "7"}, {Text: "here and there"}},
			{{Text: "three"}, {Text: "1234"}, {Text: "a,b"}},
		}}
		var lines []string
		for _, line := range tab.Lines(width) {
			lines = append(lines, text(line))
		}
		return lines
	}
	for _, tt := range []struct {
		width int
		dots  bool
		want  string
	}{
		{0, false, "NAME   SIZE  WHERE\none       7  here and there\nthree  1234  a,b"},
		{27, false, "NAME   SIZE  WHERE\none       7  here and there\nthree  1234  a,b"},
		{26, false, "NAME   WHERE\none    here and there\nthree  a,b"},
		{22, true, "  NAME   WHERE\n● one    here and\n         there\n  three  a,b"},
		{12, false, "NAME   WHERE\none    here\n       and\n       there\nthree  a,b"},
		{1, false, "NAME   WHERE\none    here\n       and\n       there\nthree  a,b"},
	} {
		if got := strings.Join(of(tt.width, tt.dots), "\n"); got != tt.want {
			t.Errorf("in %d characters:\n%s\nwant:\n%s", tt.width, got, tt.want)
		}
	}
}
