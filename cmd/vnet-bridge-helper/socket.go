package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkSocket reports what keeps fd from being the socket that QEMU made: a
// Unix stream socket beside the three standard streams.
func checkSocket(fd int) error {
	if fd <= unix.Stderr {
		return errors.New("a standard stream is not QEMU's socket")
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case errors.Is(err, unix.EBADF):
		return errors.New("the descriptor is not open")
	case errors.Is(err, unix.ENOTSOCK):
		return errors.New("the descriptor is not a socket")
	case err != nil:
		return fmt.Errorf("asking for the socket's domain: %w", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("asking for the socket's type: %w", err)
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return errors.New("the descriptor is not a Unix stream socket")
	}
	return nil
}

// sendFile sends the one message of the protocol over the socket: one byte, and
// file's descriptor with it (SCM_RIGHTS).
func sendFile(socket int, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	// Control, not Fd: Fd may change the flags that the copy shares.
	var sendErr error
	err = raw.Control(func(fd uintptr) { sendErr = sendFD(socket, int(fd)) })
	return errors.Join(err, sendErr)
}

// sendFD sends one zero byte with fd. A reader that is gone is an error, not a
// SIGPIPE.
func sendFD(socket, fd int) error {
	rights := unix.UnixRights(fd)
	for {
		err := unix.Sendmsg(socket, []byte{0}, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
