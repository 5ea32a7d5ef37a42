package store

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// change is a lease that is stored or removed, or a network that is forgotten.
type change struct {
	network string
	addr    netip.Addr // none: all leases of the network are removed
	record  []byte     // nil: the lease is removed
}

// appendLine appends c as a line of the journal.
func (c change) appendLine(b []byte) []byte {
	b = append(b, c.network...)
	if c.addr.IsValid() {
		b = c.addr.AppendTo(append(b, ' '))
	}
	if c.record != nil {
		b = append(append(b, ' '), c.record...)
	}
	return append(b, '\n')
}

// parseChange reads a line without its end.
func parseChange(line []byte) (c change, err error) {
	fields := bytes.SplitN(line, []byte(" "), 3)
	c.network = string(fields[0])
	if c.network == "" {
		return c, errors.New("a line without a network")
	}
	if len(fields) > 1 {
		if c.addr, err = netip.ParseAddr(string(fields[1])); err != nil {
			return c, err
		}
	}
	if len(fields) > 2 {
		c.record = fields[2]
	}
	return c, nil
}

// proves reports whether c is a lease that matches the checksum of its record.
func (c change) proves() bool {
	l, err := decodeRecord([]byte(c.network), c.record)
	return err == nil && l.Addr == c.addr
}

// pending is changes by network, the last one of an address only.
type pending map[string]overlay

// overlay is the changes of a network, by key of its bucket; removed leases are nil.
type overlay struct {
	dropped bool // what the database has is removed
	records map[string][]byte
}

// under is o with what is newer over it, in a map of its own.
func (o overlay) under(newer overlay) overlay {
	both := overlay{o.dropped, make(map[string][]byte, len(o.records)+len(newer.records))}
	if newer.dropped {
		both.dropped = true
	} else {
		maps.Copy(both.records, o.records)
	}
	maps.Copy(both.records, newer.records)
	return both
}

// cover puts what is newer over p.
func (p pending) cover(newer pending) {
	for network, o := range newer {
		p[network] = p[network].under(o)
	}
}

func (p pending) add(changes []change) {
	for _, c := range changes {
		if _, ok := p[c.network]; !ok || !c.addr.IsValid() {
			p[c.network] = overlay{!c.addr.IsValid(), make(map[string][]byte)}
		}
		if c.addr.IsValid() {
			p[c.network].records[string(c.addr.AsSlice())] = c.record
		}
	}
}

// apply makes the changes inside a transaction.
func (p pending) apply(tx *bbolt.Tx) error {
	for _, network := range slices.Sorted(maps.Keys(p)) {
		o := p[network]
		if o.dropped {
			if err := tx.DeleteBucket([]byte(network)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
			}
		}
		if len(o.records) == 0 {
			continue
		}
		b, err := tx.CreateBucketIfNotExists([]byte(network))
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(o.records)) {
			if record := o.records[key]; record != nil {
				err = b.Put([]byte(key), record)
			} else {
				err = b.Delete([]byte(key))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
