package cluster

import (
	"context"
	"errors"
	"time"
)

// MaxOps is how many operations, and how many comparisons, a transaction may have: what
// etcd allows unless it is told otherwise (--max-txn-ops).
const MaxOps = 128

// Errors of a Store. Any other error of a transaction leaves open whether it was, or will
// be, carried out.
var (
	// ErrCompacted says that what a watch or a list asks for is no longer kept.
	ErrCompacted = errors.New("the store no longer has what happened since")

	// ErrDenied says that this host may not do what was asked for.
	ErrDenied = errors.New("the store does not allow this host to do that")

	// ErrFull says that the store takes nothing more until its operator makes room.
	ErrFull = errors.New("the store is full")
)

// Store is what hosts share: keys with values, each change of which has a revision, a
// number that rises.
type Store interface {
	// Txn carries out the operations if all comparisons hold, all at one revision.
	Txn(ctx context.Context, txn Txn) (Result, error)

	// Reach finds a server of the store that answers a question about a key, which there need not
	// be, before ctx ends. What is asked from then on is asked of that one; watches and sessions of
	// another end, so that a store has one host only.
	Reach(ctx context.Context, key string) error

	// List returns the keys that begin with prefix as they were at a revision, 0 for now.
	List(ctx context.Context, prefix string, revision int64) (Listing, error)

	// Watch tells of every change of such keys from a revision on, in order, until ctx
	// ends. The channel is closed after an error.
	Watch(ctx context.Context, prefix string, from int64) <-chan Batch

	// Session begins a session, which ends when ctx does, or once the store has not heard
	// of it for ttl.
	Session(ctx context.Context, ttl time.Duration) (Session, error)

	// Close ends all connections.
	Close() error
}

// Session is this process, as the store knows it: keys that were put with its Lease go
// when it ends.
type Session struct {
	Lease int64
	Done  <-chan struct{} // closed when the session has ended, or may have
}

// KV is a key with its value.
type KV struct {
	Key    string
	Value  []byte
	Create int64 // revision at which the key came to be
	Mod    int64 // revision of its last change
}

// Listing is what stands below a prefix.
type Listing struct {
	Revision int64  // of the store
	Store    uint64 // which store it is; 0 where that is not known
	KVs      []KV   // in order of key
}

// Event is a change of one key.
type Event struct {
	KV
	Deleted bool // then Mod is when, and there is no value
}

// Batch is what a watch tells at a time: all of Events up to Revision, or that it ended.
type Batch struct {
	Revision int64
	Events   []Event
	Err      error
}

// Compare holds if the key was last changed at a revision: 0 stands for a key that is not
// there. With To it holds if no key from Key on and below To is there.
type Compare struct {
	Key string
	To  string
	Mod int64
}

// Op puts a key, or deletes it.
type Op struct {
	Key    string
	Value  []byte // nil deletes
	Lease  int64  // of a Session; 0 for none
	Prefix bool   // delete all keys that begin with Key
}

// Txn is a transaction.
type Txn struct {
	If   []Compare
	Then []Op
}

// Result says whether a transaction was carried out, and at which revision the store is.
type Result struct {
	OK       bool
	Revision int64
}
