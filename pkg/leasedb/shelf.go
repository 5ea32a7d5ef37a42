package leasedb

// shelf keeps records one behind the other, so that those of many leases take little more
// memory than they have bytes, and the collector finds no pointers in them.
type shelf struct {
	boards [][]byte // of boardSize bytes at most, filled one after the other
	live   int      // bytes of those that were not dropped
	used   int      // bytes of all
}

// place is where a record stands: the number of its board, and how far from the board's begin.
// No record stands at 0.
type place uint32

// boardSize is how large a board is at most, and leastBoard the first one at least, in bytes. A
// record is smaller than maxBody and its header.
const (
	boardBits  = 16
	boardSize  = 1 << boardBits
	leastBoard = 1 << 10
)

// add keeps a copy of r.
func (s *shelf) add(r record) place {
	last := len(s.boards) - 1
	if last < 0 || len(s.boards[last])+len(r) > boardSize {
		// Where there are few leases the board is small and grows.
		board := make([]byte, 1, min(boardSize, max(leastBoard, s.used))) // 1: no record stands at 0
		s.boards, last = append(s.boards, board), last+1
	}
	at := place(last<<boardBits | len(s.boards[last]))
	s.boards[last] = append(s.boards[last], r...)
	s.live += len(r)
	s.used += len(r)
	return at
}

// get returns the record at a place, valid until the shelf is tidied.
func (s *shelf) get(at place) record {
	r := record(s.boards[at>>boardBits][at&(boardSize-1):])
	return r[:r.size()]
}

// drop drops the record at a place, or none at 0.
func (s *shelf) drop(at place) {
	if at != 0 {
		s.live -= len(s.get(at))
	}
}

// untidy reports whether most of the shelf is what was dropped.
func (s *shelf) untidy() bool { return s.used > 2*s.live+boardSize }
