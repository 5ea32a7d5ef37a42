package libvirtrpc

import (
	"context"
	"math"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// portRef is a port as it goes over the wire, both ways.
type portRef struct {
	ref
	port uuid
}

func readPortRef(d *decoder) portRef { return portRef{readRef(d), d.uuid()} }

func (e *encoder) portRef(p portRef) {
	e.ref(p.ref)
	e.uuid(p.port)
}

// activeNetwork is what r refers to, which must be active: ports are not for
// others.
func (c *session) activeNetwork(r ref) (Network, error) {
	n, err := c.network(r)
	if err != nil {
		return nil, err
	}
	return n, mustBeActive(n)
}

// port finds a port with its network.
func (c *session) port(r portRef) (Network, *netdef.Port, error) {
	n, err := c.activeNetwork(r.ref)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range n.PortDocuments() {
		if p.UUID == r.port.String() {
			return n, p, nil
		}
	}
	return nil, nil, failf(codeNoPort, "Network port with UUID %s does not exist", r.port)
}

// listPortsArgs are those of virNetworkListAllPorts.
type listPortsArgs struct {
	ref
	listArgs
}

func readListPorts(d *decoder) listPortsArgs { return listPortsArgs{readRef(d), readListAll(d)} }

func listAllPorts(_ context.Context, c *session, a listPortsArgs, results *encoder) error {
	n, err := c.activeNetwork(a.ref)
	if err != nil {
		return err
	}
	if err := checkFlags(a.flags, 0, "networkListAllPorts"); err != nil {
		return err
	}
	about := refTo(n.Info())
	var list []portRef
	for _, p := range n.PortDocuments() {
		list = append(list, portRef{about, parseUUID(p.UUID)})
	}
	return writeAll(results, "network ports", list, a.fill, maxPorts, (*encoder).portRef)
}

func lookupPort(_ context.Context, c *session, r portRef, results *encoder) error {
	n, p, err := c.port(r)
	if err != nil {
		return err
	}
	results.portRef(portRef{refTo(n.Info()), parseUUID(p.UUID)})
	return nil
}

// portDocument is a port that is to be made.
type portDocument struct {
	ref
	document
}

func readPortDocument(d *decoder) portDocument { return portDocument{readRef(d), readDocument(d)} }

// The flags of virNetworkPortCreateXML.
const (
	portReclaim  = 1
	portValidate = 2
)

// createPort registers a port. libvirt's QEMU driver makes the device after this
// and plugs it into what the port's document then says.
func createPort(ctx context.Context, c *session, a portDocument, results *encoder) error {
	if err := checkFlags(a.flags, portReclaim|portValidate, "networkPortCreateXML"); err != nil {
		return err
	}
	n, err := c.activeNetwork(a.ref)
	if err != nil {
		return err
	}
	doc, err := netdef.ParsePort([]byte(a.xml))
	if err != nil {
		return err
	}
	if a.flags&portValidate != 0 {
		if err := unknownElements(doc.Ignored); err != nil {
			return err
		}
	}
	full, err := n.RegisterPort(ctx, doc, a.flags&portReclaim != 0, c.peer.uid)
	if network.KindOf(err) == api.Exists && err != nil {
		return failf(codePortExists, "%s", doc.UUID)
	}
	if err != nil {
		return err
	}
	results.portRef(portRef{refTo(n.Info()), parseUUID(full.UUID)})
	return nil
}

// portFlags is a port with flags.
type portFlags struct {
	portRef
	flags uint32
}

func readPortFlags(d *decoder) portFlags { return portFlags{readPortRef(d), d.uint32()} }

func getPortXML(_ context.Context, c *session, a portFlags, results *encoder) error {
	if err := checkFlags(a.flags, 0, "networkPortGetXMLDesc"); err != nil {
		return err
	}
	_, p, err := c.port(a.portRef)
	if err != nil {
		return err
	}
	results.string(string(p.XML()))
	return nil
}

func deletePort(ctx context.Context, c *session, a portFlags, _ *encoder) error {
	if err := checkFlags(a.flags, 0, "networkPortDelete"); err != nil {
		return err
	}
	_, p, err := c.port(a.portRef)
	if err != nil {
		return err
	}
	return c.backend.ReleasePort(ctx, p.UUID)
}

// getParamsArgs are those of virNetworkPortGetParameters. With a count of 0 the
// caller asks how many there are.
type getParamsArgs struct {
	portRef
	count int32
	flags uint32
}

func readGetParams(d *decoder) getParamsArgs {
	return getParamsArgs{readPortRef(d), d.int32(), d.uint32()}
}

func getPortParams(_ context.Context, c *session, a getParamsArgs, results *encoder) error {
	const asStrings = 4 // VIR_TYPED_PARAM_STRING_OKAY: the caller may be sent strings
	if err := checkFlags(a.flags, asStrings, "networkPortGetParameters"); err != nil {
		return err
	}
	_, p, err := c.port(a.portRef)
	if err != nil {
		return err
	}
	all, has := netdef.LimitNames(), p.Bandwidth.Limits()
	var list []param
	if a.count != 0 {
		for _, name := range all {
			list = append(list, param{name, uint32(min(has[name], math.MaxUint32))})
		}
	}
	results.uints(list)
	results.int32(int32(len(all)))
	return nil
}

// setParamsArgs are those of virNetworkPortSetParameters.
type setParamsArgs struct {
	portRef
	params []param
	flags  uint32
}

func readSetParams(d *decoder) setParamsArgs {
	return setParamsArgs{readPortRef(d), d.params(maxPortParams), d.uint32()}
}

// setPortParams sets limits; one that is not named is none.
func setPortParams(ctx context.Context, c *session, a setParamsArgs, _ *encoder) error {
	if err := checkFlags(a.flags, 0, "networkPortSetParameters"); err != nil {
		return err
	}
	n, p, err := c.port(a.portRef)
	if err != nil {
		return err
	}
	b, err := bandwidthOf(a.params)
	if err != nil {
		return err
	}
	return n.SetPortBandwidth(ctx, p.UUID, b)
}

// bandwidthOf reads limits; nil for none. A direction without average and floor is none,
// whatever else is said of it (networkPortSetParameters).
func bandwidthOf(params []param) (*netdef.Bandwidth, error) {
	limits := make(map[string]uint64)
	for _, p := range params {
		if !slices.Contains(netdef.LimitNames(), p.field) {
			return nil, failf(codeInvalidArg, "parameter '%s' not supported", p.field)
		}
		v, ok := p.value.(uint32)
		if !ok {
			return nil, failf(codeInvalidArg, "invalid type for parameter '%s', expected 'uint'", p.field)
		}
		limits[p.field] = uint64(v)
	}
	for _, direction := range []string{"inbound", "outbound"} {
		if limits[direction+".average"] == 0 && limits[direction+".floor"] == 0 {
			delete(limits, direction+".peak")
			delete(limits, direction+".burst")
		}
	}
	return netdef.NewBandwidth(limits)
}
