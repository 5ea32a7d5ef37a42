package netlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// answerTime is how long the kernel may take to answer. It answers before the
	// request's write returns; the limit only ends what would hang.
	answerTime = 10 * time.Second

	// dumpTries is how often a dump is asked for when its objects change while the
	// kernel writes it.
	dumpTries = 10

	// receiveSize is larger than any datagram of the kernel.
	receiveSize = 1 << 16
)

// ErrInterrupted says that what was dumped changed meanwhile.
var ErrInterrupted = errors.New("the kernel's objects changed while they were listed")

// Socket is a netlink socket. Requests are safe for concurrent use and queue for it;
// Receive and Poll are for a socket without requests, and for one caller.
type Socket struct {
	file   *os.File
	raw    syscall.RawConn
	polled bool // the runtime's poller knows it

	mu      sync.Mutex
	seq     uint32 // of the last message; guarded by mu
	request []byte // memory for ExchangeOften; guarded by mu
	inbox
}

// buffers are those of sockets that ask for nothing at the moment, for the next one that does:
// most sockets never do again for long.
var buffers = sync.Pool{New: func() any { return new([receiveSize]byte) }}

// inbox is what was received last, and what reads it. A call allocates nothing of it but the
// buffer.
type inbox struct {
	buffer *[receiveSize]byte // nil until something is read, and again after an exchange
	from   unix.RawSockaddrNetlink
	n      int
	err    error
	wait   bool                         // until something is there
	read   func(fd uintptr) (done bool) // made once
}

// Open opens a socket of a netlink protocol, such as NETLINK_ROUTE, in the network
// namespace of the calling thread, as a member of multicast groups.
func Open(protocol int, groups ...uint) (*Socket, error) {
	return open(protocol, unix.SOCK_NONBLOCK, groups)
}

// OpenRequests is Open of a socket for requests alone, many of them: whoever makes one waits
// in the kernel, and the runtime's poller, of which a thread would wake for each that is
// sent and for each answer, does not know the socket.
func OpenRequests(protocol int) (*Socket, error) {
	s, err := open(protocol, 0, nil)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(answerTime.Nanoseconds())
	if err := s.Control(func(fd int) error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) }); err != nil {
		return nil, errors.Join(fmt.Errorf("limiting how long a netlink socket waits: %w", err), s.Close())
	}
	return s, nil
}

// open opens a socket that waits as flags say.
func open(protocol, flags int, groups []uint) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range groups {
		addr.Groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, addr); err != nil {
		return nil, errors.Join(fmt.Errorf("binding a netlink socket: %w", err), unix.Close(fd))
	}
	// Both are comfort: error texts, and dumps filtered by the kernel (4.20)
	// rather than here.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	s := &Socket{file: os.NewFile(uintptr(fd), "netlink"), polled: flags&unix.SOCK_NONBLOCK != 0}
	s.read = s.readOne
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// SetBuffers sets how many bytes may wait to be sent, 0 for as many as by default,
// and to be received. Without privilege nothing changes.
func (s *Socket) SetBuffers(send, receive int) {
	_ = s.Control(func(fd int) error {
		if send > 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, send)
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receive)
	})
}

// Control calls f with the file descriptor, which is open until f returns.
func (s *Socket) Control(f func(fd int) error) error {
	var err error
	closed := s.raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(closed, err)
}

// Close closes the socket, which ends a pending Receive.
func (s *Socket) Close() error { return s.file.Close() }

// Receive waits for the next datagram of the kernel. The bytes are valid until the
// next call.
func (s *Socket) Receive() ([]byte, error) { return s.receive(true) }

// Poll is Receive without waiting: nil if there is no datagram.
func (s *Socket) Poll() ([]byte, error) {
	datagram, err := s.receive(false)
	if errors.Is(err, unix.EAGAIN) {
		return nil, nil
	}
	return datagram, err
}

// Drain forgets what a socket of Open holds of answers that nobody has waited for. Once some were
// lost, as they were more than it holds, the kernel sends no others while any are left
// (netlink_rcv_wake of net/netlink/af_netlink.c).
func (s *Socket) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.giveBack()
	_ = s.file.SetReadDeadline(time.Time{}) // that of the last answer may have passed
	for {
		if datagram, err := s.Poll(); datagram == nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func (s *Socket) receive(wait bool) ([]byte, error) {
	if s.buffer == nil {
		s.buffer = buffers.Get().(*[receiveSize]byte)
	}
	for s.wait = wait; ; {
		s.err = nil // of a closed socket nothing is read
		err := s.raw.Read(s.read)
		if err = errors.Join(err, s.err); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if s.from.Family == unix.AF_NETLINK && s.from.Pid == 0 && err == nil {
			return s.buffer[:s.n], nil
		}
	}
}

// giveBack lets another socket have the buffer.
func (s *Socket) giveBack() {
	if s.buffer != nil {
		buffers.Put(s.buffer)
		s.buffer = nil
	}
}

// readOne reads a datagram, and says whose it is.
func (s *Socket) readOne(fd uintptr) (done bool) {
	s.from, s.err = unix.RawSockaddrNetlink{}, nil
	size := uint32(unix.SizeofSockaddrNetlink)
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(s.buffer)), receiveSize, 0,
		uintptr(unsafe.Pointer(&s.from)), uintptr(unsafe.Pointer(&size)))
	if s.n = int(n); errno != 0 {
		s.n, s.err = 0, errno
	}
	return !s.wait || !s.polled || errno != unix.EAGAIN
}

// Exchange sends messages in one datagram and calls answer with each of the
// kernel's messages about one of them, by its place, until answer says that it was
// the last one or the answers take too long. The kernel handles the messages in
// order before the datagram's sending returns: no other request of this socket comes
// between, and the death of this process doesn't stop them half-way. Bodies are
// answer's to keep.
func (s *Socket) Exchange(messages [][]byte, answer func(at int, m Message) (last bool)) error {
	return s.exchange(messages, false, answer)
}

// ExchangeOften is Exchange for who has little to ask, and often: it allocates nothing, and bodies
// are valid until answer returns.
func (s *Socket) ExchangeOften(messages [][]byte, answer func(at int, m Message) (last bool)) error {
	return s.exchange(messages, true, answer)
}

func (s *Socket) exchange(messages [][]byte, often bool, answer func(at int, m Message) (last bool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, request := s.seq+1, s.request[:0]
	for _, m := range messages {
		s.seq++
		binary.NativeEndian.PutUint32(m[8:], s.seq)
		request = append(request, m...)
	}
	if often {
		s.request = request
	}
	if _, err := s.file.Write(request); err != nil {
		return fmt.Errorf("sending a netlink request: %w", err)
	}
	// From here on: the kernel may have kept the request waiting for its locks.
	if s.polled {
		if err := s.file.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return err
		}
	}
	defer s.giveBack()
	for {
		datagram, err := s.receive(true)
		if err != nil {
			return fmt.Errorf("waiting for a netlink answer: %w", err)
		}
		if !often {
			datagram = bytes.Clone(datagram)
		}
		for m := range Messages(datagram) {
			// What answers another request is a left-over.
			if at := m.Seq - first; at < uint32(len(messages)) && answer(int(at), m) {
				return nil
			}
		}
	}
}

// Do sends messages in one datagram and returns the error of each, nil for one that
// succeeded; one that fails doesn't stop those behind it. An error of the sending
// or of an answer that is missing is one more.
func (s *Socket) Do(messages ...[]byte) []error {
	for _, m := range messages {
		AddFlags(m, unix.NLM_F_ACK)
	}
	errs := make([]error, len(messages))
	left := len(messages)
	err := s.Exchange(messages, func(at int, m Message) bool {
		if m.Type != unix.NLMSG_ERROR {
			return false
		}
		errs[at] = m.Err()
		left--
		return left == 0
	})
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}

// AddFlags adds flags to those of a message.
func AddFlags(message []byte, flags uint16) {
	binary.NativeEndian.PutUint16(message[6:], binary.NativeEndian.Uint16(message[6:])|flags)
}

// Query sends one request and returns the bodies of all answers of a type. The error
// is ErrInterrupted if what a dump lists changed meanwhile.
func (s *Socket) Query(request []byte, kind uint16) (bodies [][]byte, err error) {
	interrupted := false
	failed := s.Exchange([][]byte{request}, func(_ int, m Message) bool {
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			err = m.Err()
			return true
		case kind:
			bodies = append(bodies, m.Body)
		}
		return m.Flags&unix.NLM_F_MULTI == 0
	})
	if err = errors.Join(failed, err); err == nil && interrupted {
		err = ErrInterrupted
	}
	return bodies, err
}

// Get is Query for one object.
func (s *Socket) Get(request []byte, kind uint16) ([]byte, error) {
	bodies, err := s.Query(request, kind)
	if err != nil {
		return nil, err
	}
	if len(bodies) != 1 {
		return nil, fmt.Errorf("netlink gave %d answers, want one", len(bodies))
	}
	return bodies[0], nil
}

// Dump is Query for all objects that request doesn't filter out, again when they
// changed while the kernel wrote them.
func (s *Socket) Dump(request []byte, kind uint16) (bodies [][]byte, err error) {
	AddFlags(request, unix.NLM_F_DUMP)
	for range dumpTries {
		if bodies, err = s.Query(request, kind); !errors.Is(err, ErrInterrupted) {
			return bodies, err
		}
	}
	return nil, err
}
