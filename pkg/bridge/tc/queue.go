package tc

import (
	"encoding/binary"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// discipline is a kind of queue for what waits in a class.
type discipline struct {
	kind    string
	options func(rate uint64) []byte // for a class of that many bytes a second
}

// disciplines are those that will do, the best first: fair to each connection and short,
// then fair, then in order. Kernels have the last one wherever they have HTB.
func disciplines() []discipline {
	return []discipline{{"fq_codel", codelOptions}, {"sfq", sfqOptions}, {"bfifo", fifoOptions}}
}

// newQueue gives a class a queue.
func newQueue(index int, minor uint16, c class, d discipline) []byte {
	return message(unix.RTM_NEWQDISC, create|unix.NLM_F_REPLACE, object{index, queueHandle(minor), classid(minor), 0}, d.kind, d.options(c.rate))
}

// codelOptions has CoDel wait for as long as a slow class takes for some frames, which
// would otherwise be dropped although nothing stands in the queue for long.
func codelOptions(rate uint64) []byte {
	const least, frames = 5 * time.Millisecond, 4
	target := max(least, time.Duration(frames*frame*float64(time.Second)/float64(rate)))
	interval := max(100*time.Millisecond, 4*target)
	options := netlink.AppendAttribute(nil, nl.TCA_FQ_CODEL_TARGET, netlink.Uint32(micros(target)))
	return netlink.AppendAttribute(options, nl.TCA_FQ_CODEL_INTERVAL, netlink.Uint32(micros(interval)))
}

// micros is a time in the microseconds of fq_codel, of which it takes half of what a
// number can say.
func micros(d time.Duration) uint32 { return uint32(min(d.Microseconds(), 1<<31-1)) }

// sfqOptions are a struct tc_sfq_qopt: connections are told apart anew every ten seconds.
func sfqOptions(uint64) []byte {
	const perturb = 10
	b := make([]byte, 20)
	binary.NativeEndian.PutUint32(b[4:], perturb)
	return b
}

// What a queue in order can hold: what the class sends in that time, but the largest
// packet that the kernel makes for TCP at least.
const (
	fifoTime  = 100 * time.Millisecond
	fifoLeast = 72 << 10
	fifoMost  = 8 << 20
)

// fifoOptions are a struct tc_fifo_qopt.
func fifoOptions(rate uint64) []byte {
	size := float64(rate) * fifoTime.Seconds()
	return netlink.Uint32(uint32(min(max(size, fifoLeast), fifoMost)))
}
