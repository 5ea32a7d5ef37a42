package tftp

import "fmt"

// Parse is a request in short, or the error packet that answers it.
func Parse(b []byte, root string) (path, rest string, fault []byte) {
	r, err := parse(b, root)
	if err != nil {
		return "", "", errorPacket(err)
	}
	return r.path, fmt.Sprint(r.ascii, r.block, r.window, r.timeout, r.size), nil
}
