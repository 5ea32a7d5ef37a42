package bridge

import (
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// conn is an rtnetlink socket for requests. Safe for concurrent use; requests
// queue for it.
type conn struct{ *netlink.Socket }

// dial opens a conn in the network namespace of the calling thread.
func dial() (*conn, error) {
	s, err := netlink.Open(unix.NETLINK_ROUTE)
	return &conn{s}, err
}

func (c *conn) close() { _ = c.Close() }

// do sends requests in one datagram and waits for all acknowledgements; see
// netlink.Socket.Exchange. The error joins those of all requests.
func (c *conn) do(reqs ...*nl.NetlinkRequest) error {
	messages := make([][]byte, len(reqs))
	for i, req := range reqs {
		messages[i] = req.Serialize()
	}
	return errors.Join(c.Do(messages...)...)
}

// get asks for one object; the answer has type kind.
func (c *conn) get(req *nl.NetlinkRequest, kind uint16) ([]byte, error) {
	return c.Get(req.Serialize(), kind)
}

// dump asks for all objects of type kind that the parts of the request don't filter
// out, again when they changed while the kernel wrote them.
func (c *conn) dump(ask, kind uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(int(ask), unix.NLM_F_DUMP)
	req.Data = parts
	return c.Dump(req.Serialize(), kind)
}
