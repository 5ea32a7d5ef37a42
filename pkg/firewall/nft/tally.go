package nft

import (
	"encoding/binary"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// freshFor is how old counters may be that are shown.
const freshFor = time.Second

// tally is what was stopped of each port, by ifindex.
type tally struct {
	read   time.Time                // when the table was
	table  map[int]firewall.Stopped // as the table has it
	former map[int]firewall.Stopped // before the table was made anew
	gone   map[int]bool             // ports that are no more, of which the table may count
}

func newTally() tally {
	return tally{table: make(map[int]firewall.Stopped), former: make(map[int]firewall.Stopped), gone: make(map[int]bool)}
}

// update reads the counters, unless they are fresh. What can't be read stays.
func (t *tally) update(of *place) {
	if time.Since(t.read) < freshFor {
		return
	}
	table := make(map[int]firewall.Stopped)
	for _, kind := range firewall.GuardKinds() {
		elements, err := of.kernel.socket.Elements(of.Family, of.Table, stoppedSet(kind))
		if err != nil {
			return
		}
		for _, e := range elements {
			if len(e.Key) == 4 && counts(e.Expression) {
				add(table, indexOf(e.Key), firewall.Stopped{kind: countIn(e.Expression).Packets})
			}
		}
	}
	t.table, t.read = table, time.Now()
}

// refresh reads the counters.
func (t *tally) refresh(of *place) {
	t.read = time.Time{}
	t.update(of)
}

// keep sets aside what was counted, once the table is made anew.
func (t *tally) keep() {
	for index, stopped := range t.table {
		if !t.gone[index] {
			add(t.former, index, stopped)
		}
	}
	t.table = make(map[int]firewall.Stopped)
	clear(t.gone)
}

// of is what was counted of one port.
func (t *tally) of(index int) firewall.Stopped {
	sum := map[int]firewall.Stopped{index: {}}
	add(sum, index, t.table[index])
	add(sum, index, t.former[index])
	return sum[index]
}

// forget forgets a port. The table counts of it until sweep: to read what it counts
// takes longer than all else that a port's end needs.
func (t *tally) forget(index int) {
	delete(t.former, index)
	t.gone[index] = true
}

// sweep returns what the table counts of ports that are no more, and forgets it.
func (t *tally) sweep(of *place) (counted []element) {
	if len(t.gone) == 0 {
		return nil
	}
	t.refresh(of)
	for index := range t.gone {
		for kind := range t.table[index] {
			counted = append(counted, element{set: stoppedSet(kind), from: string(ifindex(index))})
		}
		delete(t.table, index)
	}
	clear(t.gone)
	return counted
}

// add adds counters to those of a port.
func add(to map[int]firewall.Stopped, index int, stopped firewall.Stopped) {
	if to[index] == nil {
		to[index] = firewall.Stopped{}
	}
	for kind, n := range stopped {
		to[index][kind] += n
	}
}

// indexOf is the ifindex in a key.
func indexOf(key []byte) int { return int(binary.NativeEndian.Uint32(key)) }
