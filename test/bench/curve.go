package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-analyze/charts"

	"github.com/vnetd/vnetd/internal/nstest"
)

// curves is a picture of what something costs against how much of it there is: one line for
// each server. The zero value has no lines; methods are not safe for concurrent use.
type curves struct {
	name  string // of the file
	title string // with the unit
	sizes []string
	lines []line
}

// line are the figures of one server; a size without one has charts' null value.
type line struct {
	server string
	values []float64
}

// add notes the figure of a server at a size.
func (c *curves) add(server, size string, value float64) {
	x := slices.Index(c.sizes, size)
	if x < 0 {
		x = len(c.sizes)
		c.sizes = append(c.sizes, size)
	}
	y := slices.IndexFunc(c.lines, func(l line) bool { return l.server == server })
	if y < 0 {
		y = len(c.lines)
		c.lines = append(c.lines, line{server: server})
	}
	for len(c.lines[y].values) <= x {
		c.lines[y].values = append(c.lines[y].values, charts.GetNullValue())
	}
	c.lines[y].values[x] = value
}

// svg draws the lines, from zero on.
func (c *curves) svg() ([]byte, error) {
	values, servers := make([][]float64, len(c.lines)), make([]string, len(c.lines))
	for i, l := range c.lines {
		servers[i], values[i] = l.server, l.values
		for len(values[i]) < len(c.sizes) {
			values[i] = append(values[i], charts.GetNullValue())
		}
	}
	opt := charts.NewLineChartOptionWithData(values)
	opt.Title.Text = c.title
	opt.Title.FontStyle.FontSize = 12
	opt.XAxis.Labels = c.sizes
	opt.YAxis[0].Min = charts.Ptr(0.0)
	opt.Legend.SeriesNames = servers
	opt.Legend.Offset = charts.OffsetStr{Left: charts.PositionRight, Top: "24"}
	opt.Symbol.Shape = charts.SymbolCircle
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 640, Height: 360})
	if err := p.LineChart(opt); err != nil {
		return nil, err
	}
	return p.Bytes()
}

// curvesOf are those of a table: the first column says whose a figure is, and two others, by
// their headings, the size and the figure, whose unit is left out. Rows of which want is
// false and such without a figure are left out.
func curvesOf(t *table, name, title, size, figure string, want func(row []string) bool) *curves {
	c := &curves{name: name, title: title}
	x, y := slices.Index(t.rows[0], size), slices.Index(t.rows[0], figure)
	for _, row := range t.rows[1:] {
		number, _, _ := strings.Cut(row[y], " ")
		value, err := strconv.ParseFloat(number, 64)
		if err == nil && row[x] != "-" && (want == nil || want(row)) {
			c.add(row[0], row[x], value)
		}
	}
	return c
}

// draw writes the picture beside the other figures and says where.
func (b *bench) draw(c *curves) {
	root, err := nstest.Root()
	if err != nil {
		b.Fatalf("finding the source tree: %w", err)
	}
	path := filepath.Join(root, ".cache", "curves", c.name+".svg")
	data, err := c.svg()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		b.Fatalf("drawing %s: %w", c.name, err)
	}
	b.printf("drawn: %s\n", path)
}
