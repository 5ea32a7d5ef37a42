package nft

import (
	"encoding/binary"
	"maps"
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
}

func newTally() tally {
	return tally{table: make(map[int]firewall.Stopped), former: make(map[int]firewall.Stopped)}
}

// update reads the counters, unless they are fresh. What can't be read stays.
func (t *tally) update(k *kernel) {
	if time.Since(t.read) < freshFor {
		return
	}
	table := make(map[int]firewall.Stopped)
	for _, kind := range firewall.GuardKinds() {
		set := k.sets[stoppedSet(kind)]
		if set == nil {
			return
		}
		elements, err := k.conn.GetSetElements(set)
		if err != nil {
			return
		}
		for _, e := range elements {
			if len(e.Key) == 4 && e.Counter != nil {
				add(table, indexOf(e.Key), firewall.Stopped{kind: e.Counter.Packets})
			}
		}
	}
	t.table, t.read = table, time.Now()
}

// keep sets aside what was counted, before the table is made anew.
func (t *tally) keep(k *kernel) {
	t.read = time.Time{}
	t.update(k)
	for index, stopped := range t.table {
		add(t.former, index, stopped)
	}
	t.table = make(map[int]firewall.Stopped)
}

// of is what was counted of one port.
func (t *tally) of(index int) firewall.Stopped {
	sum := map[int]firewall.Stopped{index: {}}
	add(sum, index, t.table[index])
	add(sum, index, t.former[index])
	return sum[index]
}

// forget forgets a port, and returns the kinds that the table counts of it.
func (t *tally) forget(k *kernel, index int) (counted []firewall.GuardKind) {
	t.read = time.Time{}
	t.update(k)
	for kind := range maps.Keys(t.table[index]) {
		counted = append(counted, kind)
	}
	delete(t.table, index)
	delete(t.former, index)
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
