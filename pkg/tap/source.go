package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
)

// Source waits for a frame that whoever has the device with that index open sends, and
// returns the address of the card that it is from. ok is asked of each address; the first
// that it accepts ends the wait. The error is ctx's, or ErrGone when the device is gone.
func Source(ctx context.Context, index int, ok func(net.HardwareAddr) bool) (net.HardwareAddr, error) {
	file, err := packetSocket(index)
	if err != nil {
		return nil, fmt.Errorf("looking at what device %d sends: %w", index, err)
	}
	defer func() { _ = file.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var from net.HardwareAddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			from, failed = sender(int(fd))
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(failed, unix.ENETDOWN): // it is not up yet, or not any more
			if _, err := nameOf(index); err != nil {
				return nil, err
			}
		case err != nil || failed != nil:
			return nil, fmt.Errorf("looking at what device %d sends: %w", index, errors.Join(err, failed))
		case from != nil && ok(from):
			return from, nil
		}
	}
}

// sender reads a frame of fd, and returns the card that it is from where the device sent it,
// nil where it received it, or where the address is none of a card.
func sender(fd int) (net.HardwareAddr, error) {
	var frame [14]byte
	n, from, err := unix.Recvfrom(fd, frame[:], 0)
	if err != nil {
		return nil, err
	}
	at, isLink := from.(*unix.SockaddrLinklayer)
	source := net.HardwareAddr(frame[6:12])
	if n < len(frame) || !isLink || at.Pkttype != unix.PACKET_OUTGOING || !ether.IsCard(source) {
		return nil, nil
	}
	return source, nil
}

// packetSocket is a socket of packet(7) that hears what passes a device.
func packetSocket(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}
