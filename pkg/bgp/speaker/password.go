package speaker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPassword is how long a key of TCP MD5 can be (TCP_MD5SIG_MAXKEYLEN of linux/tcp.h).
const maxPassword = unix.TCP_MD5SIG_MAXKEYLEN

// password reads the key of TCP MD5 (RFC 2385) by which the session of p is protected; "" for
// none. Where the kernel can't do that the error says so: no session is tried without it.
func (p *peer) password() (string, error) {
	if p.PasswordFile == "" {
		return "", nil
	}
	f, err := os.Open(p.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w: want a file that the user vnetd may read", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*maxPassword))
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	password, _, more := strings.Cut(string(text), "\n")
	switch {
	case password == "" || len(password) > maxPassword || more && strings.Count(string(text), "\n") > 1:
		return "", fmt.Errorf("password_file: %s: want one line of 1 to %d bytes", p.PasswordFile, maxPassword)
	}
	return password, signs()
}

// signs is why the kernel does not sign segments of TCP; nil: it does.
func signs() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	sig := &unix.TCPMD5Sig{Keylen: 1}
	sig.Addr.Family = unix.AF_INET
	sig.Addr.Data[2] = 127
	err = unix.SetsockoptTCPMD5Sig(s, unix.IPPROTO_TCP, unix.TCP_MD5SIG, sig)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return errors.New("password_file: this kernel does not sign TCP (CONFIG_TCP_MD5SIG): want another kernel, or no password at both ends")
	}
	return err
}
