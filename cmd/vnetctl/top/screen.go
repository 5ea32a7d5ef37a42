package top

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/pkg/api"
)

// Source asks for what was counted until now. An error may pass: it is shown, and the
// question is asked again.
type Source func(ctx context.Context) (api.Counts, error)

// Options say how Run shows what it shows.
type Options struct {
	Choice
	Every time.Duration  // between two questions
	Plain bool           // without colours
	Zone  *time.Location // that times are shown in
}

// firstPause is the time at most until there is something to see.
const firstPause = time.Second

// Run shows what source says on screen until the user ends it or ctx ends, neither of which
// is an error. first is the count that was asked for already. It leaves the terminal as it
// was.
func Run(ctx context.Context, screen tcell.Screen, source Source, first api.Counts, opts Options) error {
	if err := screen.Init(); err != nil {
		return fmt.Errorf("preparing the terminal: %w", err)
	}
	defer screen.Fini()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, answers := make(chan tcell.Event), make(chan answer, 1) // one question at a time: there is room
	go screen.ChannelEvents(events, ctx.Done())
	timer := time.NewTimer(min(opts.Every, firstPause))
	defer timer.Stop()
	m := newModel(screen, first, opts)
	for {
		m.draw()
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			go func() {
				c, err := source(ctx)
				answers <- answer{c, err}
			}()
		case a := <-answers:
			m.take(a)
			timer.Reset(m.Every)
		case e, open := <-events:
			if !open || m.handle(e) {
				return nil
			}
		}
	}
}

// answer is what a Source said.
type answer struct {
	counts api.Counts
	err    error
}

// model is what is shown, and how. One goroutine has it.
type model struct {
	Options
	screen tcell.Screen

	last  api.Counts
	shown Picture
	fault string // why there is nothing newer; empty: there is

	typing, help, only bool   // a filter; the keys are shown; ports are, and no networks
	before             string // the filter, if typing is given up
	scroll             int    // ports above the window
	window, ports      int    // how many the window has room for, and how many are wanted; of the last draw
}

// newModel returns the model of a first count, which tells no rates.
func newModel(screen tcell.Screen, first api.Counts, opts Options) *model {
	return &model{Options: opts, screen: screen, last: first, shown: Between(first, first)}
}

// take takes what a Source said.
func (m *model) take(a answer) {
	if a.err != nil {
		m.fault = a.err.Error()
		return
	}
	m.fault = ""
	m.shown, m.last = Between(m.last, a.counts), a.counts
}

// handle does what the user wants and reports whether that is the end.
func (m *model) handle(e tcell.Event) (end bool) {
	switch e := e.(type) {
	case *tcell.EventResize:
		m.screen.Sync()
	case *tcell.EventKey:
		switch {
		case e.Key() == tcell.KeyCtrlC:
			return true
		case m.typing:
			m.edit(e)
		case e.Key() == tcell.KeyCtrlL:
			m.screen.Sync()
		default:
			return m.press(e)
		}
	}
	return false
}

// edit takes a key of the filter.
func (m *model) edit(e *tcell.EventKey) {
	m.scroll = 0
	switch letters := []rune(m.Filter); e.Key() {
	case tcell.KeyEnter:
		m.typing = false
	case tcell.KeyEscape:
		m.typing, m.Filter = false, m.before
	case tcell.KeyBackspace, tcell.KeyBackspace2:
		m.Filter = string(letters[:max(len(letters)-1, 0)])
	case tcell.KeyCtrlU:
		m.Filter = ""
	case tcell.KeyRune:
		m.Filter += string(e.Rune())
	}
}

// keys are what is pressed, in the words of help. The functions report whether that is the end.
func (m *model) keys() []struct {
	names, help string
	do          func() (end bool)
} {
	on := func(do func()) func() bool {
		return func() bool {
			do()
			return false
		}
	}
	turn := func(by int) func() bool {
		return on(func() {
			names := Orders()
			m.Order = names[(max(slices.Index(names, m.Order), 0)+by+len(names))%len(names)]
		})
	}
	move := func(by func() int) func() bool {
		return on(func() { m.scroll = max(0, min(m.scroll+by(), m.ports-m.window)) })
	}
	return []struct {
		names, help string
		do          func() bool
	}{
		{"q", "end", func() bool { return true }},
		{"s", "sort by the next: " + strings.Join(Orders(), ", "), turn(1)},
		{"S", "sort by the one before", turn(-1)},
		{"r", "reverse the order", on(func() { m.Reverse = !m.Reverse })},
		{"/", "show what has these letters in a name, device or MAC address", on(func() { m.typing, m.before = true, m.Filter })},
		{"p", "ports alone, or networks too", on(func() { m.only = !m.only })},
		{"j Down", "the next port", move(func() int { return 1 })},
		{"k Up", "the port before", move(func() int { return -1 })},
		{"Space PgDn", "the next page of ports", move(func() int { return m.window })},
		{"b PgUp", "the page before", move(func() int { return -m.window })},
		{"g Home", "the first port", move(func() int { return -m.ports })},
		{"G End", "the last port", move(func() int { return m.ports })},
		{"h ?", "show the keys, or show them no more", on(func() { m.help = !m.help })},
		{"Esc", "no filter, no keys", on(func() { m.Filter, m.help = "", false })},
	}
}

// press does what a key is for.
func (m *model) press(e *tcell.EventKey) (end bool) {
	name := tcell.KeyNames[e.Key()]
	if e.Key() == tcell.KeyRune {
		name = strings.Replace(string(e.Rune()), " ", "Space", 1)
	}
	for _, k := range m.keys() {
		if slices.Contains(strings.Fields(k.names), name) {
			return k.do()
		}
	}
	return false
}

// draw draws everything.
func (m *model) draw() {
	m.screen.Clear()
	width, height := m.screen.Size()
	lines := m.lines(width, height)
	for y, line := range lines[:min(len(lines), height)] {
		x := 0
		for _, s := range line {
			m.screen.PutStrStyled(x, y, s.Text, m.style(s.Colour))
			x += table.Width(s.Text)
		}
	}
	if m.typing {
		m.screen.ShowCursor(len("filter: ")+table.Width(m.Filter), height-1)
	} else {
		m.screen.HideCursor()
	}
	m.screen.Show()
}

// style is how the terminal shows a colour.
func (m *model) style(c table.Colour) tcell.Style {
	style := tcell.StyleDefault.Bold(c != table.Plain)
	if m.Plain {
		return style
	}
	switch c {
	case table.Red:
		return style.Foreground(tcell.ColorMaroon)
	case table.Green:
		return style.Foreground(tcell.ColorGreen)
	case table.Yellow:
		return style.Foreground(tcell.ColorOlive)
	}
	return style
}

// lines are what is shown, from the top of the window to its bottom.
func (m *model) lines(width, height int) [][]table.Span {
	p := m.shown
	p.Time = p.Time.In(m.Zone)
	lines := append([][]table.Span{fit(Head(p, m.Every), width)}, m.state(width)...)
	if m.help {
		for _, k := range m.keys() {
			for i, text := range table.Fold(k.help, width-13) {
				names := ""
				if i == 0 {
					names = k.names
				}
				lines = append(lines, []table.Span{{Colour: table.Bold, Text: fmt.Sprintf("%-12s ", names)}, {Text: text}})
			}
		}
		return m.withFoot(lines, width, height)
	}
	networks, ports := m.Of(p)
	if !m.only {
		lines = append(lines, part(NetworkTable(networks).Lines(width), max(3, (height-3)/3), "networks")...)
		lines = append(lines, nil)
	}
	all := PortTable(ports).Lines(width)
	m.window, m.ports = max(0, height-len(lines)-2), len(all)-1 // the header and the foot are no ports
	m.scroll = max(0, min(m.scroll, m.ports-m.window))
	lines = append(lines, all[0])
	lines = append(lines, all[1+m.scroll:1+min(m.scroll+m.window, m.ports)]...)
	return m.withFoot(lines, width, height)
}

// state are the lines below the head: what is amiss, or what is shown and how.
func (m *model) state(width int) (lines [][]table.Span) {
	colour, text := table.Plain, "a second, from the guests' point of view; by "+orders()[max(slices.Index(Orders(), m.Order), 0)].name
	if m.Reverse {
		text += ", least first"
	}
	if m.fault != "" {
		colour, text = table.Red, table.Printable(strings.ReplaceAll(m.fault, "\n", "; "))
	}
	for _, line := range table.Fold(text, width) {
		lines = append(lines, []table.Span{{Colour: colour, Text: line}})
	}
	return lines
}

// fit leaves the last pieces of a line out that are more than width has room for.
func fit(line []table.Span, width int) []table.Span {
	for i, s := range line {
		if width -= table.Width(s.Text); width < 0 {
			return line[:i]
		}
	}
	return line
}

// part is a table of at most height lines, with a word on those that are left out.
func part(lines [][]table.Span, height int, what string) [][]table.Span {
	if len(lines) <= height {
		return lines
	}
	left := len(lines) - (height - 1)
	return append(lines[:height-1:height-1], []table.Span{{Text: fmt.Sprintf("(%d more %s)", left, what)}})
}

// withFoot puts the last line at the bottom of the window.
func (m *model) withFoot(lines [][]table.Span, width, height int) [][]table.Span {
	for len(lines) < height-1 {
		lines = append(lines, nil)
	}
	foot := []table.Span{{Text: "q end"}, {Text: "  h keys"}, {Text: "  s sort"}, {Text: "  / filter"}, {Text: "  p ports"}, {Text: "  r reverse"}}
	switch {
	case m.typing:
		foot = []table.Span{{Colour: table.Bold, Text: "filter: "}, {Text: table.Printable(m.Filter)}}
	case m.Filter != "":
		foot = []table.Span{{Colour: table.Bold, Text: "filter: " + table.Printable(m.Filter)}, {Text: "  Esc no filter"}, {Text: "  q end"}, {Text: "  h keys"}}
	}
	return append(lines[:max(0, min(len(lines), height-1))], fit(foot, width))
}
