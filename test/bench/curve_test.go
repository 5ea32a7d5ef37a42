package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCurves draws figures of two servers, of which one has none at the largest size.
func TestCurves(t *testing.T) {
	table := new(table)
	for _, row := range [][]string{
		{"server", "family", "present", "CPU/lease"},
		{"vnetd", "IPv4", "0", "55 us"},
		{"vnetd", "IPv4", "1,000", "54 us"},
		{"vnetd", "IPv4", "60,000", "56 us"},
		{"vnetd", "IPv6", "0", "70 us"},
		{"dnsmasq", "IPv4", "0", "80 us"},
		{"dnsmasq", "IPv4", "1,000", "140 us"},
		{"dnsmasq", "IPv4", "60,000", "-"},
		{"none", "IPv4", "-", "1 us"},
	} {
		table.add(row...)
	}
	c := curvesOf(table, "leases", "CPU of a lease, us", "present", "CPU/lease", func(row []string) bool { return row[1] == "IPv4" })
	want := []line{{"vnetd", []float64{55, 54, 56}}, {"dnsmasq", []float64{80, 140}}}
	if diff := cmp.Diff(want, c.lines, cmp.AllowUnexported(line{})); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	data, err := c.svg()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	paths := 0
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if token.Name.Local == "circle" || token.Name.Local == "path" {
				paths++
			}
		case xml.CharData:
			text.Write(token)
		}
	}
	for _, want := range []string{"CPU of a lease, us", "vnetd", "dnsmasq", "1,000", "60,000"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in the picture:\n%s", want, data)
		}
	}
	if paths < 5 {
		t.Errorf("the picture has %d lines and points", paths)
	}
}
