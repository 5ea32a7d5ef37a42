package record

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var keys = map[string]Key{
	"/vnetd/1/lab/meta":                                              {Kind: KindMeta},
	"/vnetd/1/lab/n/apps":                                            {Kind: KindNetwork, Network: "apps"},
	"/vnetd/1/lab/vni/4711":                                          {Kind: KindVNI, ID: "4711"},
	"/vnetd/1/lab/h/h1/member":                                       {Kind: KindMember, Host: "h1"},
	"/vnetd/1/lab/h/h1/alive":                                        {Kind: KindAlive, Host: "h1"},
	"/vnetd/1/lab/h/h1/p/apps/52:54:00:12:34:56":                     {Kind: KindPort, Host: "h1", Network: "apps", ID: "52:54:00:12:34:56"},
	"/vnetd/1/lab/h/h1/l/apps/10.50.0.7":                             {Kind: KindLease, Host: "h1", Network: "apps", ID: "10.50.0.7"},
	"/vnetd/1/lab/h/h1/l/apps/fd00::7":                               {Kind: KindLease, Host: "h1", Network: "apps", ID: "fd00::7"},
	"/vnetd/1/lab/b/apps/010.050.000.064-26":                         {Kind: KindBlock, Network: "apps", ID: "010.050.000.064-26"},
	"/vnetd/1/lab/b/apps/fd00:0000:0000:0000:0000:0000:0000:0000-80": {Kind: KindBlock, Network: "apps", ID: "fd00:0000:0000:0000:0000:0000:0000:0000-80"},
	"/vnetd/1/lab/d/apps/web":                                        {Kind: KindName, Network: "apps", ID: "web"},
	"/vnetd/1/lab/r/apps/10.50.0.7":                                  {Kind: KindRight, Network: "apps", ID: "10.50.0.7"},
	"/vnetd/1/lab/want/apps/h1":                                      {Kind: KindWant, Network: "apps", Host: "h1"},
}

func TestKeys(t *testing.T) {
	for path, key := range keys {
		if got := key.Path("lab"); got != path {
			t.Errorf("path of %+v is %q, want %q", key, got, path)
		}
		if got, err := Parse("lab", path); err != nil || got != key {
			t.Errorf("%q is %+v, %v; want %+v", path, got, err, key)
		}
	}
}

func TestKeysThatAreNone(t *testing.T) {
	for _, path := range []string{
		"", "/", "/vnetd/1/other/meta", "/vnetd/1/lab/", "/vnetd/1/lab/meta/", "/vnetd/1/lab/member", "/vnetd/1/lab/h/h1/meta", "/vnetd/1/lab/h//member",
		"/vnetd/1/lab/h/-h/member", "/vnetd/1/lab/h/" + strings.Repeat("h", 65) + "/member", "/vnetd/1/lab/h/h1/p/apps/52:54:00:12:34:5G",
		"/vnetd/1/lab/h/h1/p/apps/52:54:00:AB:34:56", "/vnetd/1/lab/h/h1/l/apps/10.50.0.07", "/vnetd/1/lab/h/h1/l/apps/fe80::1%eth0",
		"/vnetd/1/lab/h/h1/l/apps/fd00::0", "/vnetd/1/lab/b/apps/10.50.0.64-26", "/vnetd/1/lab/b/apps/010.050.000.065-26", "/vnetd/1/lab/b/apps/010.050.000.064-33",
		"/vnetd/1/lab/r/apps/10.50.0.07", "/vnetd/1/lab/vni/007", "/vnetd/1/lab/vni/16777216", "/vnetd/1/lab/d/apps/", "/vnetd/1/lab/d/a\x00b/web", "/vnetd/1/lab/d/apps/\xff", "/vnetd/1/lab/h/h1/x/apps/1",
		"/vnetd/1/lab/n/" + strings.Repeat("n", 256), "/vnetd/1/lab/want/apps/-",
	} {
		if got, err := Parse("lab", path); err == nil {
			t.Errorf("%q passes as %+v", path, got)
		}
	}
}

// FuzzParse holds that no key is read that would be written otherwise.
func FuzzParse(f *testing.F) {
	for path := range keys {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if k, err := Parse("lab", path); err == nil && k.Path("lab") != path {
			t.Errorf("%q is %+v, which is written %q", path, k, k.Path("lab"))
		}
	})
}

func values() []Value {
	return []Value{
		&Meta{UUID: "u", Schema: 1, Epoch: 2, Await: []string{"h1"}}, &Network{XML: "<network/>", Generation: 3}, &VNI{Network: "u"},
		&Member{Underlay: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Version: "1", Boot: "b"}, &Alive{Boot: "b"},
		&Port{UUID: "u", Owner: "o", Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("fd00::1")}, Seq: 4, State: Here},
		&Lease{MAC: MAC{0x52, 0x54}, Client: "01ff", Name: "n", End: 5, Seq: 6}, &Block{Host: "h1", Without: []netip.Addr{netip.MustParseAddr("10.50.0.7")}},
		&Name{Host: "h1", MAC: MAC{2}}, &Right{Host: "h1"}, &Want{Addresses: 7},
	}
}

// fresh is an empty value of the same type.
func fresh(v Value) Value {
	for i, w := range values() {
		if fmt.Sprintf("%T", v) == fmt.Sprintf("%T", w) {
			return []Value{&Meta{}, &Network{}, &VNI{}, &Member{}, &Alive{}, &Port{}, &Lease{}, &Block{}, &Name{}, &Right{}, &Want{}}[i]
		}
	}
	panic("no such value")
}

func TestValuesKeepWhatIsNotKnown(t *testing.T) {
	for _, v := range values() {
		text := Encode(v)
		if !bytes.Contains(text, []byte(`"v":1`)) {
			t.Errorf("%T is written %s, without its version", v, text)
		}
		text = append(text[:len(text)-1], []byte(`,"later":{"a":[1,2]},"zulu":"x"}`)...)
		back := fresh(v)
		if err := Decode(text, back); err != nil {
			t.Errorf("%T: %v", v, err)
			continue
		}
		if got := Encode(back); !bytes.Equal(got, text) {
			t.Errorf("%T is written again\n%s, was\n%s", v, got, text)
		}
	}
}

func TestValuesThatAreNone(t *testing.T) {
	for text, v := range map[string]Value{
		``: &Block{}, `{}`: &Block{}, `{"v":0,"host":"h"}`: &Block{}, `{"v":1,"host":1}`: &Block{}, `{"v":1,"host":"h"} x`: &Block{},
		`{"v":1,"underlay":"224.0.0.1"}`: &Member{}, `{"v":1}`: &Member{}, `{"v":1,"state":"away"}`: &Port{}, `{"v":1,"mac":"52:54"}`: &Lease{},
		`{"v":1,"host":"` + strings.Repeat("h", MaxValue) + `"}`: &Block{}, `{"v":1,"xml":"` + strings.Repeat("h", MaxDocument) + `"}`: &Network{},
	} {
		if err := Decode([]byte(text), v); err == nil {
			t.Errorf("%.60s passes as %T %+v", text, v, v)
		}
	}
}

// FuzzDecode holds that what is read can be written, and is read again as the same.
func FuzzDecode(f *testing.F) {
	for i, v := range values() {
		f.Add(i, Encode(v))
	}
	f.Add(6, []byte(`{"v":2,"mac":"52:54:00:00:00:01","new":null,"MAC":"52:54:00:00:00:02"}`))
	f.Fuzz(func(t *testing.T, which int, text []byte) {
		all := values()
		v := fresh(all[uint(which)%uint(len(all))])
		if Decode(text, v) != nil {
			return
		}
		first := Encode(v)
		again := fresh(v)
		if err := Decode(first, again); err != nil {
			t.Fatalf("%s, written as %s, is not read: %v", text, first, err)
		}
		if second := Encode(again); !bytes.Equal(first, second) {
			t.Errorf("%s is written\n%s and then\n%s", text, first, second)
		}
	})
}

func TestBlocks(t *testing.T) {
	p := netip.MustParsePrefix
	for _, block := range []netip.Prefix{p("10.50.0.64/26"), p("0.0.0.0/0"), p("255.255.255.255/32"), p("fd00::/64"), p("fd00:0:0:0:abcd::/80"), p("::/0")} {
		if got, err := ParseBlockID(BlockID(block)); err != nil || got != block {
			t.Errorf("%v is written %s, read %v, %v", block, BlockID(block), got, err)
		}
	}
	if got, want := Last(p("10.50.0.64/26")), netip.MustParseAddr("10.50.0.127"); got != want {
		t.Errorf("last address %v, want %v", got, want)
	}
	if got, want := Last(p("fd00::/63")), netip.MustParseAddr("fd00:0:0:1:ffff:ffff:ffff:ffff"); got != want {
		t.Errorf("last address %v, want %v", got, want)
	}
	if got, want := Around(p("10.0.0.0/26"), p("10.0.0.32/28")), []netip.Prefix{p("10.0.0.0/27"), p("10.0.0.48/28")}; !slices.Equal(got, want) {
		t.Errorf("around is %v, want %v", got, want)
	}
	if got, want := Add(netip.MustParseAddr("fd00::"), 3, 64), netip.MustParseAddr("fd00:0:0:3::"); got != want {
		t.Errorf("sum %v, want %v", got, want)
	}
	if got := Between(netip.MustParseAddr("fd00::"), netip.MustParseAddr("fd00:0:0:3::ffff"), 64); got != 3 {
		t.Errorf("3 blocks between are %d", got)
	}
	if got := Between(netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.0.1.255"), 6); got != 7 {
		t.Errorf("7 blocks between are %d", got)
	}
}

// TestWithin holds that the IDs between two bounds are those of the blocks that begin in
// a block, and no other.
func TestWithin(t *testing.T) {
	for _, block := range []netip.Prefix{netip.MustParsePrefix("10.0.0.64/26"), netip.MustParsePrefix("10.0.0.192/26"), netip.MustParsePrefix("0.0.0.0/26")} {
		from, to := Within(block)
		for bits := 24; bits <= 32; bits++ {
			for n := range uint64(4) << (bits - 22) {
				start, _ := block.Addr().Prefix(22)
				other := netip.PrefixFrom(Add(start.Addr(), n, 32-bits), bits)
				id := BlockID(other)
				if in := from <= id && id < to; in != block.Contains(other.Addr()) {
					t.Errorf("%v of %v: in %v", other, block, in)
				}
			}
		}
	}
}

// TestHalves holds that the halves of a block, and what is around a part, cover it once.
func TestHalves(t *testing.T) {
	block := netip.MustParsePrefix("10.0.0.0/26")
	for n := range uint64(16) {
		hole := netip.PrefixFrom(Add(block.Addr(), n, 2), 30)
		parts := append(Around(block, hole), hole)
		size := 0
		for i, a := range parts {
			size += 1 << (32 - a.Bits())
			for _, b := range parts[:i] {
				if a.Overlaps(b) {
					t.Errorf("%v and %v overlap", a, b)
				}
			}
		}
		if size != 64 {
			t.Errorf("without %v there are %d addresses", hole, size-4)
		}
	}
}
