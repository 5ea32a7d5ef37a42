package dnsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Leave stops reading and returns copies of the sockets, for Open in the next
// process: what is asked from then on waits there. It returns once whoever has
// asked for a name that upstreams know has been answered, or when ctx ends. The
// caller closes the copies, and ends Run soon: nobody answers meanwhile. What has
// come in over a TCP connection that is open is not left, its client asks again.
func (s *Server) Leave(ctx context.Context) ([]*os.File, error) {
	past := time.Unix(1, 0)
	var errs []error
	for _, c := range s.udp {
		errs = append(errs, c.SetReadDeadline(past))
	}
	for _, l := range s.tcp {
		errs = append(errs, l.SetDeadline(past))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stopping to read: %w", err)
	}
	s.readers.Wait()
	s.forwarder.settle(ctx)
	return s.copies()
}

// copies returns other descriptors of the sockets.
func (s *Server) copies() (files []*os.File, err error) {
	var errs []error
	add := func(f *os.File, err error) {
		errs = append(errs, err)
		if err == nil {
			files = append(files, f)
		}
	}
	for _, c := range s.udp {
		add(c.File())
	}
	for _, l := range s.tcp {
		add(l.File())
	}
	if err := errors.Join(errs...); err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, fmt.Errorf("copying the sockets of dns: %w", err)
	}
	return files, nil
}
