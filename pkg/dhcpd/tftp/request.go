package tftp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Packets of TFTP (RFC 1350, section 5).
const (
	opRead    = 1
	opWrite   = 2
	opData    = 3
	opAck     = 4
	opError   = 5
	opOptions = 6 // RFC 2347
	header    = 4 // type, block
)

// Bounds of what is negotiated. A window is not larger than what fits into the
// receive buffers of firmware.
const (
	minBlock     = 8
	defaultBlock = 512
	maxWindow    = 16
)

// errIllegal says that a request is no read request.
var errIllegal = errors.New("illegal TFTP operation")

// request is a read request, understood.
type request struct {
	path  string // below the root, clean
	ascii bool   // in the mode netascii
	// What the guest asks for, 0 where it does not.
	block, window int
	timeout       time.Duration
	size          bool // wants to know the file's size
}

// parse understands a request. root is the directory as guests may name it.
// The error becomes the guest's, by tftpError.
func parse(b []byte, root string) (request, error) {
	if len(b) < 2 || b[0] != 0 || b[1] != opRead {
		return request{}, errIllegal
	}
	fields := bytes.Split(b[2:], []byte{0})
	// RFC 1350, section 5: each string ends in a zero.
	if len(fields) < 3 || len(fields[len(fields)-1]) != 0 {
		return request{}, errIllegal
	}
	// "The mode field contains the string "netascii", "octet", or "mail" (or any
	// combination of upper and lower case".
	mode := strings.ToLower(string(fields[1]))
	if mode != "octet" && mode != "netascii" {
		return request{}, errIllegal
	}
	name, err := cleanPath(string(fields[0]), root)
	if err != nil {
		return request{}, err
	}
	r := request{path: name, ascii: mode == "netascii"}
	for o := fields[2 : len(fields)-1]; len(o) >= 2; o = o[2:] {
		r.option(string(o[0]), string(o[1]))
	}
	return r, nil
}

// option understands one option. RFC 2347: the name is in any case; what the
// server does not know, or whose value it does not take, it leaves out of its
// answer.
func (r *request) option(name, value string) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return
	}
	switch strings.ToLower(name) {
	case "blksize": // RFC 2348
		if n >= minBlock {
			r.block = int(n)
		}
	case "windowsize": // RFC 7440
		r.window = int(n)
	case "timeout": // RFC 2349
		if n <= 255 {
			r.timeout = time.Duration(n) * time.Second
		}
	case "tsize": // RFC 2349: 0 in a read request
		r.size = n == 0
	}
}

// cleanPath returns a file's path below root. Guests name files relative to it, from its
// top, or by the path that it has on the host; with slashes or backslashes.
func cleanPath(name, root string) (string, error) {
	name = strings.ReplaceAll(name, `\`, "/")
	// The root is compared as a path, so that /srv/tftp is not found in /srv/tftp2.
	if below, ok := strings.CutPrefix(name, strings.TrimSuffix(root, "/")+"/"); ok {
		name = below
	}
	name = strings.TrimLeft(name, "/")
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("%w: the path leaves the directory", os.ErrPermission)
	}
	if name = path.Clean(name); name == "." || strings.IndexFunc(name, isControl) >= 0 {
		return "", os.ErrNotExist
	}
	return name, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// errorPacket returns the ERROR packet that tells err, without what it says of the host
// (RFC 1350, appendix).
func errorPacket(err error) []byte {
	code, text := byte(2), "access violation"
	switch {
	case errors.Is(err, errIllegal):
		code, text = 4, "illegal TFTP operation"
	case errors.Is(err, os.ErrNotExist):
		code, text = 1, "file not found"
	}
	return append(append([]byte{0, opError, 0, code}, text...), 0)
}
