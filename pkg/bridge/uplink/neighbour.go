package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Offsets in struct ndmsg.
const (
	ndmFamily  = 0
	ndmIndex   = 4
	ndmState   = 8
	ndmFlags   = 10
	answerPoll = 20 * time.Millisecond
)

// known are the states of a neighbour whose link-layer address is known.
const known = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT

// neighbours lists the neighbours of a link whose link-layer address is known.
func (k kernel) neighbours(index int) ([]message, error) {
	var all []message
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := k.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, head(family, unix.SizeofNdMsg))
		if err != nil {
			return nil, fmt.Errorf("listing neighbours: %w", err)
		}
		for _, data := range msgs {
			n, err := parseMessage(data, unix.SizeofNdMsg)
			if err != nil {
				return nil, err
			}
			of := int(binary.NativeEndian.Uint32(n.head[ndmIndex:]))
			if of == index && n.head[ndmFamily] == family && neighbourState(n)&known != 0 {
				all = append(all, n.only(unix.NDA_DST, unix.NDA_LLADDR))
			}
		}
	}
	return all, nil
}

func neighbourState(n message) uint16 { return binary.NativeEndian.Uint16(n.head[ndmState:]) }

// permanent are those that an admin set.
func permanent(all []message) []message {
	return slices.DeleteFunc(slices.Clone(all), func(n message) bool {
		return neighbourState(n)&unix.NUD_PERMANENT == 0
	})
}

// addNeighbour tells a link a neighbour of another. The kernel uses it at once and
// asks soon whether it is still so, unless an admin set it.
func addNeighbour(n message, index int) change {
	n = n.only(unix.NDA_DST, unix.NDA_LLADDR)
	binary.NativeEndian.PutUint32(n.head[ndmIndex:], uint32(index))
	if neighbourState(n)&unix.NUD_PERMANENT == 0 {
		binary.NativeEndian.PutUint16(n.head[ndmState:], unix.NUD_STALE)
	}
	n.head[ndmFlags] &= unix.NTF_ROUTER
	req := n.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	return change{req: req, what: "adding a neighbour"}
}

// forgetNeighbours are the changes that make a link ask anew for neighbours that no admin
// set, as the kernel has it do that lost its carrier for long enough: what is behind a
// card that was away may be another LAN.
func forgetNeighbours(all []message) []change {
	var changes []change
	for _, n := range all {
		if neighbourState(n)&unix.NUD_PERMANENT == 0 {
			changes = append(changes, change{n.request(unix.RTM_DELNEIGH, 0), "forgetting a neighbour", unix.ENOENT})
		}
	}
	return changes
}

// answers returns those of the gateways that answer ARP or neighbour discovery on
// the link within limit. It is the kernel that asks. One whose link-layer address
// an admin set is never asked, and not among them. The error is that of ctx, or of
// netlink.
func (k kernel) answers(ctx context.Context, index int, gateways []netip.Addr, limit time.Duration) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLimit)
	defer cancel()
	var answered []netip.Addr
	left := slices.Clone(gateways)
	for _, gw := range left {
		if err := k.askNeighbour(index, gw); err != nil {
			return nil, err
		}
	}
	for len(left) > 0 {
		var err error
		left = slices.DeleteFunc(left, func(gw netip.Addr) bool {
			state, asked := k.neighbourAnswer(index, gw)
			err = errors.Join(err, asked)
			if state == unix.NUD_REACHABLE {
				answered = append(answered, gw)
			}
			return state&(unix.NUD_REACHABLE|unix.NUD_PERMANENT) != 0
		})
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errLimit) {
				return nil, fmt.Errorf("waiting for gateways: %w", cause)
			}
			return answered, nil
		case <-time.After(answerPoll):
		}
	}
	return answered, nil
}

// errLimit is why answers doesn't wait any longer.
var errLimit = errors.New("time is up")

// neighbourAnswer is the state of a neighbour that was asked; one that didn't
// answer is asked again.
func (k kernel) neighbourAnswer(index int, ip netip.Addr) (state uint16, err error) {
	n, err := k.neighbour(index, ip)
	if err != nil {
		return 0, err
	}
	state = neighbourState(n)
	if state == unix.NUD_NONE || state&(unix.NUD_FAILED|unix.NUD_STALE) != 0 {
		return state, k.askNeighbour(index, ip)
	}
	return state, nil
}

// neighbour looks a neighbour up; an unknown one has state NUD_NONE.
func (k kernel) neighbour(index int, ip netip.Addr) (message, error) {
	ask := message{head: indexed(addrFamily(ip), unix.SizeofNdMsg, index), attrs: []attr{{unix.NDA_DST, ip.AsSlice()}}}
	data, err := k.Get(ask.request(unix.RTM_GETNEIGH, 0), unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return message{head: ask.head}, nil
	}
	if err != nil {
		return message{}, fmt.Errorf("looking up neighbour %v: %w", ip, err)
	}
	return parseMessage(data, unix.SizeofNdMsg)
}

// askNeighbour has the kernel ask for a neighbour: to the link-layer address it
// knows (NUD_PROBE), which traffic goes on using meanwhile, else to all (NTF_USE).
func (k kernel) askNeighbour(index int, ip netip.Addr) error {
	n, err := k.neighbour(index, ip)
	if err != nil || neighbourState(n)&unix.NUD_PERMANENT != 0 {
		return err
	}
	ask := message{head: indexed(addrFamily(ip), unix.SizeofNdMsg, index), attrs: []attr{{unix.NDA_DST, ip.AsSlice()}}}
	if lladdr := n.get(unix.NDA_LLADDR); lladdr != nil && neighbourState(n)&known != 0 {
		ask = ask.with(unix.NDA_LLADDR, lladdr)
		binary.NativeEndian.PutUint16(ask.head[ndmState:], unix.NUD_PROBE)
		ask.head[ndmFlags] = n.head[ndmFlags] & unix.NTF_ROUTER
	} else {
		ask.head[ndmFlags] = unix.NTF_USE
	}
	if err := k.do(ask.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)); err != nil {
		return fmt.Errorf("asking for neighbour %v: %w", ip, err)
	}
	return nil
}

func addrFamily(ip netip.Addr) uint8 {
	if ip.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
