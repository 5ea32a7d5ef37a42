package top

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/pkg/api"
)

// start is when the first count of these tests was taken.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// counted is what was counted after some seconds of a host whose web1 receives 1.5 MB and
// sends 20 kB a second, and whose guard stops a frame in ten seconds.
func counted(seconds uint64) api.Counts {
	c := api.Counts{
		Time: start.Add(time.Duration(seconds) * time.Second), Conntrack: &api.Conntrack{Entries: 210000, Limit: 262144},
		Networks: []api.NetworkCounts{
			{Name: "default", UUID: "n1", State: api.Active, Bridge: "virbr0", DHCP: 7 * seconds, DNS: 1250 * seconds, Ports: []api.PortCounts{
				{
					UUID: "p1", Name: "web1", MAC: "52:54:00:00:00:01", IfName: "vnet0",
					Receive:  api.Traffic{Bytes: 1_500_000 * seconds, Packets: 1000 * seconds},
					Transmit: api.Traffic{Bytes: 20_000 * seconds, Packets: 300 * seconds, Drops: 4 * seconds},
					Stopped:  seconds / 10,
				},
				{UUID: "p2", Name: "db1", MAC: "52:54:00:00:00:02", IfName: "vnet1", Receive: api.Traffic{Bytes: 90 * seconds, Packets: seconds}},
			}},
			{Name: "lab", UUID: "n2", State: api.Degraded, Bridge: "virbr1", Ports: []api.PortCounts{
				{UUID: "p3", Name: "lab\x1b[31m", MAC: "52:54:00:00:00:03", IfName: "", Transmit: api.Traffic{Bytes: 5_000_000 * seconds, Packets: 4000 * seconds}},
			}},
			{Name: "old", UUID: "n3", State: api.Inactive, Bridge: "virbr2"},
		},
	}
	for i := range uint64(30) {
		c.Networks[1].Ports = append(c.Networks[1].Ports, api.PortCounts{
			UUID: fmt.Sprint("q", i), Name: fmt.Sprintf("node%02d", i), MAC: fmt.Sprintf("52:54:00:00:01:%02x", i), IfName: fmt.Sprint("tap", i),
			Receive: api.Traffic{Bytes: i * 100 * seconds},
		})
	}
	return c
}

// shown is the text of a screen, with what is behind its lines cut off.
func shown(screen tcell.SimulationScreen) string {
	cells, width, height := screen.GetContents()
	var text strings.Builder
	for y := range height {
		var line strings.Builder
		for x := range width {
			line.Write(cells[y*width+x].Bytes)
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return text.String()
}

// newSimulation is a model on a screen in memory.
func newSimulation(t *testing.T, width, height int) (*model, tcell.SimulationScreen) {
	t.Helper()
	screen := tcell.NewSimulationScreen("")
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(screen.Fini)
	screen.SetSize(width, height)
	m := newModel(screen, counted(0), Options{Every: 10 * time.Second, Zone: time.UTC})
	m.take(answer{counts: counted(10)})
	return m, screen
}

// press presses keys, one a letter.
func press(m *model, keys string) (end bool) {
	for _, r := range keys {
		end = m.handle(tcell.NewEventKey(tcell.KeyRune, r, tcell.ModNone))
	}
	return end
}

// TestScreens presses keys at several sizes and compares what is seen.
func TestScreens(t *testing.T) {
	t.Parallel()
	var seen strings.Builder
	note := func(what string, m *model, screen tcell.SimulationScreen) {
		m.draw()
		width, height := screen.Size()
		fmt.Fprintf(&seen, "%s %s\n%s", strings.Repeat("=", width-len(what)-1), what, shown(screen))
		if lines := m.lines(width, height); len(lines) != height {
			t.Errorf("%s: %d lines in a window of %d", what, len(lines), height)
		}
	}
	for _, width := range []int{140, 80, 50} {
		m, screen := newSimulation(t, width, 24)
		note("at first", m, screen)
		press(m, "ss")
		note("by what is sent", m, screen)
		press(m, "r/node2")
		note("a filter being typed", m, screen)
		m.handle(tcell.NewEventKey(tcell.KeyEnter, 0, tcell.ModNone))
		m.take(answer{err: errors.New("vnetd does not run: it is stopped; try: systemctl start vnetd")})
		note("without vnetd", m, screen)
		m.handle(tcell.NewEventKey(tcell.KeyEscape, 0, tcell.ModNone))
		m.take(answer{counts: counted(5)}) // all has begun anew
		press(m, "pG")
		note("ports alone, the last", m, screen)
		press(m, "h")
		note("keys", m, screen)
	}
	golden.Compare(t, filepath.Join("testdata", t.Name()+".golden"), seen.String())
}

// TestResize draws windows of all sizes, in which nothing may break.
func TestResize(t *testing.T) {
	t.Parallel()
	m, screen := newSimulation(t, 80, 24)
	for _, keys := range []string{"", "G", "p", "h", "h/x"} {
		press(m, keys)
		for _, width := range []int{1, 20, 110} {
			for _, height := range []int{1, 2, 5, 40} {
				screen.SetSize(width, height)
				m.handle(tcell.NewEventResize(width, height))
				m.draw()
			}
		}
	}
}

// TestBetween holds how rates are made of counts that begin anew, come and go.
func TestBetween(t *testing.T) {
	port := func(uuid, ifname string, bytes uint64) api.PortCounts {
		return api.PortCounts{UUID: uuid, IfName: ifname, Receive: api.Traffic{Bytes: bytes}}
	}
	count := func(seconds int, ports ...api.PortCounts) api.Counts {
		return api.Counts{Time: start.Add(time.Duration(seconds) * time.Second), Networks: []api.NetworkCounts{{UUID: "n", DNS: uint64(100 * seconds), Ports: ports}}}
	}
	for _, tt := range []struct {
		name          string
		before, after api.Counts
		want          []float64
	}{
		{"goes on", count(0, port("a", "vnet0", 100)), count(2, port("a", "vnet0", 300)), []float64{100}},
		{"begins anew", count(0, port("a", "vnet0", 100)), count(2, port("a", "vnet0", 60)), []float64{30}},
		{"is new", count(0), count(2, port("a", "vnet0", 1e9)), []float64{0}},
		{"has another device", count(0, port("a", "", 0)), count(2, port("a", "vnet9", 1e9)), []float64{0}},
		{"goes", count(0, port("a", "vnet0", 100), port("b", "vnet1", 0)), count(2, port("b", "vnet1", 2)), []float64{1}},
		{"at the same time", count(0, port("a", "vnet0", 100)), count(0, port("a", "vnet0", 300)), []float64{0}},
		{"earlier", count(2, port("a", "vnet0", 100)), count(0, port("a", "vnet0", 300)), []float64{0}},
	} {
		var got []float64
		n := Between(tt.before, tt.after).Networks[0]
		sum := 0.0
		for _, p := range n.Ports {
			got = append(got, p.ReceiveBytes)
			sum += p.ReceiveBytes
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || n.ReceiveBytes != sum {
			t.Errorf("what %s: the network has %v (-want +got):\n%s", tt.name, n.ReceiveBytes, diff)
		}
	}
	if n := Between(count(0), count(2)).Networks[0]; n.DNS != 100 {
		t.Errorf("%v queries a second, want 100", n.DNS)
	}
}

// TestScaled holds how rates are written.
func TestScaled(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.01: "<0.1", 0.05: "0.1", 1: "1", 9.94: "9.9", 9.96: "10", 999.4: "999", 999.6: "1k", 1250: "1.2k", 1_500_000: "1.5M", 2e13: "20T", 1e16: "10000T",
	} {
		if got := scaled(x); got != want {
			t.Errorf("%v is written %s, want %s", x, got, want)
		}
	}
}

// TestRunEnds holds that Run asks again and again, and ends by a key or with its context.
func TestRunEnds(t *testing.T) {
	for _, end := range []string{"a key", "the context"} {
		screen := tcell.NewSimulationScreen("")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked := 0
		source := func(context.Context) (api.Counts, error) {
			if asked++; asked < 3 {
				return counted(uint64(asked)), errors.Join(nil, []error{nil, errors.New("away")}[asked%2])
			}
			if end == "a key" {
				screen.InjectKey(tcell.KeyCtrlC, 0, tcell.ModCtrl)
			} else {
				cancel()
			}
			return counted(uint64(asked)), nil
		}
		if err := Run(ctx, screen, source, counted(0), Options{Every: time.Millisecond, Zone: time.UTC}); err != nil || asked < 3 {
			t.Errorf("by %s: asked %d times: %v", end, asked, err)
		}
	}
}

// TestColours holds that colours go where they are wanted alone.
func TestColours(t *testing.T) {
	m, _ := newSimulation(t, 80, 24)
	red := m.style(table.Red)
	m.Plain = true
	if plain := m.style(table.Red); red == plain || plain != tcell.StyleDefault.Bold(true) {
		t.Errorf("red is %v, and without colours %v", red, plain)
	}
}
