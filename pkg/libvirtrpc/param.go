package libvirtrpc

import (
	"math"
)

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
