package packets

import (
	"context"
	"time"
)

// The ends of a capture, as they are told.
const (
	EndTime        = "time"
	EndCount       = "count"
	EndSize        = "size"
	EndInterrupted = "interrupted"
)

// Outcome is what became of a capture.
type Outcome struct {
	Packets int
	Lost    int    // came faster than they were read
	End     string // which bound was met
}

// pollTime is how long an interrupt waits at most.
const pollTime = 100 * time.Millisecond

// Capture calls each with what passes until a bound is met or ctx ends, which is no error.
// written is how many bytes the file has; a packet that would make it larger than the bound
// is not taken.
func (s *Sockets) Capture(ctx context.Context, b Bounds, written func() int64, each func(Packet) error) (o Outcome, err error) {
	deadline := time.Now().Add(b.Time)
	for o.End == "" {
		left := time.Until(deadline)
		switch {
		case ctx.Err() != nil:
			o.End = EndInterrupted
		case left <= 0:
			o.End = EndTime
		}
		if o.End != "" {
			break
		}
		_, failed := s.Read(min(left, pollTime), func(p Packet) bool {
			if written()+Size(len(p.Data)) > b.Size {
				o.End = EndSize
				return false
			}
			if err = each(p); err != nil {
				return false
			}
			if o.Packets++; o.Packets >= b.Count {
				o.End = EndCount
			}
			return o.End == "" && time.Now().Before(deadline)
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return o, err
		}
	}
	o.Lost = s.Lost()
	return o, nil
}
