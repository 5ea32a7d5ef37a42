package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// table is text in columns: the first to the left, the others to the right.
type table struct{ rows [][]string }

// add appends a row. Rows may differ in length.
func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// addAny appends a row of what fmt prints.
func (t *table) addAny(cells ...any) {
	var row []string
	for _, cell := range cells {
		row = append(row, fmt.Sprint(cell))
	}
	t.add(row...)
}

// String is the table with two blanks between the columns.
func (t *table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		line := ""
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line += cell + pad
			} else {
				line += "  " + pad + cell
			}
		}
		b.WriteString("  " + strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// millis prints d in milliseconds, with three digits that mean something.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 10:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.2f ms", ms)
	}
}

// quantile is the smallest of d that is not below the share q of them, 0 of none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// percent prints a share of one.
func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }
