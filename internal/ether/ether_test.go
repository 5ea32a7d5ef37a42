package ether_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/ether"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"virbr0": true, "eno1.5": true, strings.Repeat("x", 15): true, "ä": true,
		"": false, ".": false, "..": false, strings.Repeat("x", 16): false,
		"a b": false, "a/b": false, "eno1:1": false, "vnet%d": false, "a\n": false,
	} {
		if got := ether.ValidName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestIsCard(t *testing.T) {
	for mac, want := range map[string]bool{
		"\x52\x54\x00\x00\x00\x01": true,
		"\x01\x00\x5e\x00\x00\x01": false, // multicast
		"\x00\x00\x00\x00\x00\x00": false,
		"\x52\x54\x00\x00\x00":     false,
		"":                         false,
	} {
		if got := ether.IsCard([]byte(mac)); got != want {
			t.Errorf("% x: %v, want %v", mac, got, want)
		}
	}
}

func TestNewFromRandom(t *testing.T) {
	random := bytes.Repeat([]byte{0xff}, 16)
	if mac, err := ether.NewMAC(bytes.NewReader(random)); err != nil || mac.String() != "52:54:00:ff:ff:ff" {
		t.Errorf("MAC address %v, %v", mac, err)
	}
	// Version 4, variant 10 (RFC 9562 section 4).
	const want = "ffffffff-ffff-4fff-bfff-ffffffffffff"
	u, err := ether.NewUUID(bytes.NewReader(random))
	if err != nil || u.String() != want {
		t.Errorf("UUID %v, %v, want %s", u, err, want)
	}
	if _, err := ether.NewUUID(bytes.NewReader(random[:3])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without randomness: %v", err)
	}
	for _, text := range []string{want, strings.ToUpper(want), " " + strings.ReplaceAll(want, "-", "") + "\n"} {
		if got, err := ether.ParseUUID(text); err != nil || got != u {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if u, err := ether.ParseUUID(want[1:]); err == nil {
		t.Errorf("35 characters are %v", u)
	}
}

// TestAutoAddr has the example of RFC 4291, appendix A.
func TestAutoAddr(t *testing.T) {
	mac := net.HardwareAddr{0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde}
	for _, c := range []struct {
		got  netip.Addr
		want string
	}{
		{ether.LinkLocal(mac), "fe80::3656:78ff:fe9a:bcde"},
		{ether.AutoAddr(mac, netip.MustParsePrefix("2001:db8:1:2:9::1/64")), "2001:db8:1:2:3656:78ff:fe9a:bcde"},
	} {
		if c.got != netip.MustParseAddr(c.want) {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
}
