package tc

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// class is one class of HTB as the kernel has it.
type class struct {
	parent        uint16 // its minor number, 0 for the root
	rate, ceil    uint64 // bytes a second
	buffer, cbuff uint32 // what can be saved of each, in ticks of its own rate
	queue         bool   // it has a queue of ours; classes above others have none
}

// tree is the classes on one device by their minor numbers, and which addresses lead to
// which of them. The empty tree is none at all.
type tree struct {
	classes map[uint16]class
	match   map[uint16]string // the six bytes of a guest's address
}

// The classes of a device: the root of what is shared, and what is not otherwise told.
const (
	rootClass = 1
	restClass = 2
)

// plan is what cfg asks for of a device, and of the IFB device of what comes in from it.
func plan(cfg Config) (egress, ingress tree) {
	switch {
	case cfg.Egress == nil:
	case cfg.Shared:
		egress = shared(*cfg.Egress, cfg.Floors)
	default:
		egress = alone(*cfg.Egress)
	}
	if cfg.Ingress != nil {
		ingress = alone(*cfg.Ingress)
	}
	return egress, ingress
}

// alone is the tree of one class.
func alone(r Rate) tree {
	return tree{classes: map[uint16]class{rootClass: r.class(0, true)}}
}

// leastRate is that of the class for what has no floor where floors leave it nothing: it
// lives on what they don't use.
const leastRate = 1000

// shared is the tree of a rate that floors are parts of: each can borrow what others
// don't use, up to the peak. The rest is what floors leave of the average.
func shared(r Rate, floors []Floor) tree {
	t := tree{classes: map[uint16]class{rootClass: r.class(0, false)}}
	rest := Rate{Average: r.Average, Peak: max(r.Peak, r.Average), Burst: r.Burst}
	for _, f := range floors {
		rest.Average -= min(f.Rate, rest.Average)
		t.classes[f.Class] = Rate{Average: f.Rate, Peak: max(r.Peak, r.Average)}.class(rootClass, true)
		if t.match == nil {
			t.match = make(map[uint16]string)
		}
		t.match[f.Class] = string(f.MAC)
	}
	rest.Average = max(rest.Average, min(leastRate, r.Average))
	t.classes[restClass] = rest.class(rootClass, true)
	return t
}

// What can be saved at least: what the kernel's timers may be late, and a frame.
const (
	lateness = 50 * time.Millisecond
	frame    = 1600
)

// class is the class of HTB that keeps to r.
func (r Rate) class(parent uint16, queue bool) class {
	c := class{parent: parent, rate: r.Average, ceil: max(r.Peak, r.Average), queue: queue}
	c.buffer = ticks(max(r.Burst, least(c.rate)), c.rate)
	c.cbuff = ticks(least(c.ceil), c.ceil)
	return c
}

// least is how many bytes must be saved for a rate to be reached.
func least(rate uint64) uint64 {
	return max(frame, uint64(float64(rate)*lateness.Seconds()))
}

// tick is the kernel's unit of time in what it is told of rates (PSCHED_SHIFT of
// net/pkt_sched.h).
const tick = 64 * time.Nanosecond

// ticks is how long bytes take at a rate, as long as the kernel can be told at most.
func ticks(bytes, rate uint64) uint32 {
	t := float64(bytes) / float64(rate) / tick.Seconds()
	return uint32(min(math.Ceil(t), math.MaxUint32))
}

// quantum is how many bytes a class may borrow at a time: more for a greater rate.
func (c class) quantum() uint32 {
	const least, most = frame, 200_000
	return uint32(min(max(c.rate/100, least), most))
}

// none reports whether t is no tree at all.
func (t tree) none() bool { return len(t.classes) == 0 }

// equal reports whether two trees are the same.
func (t tree) equal(o tree) bool {
	return maps.Equal(t.classes, o.classes) && maps.Equal(t.match, o.match)
}

// String is t in words; empty for none.
func (t tree) String() string {
	root, ok := t.classes[rootClass]
	if !ok {
		if t.none() {
			return ""
		}
		return "classes without a root"
	}
	b := bytes.NewBufferString(root.String())
	var floors []string
	for _, minor := range slices.Sorted(maps.Keys(t.classes)) {
		c := t.classes[minor]
		switch {
		case minor == restClass:
			fmt.Fprintf(b, ", rest %v", c)
		case minor >= MinFloorClass:
			floors = append(floors, fmt.Sprintf("%d: %s", minor, bits(c.rate)))
		}
		if minor >= MinFloorClass && t.match[minor] == "" {
			floors = append(floors, fmt.Sprintf("%d: for nobody", minor))
		}
		if !c.queue && (minor != rootClass || len(t.classes) == 1) {
			fmt.Fprintf(b, ", no queue in class %d", minor)
		}
	}
	if len(floors) > 0 {
		fmt.Fprintf(b, ", floors %s", strings.Join(floors, ", "))
	}
	return b.String()
}

func (c class) String() string {
	text := bits(c.rate)
	if c.ceil != c.rate {
		text += " peak " + bits(c.ceil)
	}
	if saved := time.Duration(c.buffer) * tick; saved > 2*lateness {
		text += fmt.Sprintf(" burst %dB", uint64(saved.Seconds()*float64(c.rate)))
	}
	return text
}

// bits is a rate of bytes a second as tc(8) says it.
func bits(rate uint64) string {
	b := rate * 8
	switch {
	case b%1e9 == 0:
		return fmt.Sprintf("%dGbit", b/1e9)
	case b%1e6 == 0:
		return fmt.Sprintf("%dMbit", b/1e6)
	case b%1e3 == 0:
		return fmt.Sprintf("%dKbit", b/1e3)
	}
	return fmt.Sprintf("%dbit", b)
}
