package libvirtrpc

import (
	"encoding/binary"
	"math"

	"github.com/vnetd/vnetd/internal/ether"
)

// The limits that libvirt's protocol file sets to what a message may hold.
const (
	maxString         = 4 << 20 // REMOTE_STRING_MAX
	maxNetworks       = 16384   // REMOTE_NETWORK_LIST_MAX
	maxPorts          = 16384   // REMOTE_NETWORK_PORT_LIST_MAX
	maxLeases         = 65536   // REMOTE_NETWORK_DHCP_LEASES_MAX
	maxPortParams     = 16      // REMOTE_NETWORK_PORT_PARAMETERS_MAX
	maxIdentityParams = 20      // REMOTE_CONNECT_IDENTITY_PARAMS_MAX
)

// uuid is a UUID on the wire: 16 bytes without a length.
type uuid = ether.UUID

// decoder reads XDR (RFC 4506) out of one payload. The first item that does not
// fit ends it: broken is set, and all that is read from then on is zero. It never
// allocates more than the payload has. What is left at the end is ignored, as
// libvirt ignores it.
type decoder struct {
	rest   []byte
	broken bool
}

// take returns the next n bytes, nil at the end.
func (d *decoder) take(n int) []byte {
	if d.broken || n < 0 || n > len(d.rest) {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) fail() { d.rest, d.broken = nil, true }

func (d *decoder) uint32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (d *decoder) uint64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (d *decoder) int32() int32 { return int32(d.uint32()) }

// flag is a boolean. Any value but 0 is true: go-libvirt sends others than 1.
func (d *decoder) flag() bool { return d.uint32() != 0 }

// length reads how many there are of something, at most limit.
func (d *decoder) length(limit int) int {
	n := d.uint32()
	if int64(n) > int64(limit) {
		d.fail()
		return 0
	}
	return int(n)
}

// string reads a string, padded to a multiple of four bytes (RFC 4506 section
// 4.11).
func (d *decoder) string() string {
	n := d.length(maxString)
	b := d.take(n)
	d.take(-n & 3)
	if d.broken {
		return ""
	}
	return string(b)
}

// optString reads a string that may be absent: then it is nil.
func (d *decoder) optString() *string {
	if !d.flag() || d.broken {
		return nil
	}
	s := d.string()
	return &s
}

func (d *decoder) uuid() (u uuid) {
	copy(u[:], d.take(len(u)))
	return u
}

// encoder writes XDR.
type encoder struct{ buf []byte }

func (e *encoder) uint32(v uint32) { e.buf = binary.BigEndian.AppendUint32(e.buf, v) }
func (e *encoder) uint64(v uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }
func (e *encoder) int32(v int32)   { e.uint32(uint32(v)) }
func (e *encoder) int64(v int64)   { e.uint64(uint64(v)) }
func (e *encoder) uuid(u uuid)     { e.buf = append(e.buf, u[:]...) }

func (e *encoder) flag(v bool) {
	if v {
		e.uint32(1)
	} else {
		e.uint32(0)
	}
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, make([]byte, -len(s)&3)...)
}

// optString writes a string, or that there is none for nil.
func (e *encoder) optString(s *string) {
	e.flag(s != nil)
	if s != nil {
		e.string(*s)
	}
}

// nonEmpty is s for optString, where libvirt leaves out what is empty.
func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ref is a network as it goes over the wire, both ways.
type ref struct {
	name string
	uuid uuid
}

func readRef(d *decoder) ref { return ref{d.string(), d.uuid()} }

func (e *encoder) ref(r ref) {
	e.string(r.name)
	e.uuid(r.uuid)
}

// optRef reads a network that may be absent: then it is nil.
func (d *decoder) optRef() *ref {
	if !d.flag() || d.broken {
		return nil
	}
	r := readRef(d)
	return &r
}

// parseUUID reads the canonical form; what has not this form is the zero UUID.
func parseUUID(s string) uuid {
	u, _ := ether.ParseUUID(s)
	return u
}

// The types of typed parameters (virTypedParameterType).
const (
	paramInt    = 1
	paramUint   = 2
	paramLlong  = 3
	paramUllong = 4
	paramDouble = 5
	paramBool   = 6
	paramString = 7
)

// param is a typed parameter. value is of the Go type that fits: int32, uint32,
// int64, uint64, float64, bool or string.
type param struct {
	field string
	value any
}

// params reads a list of typed parameters, at most limit of them.
func (d *decoder) params(limit int) []param {
	var list []param
	for range d.length(limit) {
		list = append(list, d.param())
		if d.broken {
			return nil
		}
	}
	return list
}

func (d *decoder) param() param {
	p := param{field: d.string()}
	switch d.int32() {
	case paramInt:
		p.value = d.int32()
	case paramUint:
		p.value = d.uint32()
	case paramLlong:
		p.value = int64(d.uint64())
	case paramUllong:
		p.value = d.uint64()
	case paramDouble:
		p.value = math.Float64frombits(d.uint64())
	case paramBool:
		p.value = d.flag()
	case paramString:
		p.value = d.string()
	default:
		d.fail()
	}
	return p
}

// uints writes typed parameters that are all unsigned integers.
func (e *encoder) uints(list []param) {
	e.uint32(uint32(len(list)))
	for _, p := range list {
		e.string(p.field)
		e.int32(paramUint)
		e.uint32(p.value.(uint32))
	}
}
