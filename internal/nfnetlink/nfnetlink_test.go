package nfnetlink_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
)

func TestGenerationIsRead(t *testing.T) {
	attributes := netlink.AppendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 70000))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_PID, binary.BigEndian.AppendUint32(nil, 12))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("iptables\x00"))
	for m := range netlink.Messages(nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_NEWGEN), 0, 0, 0, attributes)) {
		got, ok := nfnetlink.ReadGeneration(m)
		if want := (nfnetlink.Generation{ID: 70000, Process: "iptables"}); !ok || got != want {
			t.Errorf("generation %+v, %v, want %+v", got, ok, want)
		}
		return
	}
	t.Error("no message")
}

// Tables are listed of all families, a thousand of them, while another program commits all the time.
func TestTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		var want []nfnetlink.Place
		var messages [][]byte
		for _, family := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_NETDEV} {
			for n := range 500 {
				p := nfnetlink.Place{Family: family, Table: fmt.Sprintf("t%d", n)}
				want, messages = append(want, p), append(messages, p.NewTable(0, ""))
			}
		}
		if err := s.Commit(messages, 0, nil); err != nil {
			t.Fatal(err)
		}
		other, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		ctx, end := context.WithCancel(t.Context())
		var committing sync.WaitGroup
		defer committing.Wait()
		defer end()
		committing.Go(func() {
			p := nfnetlink.Place{Family: unix.NFPROTO_INET, Table: "other"}
			for ctx.Err() == nil {
				for _, message := range [][]byte{p.NewTable(0, ""), p.DeleteTable()} {
					if err := other.Commit([][]byte{message}, 0, nil); err != nil {
						t.Errorf("committing: %v", err)
						return
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
		before, err := s.Current()
		if err != nil {
			t.Fatal(err)
		}
		for now := before; now < before+100; {
			got, err := s.Tables()
			if err != nil {
				t.Fatal(err)
			}
			got = slices.DeleteFunc(got, func(p nfnetlink.Place) bool { return p.Family == unix.NFPROTO_INET })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("tables (-want +got):\n%s", diff)
			}
			if now, err = s.Current(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A transaction on rules that have changed since is refused at once.
func TestCommitAtAnotherGeneration(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		before, err := s.Current()
		if err != nil {
			t.Fatal(err)
		}
		table := func() [][]byte {
			name := netlink.AppendAttribute(nil, unix.NFTA_TABLE_NAME, []byte("test\x00"))
			return [][]byte{nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_NEWTABLE), unix.NLM_F_CREATE, unix.NFPROTO_IPV4, 0, name)}
		}
		none := func(int, netlink.Message) {}
		if err := s.Commit(table(), before+1, none); !errors.Is(err, unix.ERESTART) {
			t.Errorf("commit at another generation says %v, want %v", err, unix.ERESTART)
		}
		if err := s.Commit(table(), before, none); err != nil {
			t.Error(err)
		}
		if now, err := s.Current(); err != nil || now != before+1 {
			t.Errorf("generation %d, %v, want %d", now, err, before+1)
		}
	})
}

// FuzzRead reads bodies of any form: what the kernel says is trusted, a reader that runs
// off its end would still take the daemon down.
func FuzzRead(f *testing.F) {
	place := nfnetlink.Place{Family: unix.NFPROTO_IPV4, Table: "test"}
	element := nfnetlink.Element{Key: []byte{10, 0, 0, 0}, KeyEnd: []byte{10, 0, 0, 255}, Verdict: []byte{0, 0, 0, 1}, Chain: []byte("c\x00"), Comment: "net"}
	for _, m := range append(place.NewElements("set", []nfnetlink.Element{element, {Key: []byte{1}, Ends: true}}), place.NewRule("chain", nfnetlink.Expression("counter", nil)), place.NewTable(0, "comment")) {
		f.Add(m[unix.NLMSG_HDRLEN:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		nfnetlink.ReadElement(body)
		nfnetlink.ReadRule(body)
		nfnetlink.ReadGeneration(netlink.Message{Type: nfnetlink.Type(unix.NFT_MSG_NEWGEN), Body: body})
		nfnetlink.Table(netlink.Message{Type: nfnetlink.Type(unix.NFT_MSG_NEWTABLE), Body: body})
	})
}

// What is said of sets, chains, rules and elements is what the kernel tells of them.
func TestObjectsAreTold(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		p := nfnetlink.Place{Family: unix.NFPROTO_IPV4, Table: "test"}
		set := nfnetlink.Set{Name: "set", Key: nfnetlink.DataType{Number: 7<<6 | 7, Size: 8}, Fields: []uint32{4, 4}, Intervals: true, Map: true, Verdicts: true}
		want := []nfnetlink.Element{
			{Key: []byte("\x0a\x00\x00\x00\xc0\x00\x02\x01"), KeyEnd: []byte("\x0a\x00\x00\xff\xc0\x00\x02\x01"), Verdict: []byte{0, 0, 0, 1}},
			{Key: []byte("\x0b\x00\x00\x00\xc0\x00\x02\x01"), KeyEnd: []byte("\x0b\x00\x00\xff\xc0\x00\x02\x01"), Verdict: []byte{0xff, 0xff, 0xff, 0xfc}, Chain: []byte("chain\x00")},
		}
		messages := [][]byte{
			p.NewTable(0, "a comment"), p.NewSet(set, 1), p.NewChain("chain", nil),
			p.NewChain("base", &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Type: "filter"}), p.NewRule("base", nfnetlink.Expression("counter", nil)),
		}
		messages = append(messages, p.NewElements("set", want)...)
		if err := s.Commit(messages, 0, func(int, netlink.Message) {}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Elements(p.Family, p.Table, "set")
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("elements: %v (-want +got)\n%s", err, diff)
		}
		chains, err := s.Chains(p)
		if diff := cmp.Diff(map[string]nfnetlink.Chain{"chain": {}, "base": {Base: true, Policy: 1}}, chains); diff != "" || err != nil {
			t.Errorf("chains: %v (-want +got)\n%s", err, diff)
		}
		if rules, err := s.Rules(p.Family, p.Table, ""); len(rules) != 1 || rules[0].Chain != "base" || err != nil {
			t.Errorf("rules: %+v, %v", rules, err)
		}
		if listing := nstest.Exec(t, "nft", "list", "ruleset"); !strings.Contains(listing, "comment \"a comment\"") || !strings.Contains(listing, "10.0.0.0/24 . 192.0.2.1 : accept") {
			t.Errorf("nft lists\n%s", listing)
		}
		if err := s.Commit(append(p.DeleteElements("set", want[:1]), p.DeleteChain("base")), 0, func(int, netlink.Message) {}); err != nil {
			t.Fatal(err)
		}
		if got, err = s.Elements(p.Family, p.Table, "set"); len(got) != 1 || err != nil {
			t.Errorf("after one is gone elements are %+v, %v", got, err)
		}
	})
}

// A listing that others' transactions interrupt is made again: with a table that fills many
// messages, and somebody who commits all the time, one of many fails otherwise.
func TestListingsWhileOthersCommit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, other := open(t), open(t)
		p := nfnetlink.Place{Family: unix.NFPROTO_IPV4, Table: "test"}
		messages := [][]byte{p.NewTable(0, ""), p.NewChain("chain", nil)}
		const rules = 400
		for range rules {
			messages = append(messages, p.NewRule("chain", nfnetlink.Expression("counter", nil)))
		}
		none := func(int, netlink.Message) {}
		if err := s.Commit(messages, 0, none); err != nil {
			t.Fatal(err)
		}
		var took atomic.Int64 // by the last listing
		done, ended := make(chan struct{}), make(chan error)
		go func() {
			q := nfnetlink.Place{Family: unix.NFPROTO_IPV4, Table: "other"}
			for {
				select {
				case <-done:
					ended <- nil
					return
				default:
				}
				if err := other.Commit([][]byte{q.NewTable(0, ""), q.DeleteTable()}, 0, none); err != nil {
					ended <- err
					return
				}
				// A listing takes much less, or else is never whole.
				time.Sleep(max(5*time.Millisecond, 3*time.Duration(took.Load())))
			}
		}()
		for n := range 1000 {
			began := time.Now()
			got, err := s.Rules(p.Family, p.Table, "")
			took.Store(int64(time.Since(began)))
			if len(got) != rules || err != nil {
				t.Fatalf("listing %d: %d rules, %v", n, len(got), err)
			}
		}
		close(done)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T) *nfnetlink.Socket {
	t.Helper()
	s, err := nfnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// However much of a transaction is refused, its first fault is told, and the next transaction is
// carried out at once.
func TestManyRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		place := nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: "t"}
		for _, count := range []int{20_000, 200_000} {
			messages := [][]byte{place.NewTable(0, "")}
			for range count {
				messages = append(messages, place.NewRule("missing", nfnetlink.Expression("counter", nil)))
			}
			if err := s.Commit(messages, 0, nil); count == 20_000 && !errors.Is(err, unix.ENOENT) || err == nil {
				t.Errorf("%d rules of a chain that is not there: %v, want %v", count, err, unix.ENOENT)
			}
			if err := s.Commit([][]byte{place.NewTable(0, "")}, 0, nil); err != nil {
				t.Errorf("after %d rules were refused: %v", count, err)
			}
		}
	})
}
