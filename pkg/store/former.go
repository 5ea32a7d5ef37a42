package store

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/leasedb"
)

// Before version 0.4 leases were in a database of bbolt, with a bucket for each network's
// UUID, and the latest ones in a text file beside it, both right in the directory of state.
// They are taken over when the store is opened, and then removed.
const (
	formerDB      = "leases.db"
	formerJournal = "leases.journal"
)

// former is leases by network UUID and address.
type former map[string]map[netip.Addr]dhcpd.Lease

// takeFormer takes over the leases of a former version, if there are any. What can't be
// read of them is kept under the name that damage tells of.
func takeFormer(at place, db *leasedb.DB, log *slog.Logger) (damage, err error) {
	if at.lacks(formerDB) && at.lacks(formerJournal) {
		return nil, nil
	}
	all := make(former)
	var fault error
	if !at.lacks(formerDB) { // or else a crash came between its removal and that of the journal
		fault = all.readDatabase(filepath.Join(at.path(), formerDB))
	}
	if Passing(fault) {
		return nil, fmt.Errorf("reading %s: %w", formerDB, fault)
	}
	journal, err := at.read(formerJournal)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading %s: %w", formerJournal, err)
	}
	all.readJournal(journal)
	n := 0
	for uuid, leases := range all {
		if err := db.Commit(uuid, slices.Collect(maps.Values(leases)), nil); err != nil {
			return nil, fmt.Errorf("taking over the leases of network %s: %w", uuid, err)
		}
		n += len(leases)
	}
	log.Info("leases of a former version were taken over", "leases", n, "networks", len(all))
	if fault != nil {
		aside := formerDB + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
		damage = fmt.Errorf("%s was damaged (%w): it is kept as %s, and %d leases could be read", formerDB, fault, aside, n)
		log.Error("the former database of leases is damaged: going on with what could be read", "aside", aside, "leases", n, "error", fault)
		err = at.change(func(dir folder) error { return dir.Rename(formerDB, aside) })
	} else {
		err = at.remove(formerDB)
	}
	return damage, errors.Join(err, at.remove(formerJournal))
}

// readDatabase reads the database as far as that goes. What bbolt does about a page that
// it can't make sense of is a panic, and about one beyond the file's end a memory fault.
func (all former) readDatabase(path string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading a page: %v", r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true, OpenFile: openFile})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(uuid []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, record []byte) error { return all.put(string(uuid), record) })
		})
	})
}

// readJournal reads the text: groups of lines with a checksum ahead and an empty line
// behind, each line a network, and an address unless all of its leases go, and a record
// unless that of the address goes.
func (all former) readJournal(text []byte) {
	for group := range bytes.SplitSeq(bytes.TrimRight(text, "\x00"), []byte("\n\n")) {
		_, lines, _ := bytes.Cut(group, []byte("\n"))
		for line := range bytes.SplitSeq(lines, []byte("\n")) {
			fields := bytes.SplitN(line, []byte(" "), 3)
			uuid := string(fields[0])
			if len(fields) == 1 {
				delete(all, uuid)
				continue
			}
			addr, err := netip.ParseAddr(string(fields[1]))
			switch {
			case err != nil:
			case len(fields) == 2:
				delete(all[uuid], addr)
			default:
				_ = all.put(uuid, fields[2]) // a group that was not written whole
			}
		}
	}
}

// put keeps the lease of a record: JSON behind eight hex digits, a checksum that bbolt's
// own made needless to look at here.
func (all former) put(uuid string, record []byte) error {
	at := bytes.IndexByte(record, '{')
	if at < 0 {
		return errors.New("a record is no lease")
	}
	l, err := decodeLease(record[at:])
	if err != nil {
		return err
	}
	if all[uuid] == nil {
		all[uuid] = make(map[netip.Addr]dhcpd.Lease)
	}
	all[uuid][l.Addr] = l
	return nil
}

// formerLease is a lease as JSON.
type formerLease struct {
	Addr     netip.Addr  `json:"addr"`
	MAC      string      `json:"mac"`       // six hex bytes, with colons; may be empty
	ClientID string      `json:"client_id"` // hex bytes, without
	DUID     string      `json:"duid"`      // hex bytes, without; DHCPv6 only
	IAID     uint32      `json:"iaid"`
	From     string      `json:"from"` // as MAC
	Hostname string      `json:"hostname"`
	Expiry   time.Time   `json:"expiry"`
	State    dhcpd.State `json:"state"`
}

// decodeLease reads a lease.
func decodeLease(data []byte) (l dhcpd.Lease, err error) {
	var j formerLease
	if err := json.Unmarshal(data, &j); err != nil {
		return l, err
	}
	l = dhcpd.Lease{Addr: j.Addr, IAID: j.IAID, Hostname: j.Hostname, Expiry: j.Expiry, State: j.State}
	for _, m := range []struct {
		from string
		to   *net.HardwareAddr
	}{{j.MAC, &l.MAC}, {j.From, &l.From}} {
		if m.from != "" {
			if *m.to, err = net.ParseMAC(m.from); err != nil {
				return l, err
			}
		}
	}
	for _, h := range []struct {
		from string
		to   *[]byte
	}{{j.ClientID, &l.ClientID}, {j.DUID, &l.DUID}} {
		if h.from != "" {
			if *h.to, err = hex.DecodeString(h.from); err != nil {
				return l, err
			}
		}
	}
	if !l.Addr.IsValid() {
		return l, errors.New("a record has no address")
	}
	return l, nil
}
