package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// stoppingSizes are how many networks are stopped, and stoppingRow is one row of the table.
var stoppingSizes = []int{1, 10, 100, 500}

const stoppingRow = "  %-9s%11s%11s%11s%15s%16s\n"

// stopping times the end of networks beside what the kernel takes to delete as many
// bridges, which nobody can undercut.
func stopping(b *bench) {
	b.printf(stoppingRow, "networks", "in turn", "at once", "--cleanup", "ip -batch del", "ip del by group")
	for _, count := range stoppingSizes {
		row := []any{strconv.Itoa(count)}
		for _, stop := range []func(*bench, *vnetdHost, int){stopInTurn, stopAtOnce, stopByCleanup} {
			row = append(row, millis(timeStopping(b, count, stop)))
		}
		inTurn, grouped := kernelFloor(b, count)
		b.printf(stoppingRow, append(row, millis(inTurn), millis(grouped))...)
	}
	b.printf("  in turn, at once: Stop over %d connections to the bus; --cleanup: the program, after SIGTERM\n", manyPorts/100)
	b.printf("  ip: bridges that are up, with an address, and nothing else\n")
}

// timeStopping starts so many networks and returns how long stop takes with them.
func timeStopping(b *bench, count int, stop func(b *bench, h *vnetdHost, count int)) (took time.Duration) {
	m := manager{name: "vnetd", open: openVnetd}
	onHost(b, m, count, false, func(b *bench, opened host) {
		h := opened.(*vnetdHost)
		eachOf(b, count, h.startOne)
		begin := time.Now()
		stop(b, h, count)
		took = time.Since(begin)
		if left, _ := filepath.Glob("/sys/class/net/virbr*"); len(left) > 0 {
			b.Fatalf("%d bridges are left", len(left))
		}
	})
	return took
}

func (h *vnetdHost) startOne(n int) error { return h.network(n).Start(h.b.Context()) }

func (h *vnetdHost) stopOne(n int) error { return h.network(n).Stop(h.b.Context()) }

// eachOf calls do for each number below count, all together.
func eachOf(b *bench, count int, do func(n int) error) {
	errs := make([]error, count)
	atOnce(count, func(n int) { errs[n] = do(n) })
	if err := errors.Join(errs...); err != nil {
		b.Fatalf("%w", err)
	}
}

func stopInTurn(b *bench, h *vnetdHost, count int) {
	for n := range count {
		if err := h.stopOne(n); err != nil {
			b.Fatalf("stopping a network: %w", err)
		}
	}
}

func stopAtOnce(b *bench, h *vnetdHost, count int) { eachOf(b, count, h.stopOne) }

func stopByCleanup(b *bench, h *vnetdHost, _ int) {
	h.halt()
	if err := b.lab.Cleanup(b.Context()); err != nil {
		b.Fatalf("%w", err)
	}
}

// kernelFloor makes so many bridges, twice, and times ip(8) as it deletes them: each by a
// request of its own, and all by one.
func kernelFloor(b *bench, count int) (inTurn, grouped time.Duration) {
	const group = 7
	var create, remove strings.Builder
	for n := range count {
		name := fmt.Sprintf("virbr%d", n)
		_, _ = fmt.Fprintf(&create, "link add %s type bridge\naddr add 10.%d.%d.1/24 dev %s\nlink set %s group %d up\n", name, 100+n/256, n%256, name, name, group)
		_, _ = fmt.Fprintf(&remove, "link del %s\n", name)
	}
	inTurn = timeBatch(b, create.String(), remove.String())
	grouped = timeBatch(b, create.String(), fmt.Sprintf("link del group %d\n", group))
	return inTurn, grouped
}

// timeBatch has ip(8) carry out the commands of before, and times it with the others.
func timeBatch(b *bench, before, commands string) time.Duration {
	file := filepath.Join(b.dir, "batch")
	b.write(file, before)
	nstest.Exec(b, "ip", "-batch", file)
	b.write(file, commands)
	begin := time.Now()
	nstest.Exec(b, "ip", "-batch", file)
	return time.Since(begin)
}
