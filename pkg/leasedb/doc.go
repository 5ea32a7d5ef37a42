// Package leasedb keeps the DHCP leases of all networks on disk: one log to which
// changes are appended, those of all callers that wait together, and a snapshot of what
// there was when the log began.
//
//	snapshot      what there was when the log began
//	journal       the log
//	journal.next  the log that follows, while a snapshot is being made
//
// Each file begins with its kind and its sequence number, see header. A snapshot has
// the effect of all logs with a lower number; what is to be known is the snapshot and
// then every log whose number is not lower, in order. Behind the header stand groups of
// records, see appendGroup; a group counts as a whole or not at all. Both levels have
// checksums (CRC-32C), so that of a damaged group those records are found that are
// whole. All numbers are little-endian.
//
// All leases are in memory too, as they are on disk: a snapshot is written from there,
// beside the commits that go on into the next log. That it may have some of what that
// log has as well changes nothing: records say what is, not what has changed.
package leasedb
