package nstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// PlugAsQEMU has a bridge helper, vnetd's or QEMU's, make a TAP device, and takes its descriptor
// as QEMU does: by a message on the socket that is the helper's descriptor 3 (SCM_RIGHTS of
// unix(7)).
func PlugAsQEMU(ctx context.Context, helper string, args ...string) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(pair[0]) }()
	theirs := os.NewFile(uintptr(pair[1]), "socket of "+helper)
	cmd := exec.CommandContext(ctx, helper, append(args, "--fd=3")...)
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", helper, err, out)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("receiving from %s: %w", helper, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%s sent %d messages", helper, len(messages)))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%s sent %d descriptors", helper, len(fds)))
	}
	return os.NewFile(uintptr(fds[0]), "TAP"), nil
}
