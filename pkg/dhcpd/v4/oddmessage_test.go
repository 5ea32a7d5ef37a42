package v4_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// oddOptions are options as bytes, behind which nothing is added: no END and no padding.
func oddOptions(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// one is an option.
func one(code dhcpv4.OptionCode, value ...byte) []byte {
	return append([]byte{code.Code(), byte(len(value))}, value...)
}

// Messages that small, old or careless clients send are understood as far as they
// can be, as dnsmasq, Kea and ISC dhcpd do.
func TestOddMessages(t *testing.T) {
	var (
		discover = one(dhcpv4.OptionDHCPMessageType, 1)
		wanted   = one(dhcpv4.OptionRequestedIPAddress, 192, 0, 2, 105)
		name     = one(dhcpv4.OptionHostName, 'o', 'd', 'd')
		id       = one(dhcpv4.OptionClientIdentifier, 0, 'i', 'd')
		end      = []byte{255}
	)
	for _, c := range []struct {
		name        string
		options     []byte
		file, sname []byte
	}{
		{"as it should be", oddOptions(discover, wanted, name, id, end), nil, nil},
		{"no end", oddOptions(discover, wanted, name, id), nil, nil},
		{"no end but padding", oddOptions(discover, wanted, name, id, make([]byte, 60)), nil, nil},
		{"padding between options", oddOptions(discover, []byte{0, 0, 0}, wanted, []byte{0}, name, id, end), nil, nil},
		{"octets behind the end", oddOptions(discover, wanted, name, id, end, []byte{12, 200, 1, 2, 3}), nil, nil},
		{"an option behind the end", oddOptions(discover, wanted, name, id, end, one(dhcpv4.OptionHostName, 'n', 'o'), end), nil, nil},
		{"the last option is cut off", oddOptions(discover, wanted, name, id, []byte{60, 40, 'M', 'S'}), nil, nil},
		{"the last option has no length", oddOptions(discover, wanted, name, id, []byte{60}), nil, nil},
		{"split options", oddOptions(discover, one(dhcpv4.OptionRequestedIPAddress, 192, 0), one(dhcpv4.OptionRequestedIPAddress, 2, 105),
			one(dhcpv4.OptionHostName, 'o'), one(dhcpv4.OptionHostName, 'd', 'd'), id, end), nil, nil},
		{"type and address twice", oddOptions(discover, discover, wanted, wanted, name, id, end), nil, nil},
		{"a longer address", oddOptions(discover, one(dhcpv4.OptionRequestedIPAddress, 192, 0, 2, 105, 0), name, id, end), nil, nil},
		{"a longer type", oddOptions(one(dhcpv4.OptionDHCPMessageType, 1, 0), wanted, name, id, end), nil, nil},
		{"empty options", oddOptions(
			one(dhcpv4.OptionClassIdentifier), discover, one(dhcpv4.OptionIPAddressLeaseTime), wanted, name, id,
			one(dhcpv4.OptionServerIdentifier), one(dhcpv4.OptionMaximumDHCPMessageSize), one(dhcpv4.OptionFQDN),
			one(dhcpv4.OptionParameterRequestList), end), nil, nil},
		{"an empty name", oddOptions(discover, wanted, one(dhcpv4.OptionHostName), name, id, end), nil, nil},
		{"options in the file field", oddOptions(one(dhcpv4.OptionOptionOverload, 1), discover, end), oddOptions(wanted, name, id, end), nil},
		{"options in the server field", oddOptions(one(dhcpv4.OptionOptionOverload, 2), discover, end), nil, oddOptions(wanted, name, id, end)},
		{"options in all fields, without an end", oddOptions(one(dhcpv4.OptionOptionOverload, 3), discover), oddOptions(wanted, name), id},
		{
			"an option over three fields", oddOptions(one(dhcpv4.OptionOptionOverload, 3), discover, wanted, id, one(dhcpv4.OptionHostName, 'o'), end),
			one(dhcpv4.OptionHostName, 'd'), one(dhcpv4.OptionHostName, 'd'),
		},
		{"overload twice", oddOptions(one(dhcpv4.OptionOptionOverload, 1), one(dhcpv4.OptionOptionOverload, 1), discover, end), oddOptions(wanted, name, id, end), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, testConfig, func(t *testing.T, e *env) {
				m := e.message(dhcpv4.MessageTypeNone, mac(2)).ToBytes()[:240]
				copy(m[44:], c.sname)
				copy(m[108:], c.file)
				m = append(m, c.options...)
				e.wire.send(t, m, mac(2), ip(9), broadcast)
				e.want(e.receive(), "OFFER 192.0.2.105")
				// It asks for the offer by a message of the same kind.
				m = bytes.Replace(m, discover, one(dhcpv4.OptionDHCPMessageType, 3), 1)
				if i := bytes.Index(m, one(dhcpv4.OptionDHCPMessageType, 1, 0)); i >= 0 {
					m[i+2] = 3
				}
				e.wire.send(t, m, mac(2), ip(9), broadcast)
				e.want(e.receive(), "ACK 192.0.2.105")
				if l, _ := e.store.Lease(t, ip(105)); l.Hostname != "odd" || string(l.ClientID) != "\x00id" {
					t.Errorf("stored %+v", l)
				}
			})
		})
	}
}

// A message of the smallest size that BOOTP has is one without options.
func TestOddBOOTP(t *testing.T) {
	simulated(t, func() v4.Config { return nakConfig() }, func(t *testing.T, e *env) {
		m := e.message(dhcpv4.MessageTypeNone, mac(0x21)).ToBytes()[:240]
		e.wire.send(t, m, mac(0x21), ip(9), broadcast)
		if r := e.receive(); r.yiaddr() != ip(50) {
			t.Errorf("got %v", fmt.Sprint(r))
		}
	})
}
