package libvirtrpc

import (
	"context"
	"errors"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/schema"
)

// document is a document with flags.
type document struct {
	xml   string
	flags uint32
}

func readDocument(d *decoder) document { return document{d.string(), d.uint32()} }

// validate is the flag that has a document held to the schema.
const validate = 1

// checkDocument refuses flags that are not known, and, where that is asked for,
// a document that is not as the schema has it.
func checkDocument(doc document, function string) error {
	if err := checkFlags(doc.flags, validate, function); err != nil {
		return err
	}
	if doc.flags&validate == 0 {
		return nil
	}
	err := schema.Check([]byte(doc.xml))
	if faults, ok := errors.AsType[netdef.Faults](err); ok && faults[0].Path != "" {
		return &Error{codeSchema, domainXML, faults.Error()}
	}
	return err // what is no XML is no matter of the schema
}

// unknownElements is the error of a document that has what the schema has not.
func unknownElements(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	return &Error{codeSchema, domainXML, "not in the schema: " + strings.Join(paths, ", ")}
}

func defineXML(ctx context.Context, c *session, xml string, results *encoder) error {
	return defineXMLFlags(ctx, c, document{xml: xml}, results)
}

func defineXMLFlags(ctx context.Context, c *session, doc document, results *encoder) error {
	if err := checkDocument(doc, "networkDefineXMLFlags"); err != nil {
		return err
	}
	return made(results)(c.backend.Define(ctx, []byte(doc.xml)))
}

func createXML(ctx context.Context, c *session, xml string, results *encoder) error {
	return createXMLFlags(ctx, c, document{xml: xml}, results)
}

func createXMLFlags(ctx context.Context, c *session, doc document, results *encoder) error {
	if err := checkDocument(doc, "networkCreateXMLFlags"); err != nil {
		return err
	}
	return made(results)(c.backend.Create(ctx, []byte(doc.xml)))
}

// made writes the network that a call has made.
func made(results *encoder) func(Network, error) error {
	return func(n Network, err error) error {
		if err == nil {
			results.ref(refTo(n.Info()))
		}
		return err
	}
}

func start(ctx context.Context, n Network, _ *encoder) error {
	if n.Info().Active {
		return failf(codeInvalidState, "network is already active")
	}
	return n.Start(ctx)
}

func stop(ctx context.Context, n Network, _ *encoder) error {
	if err := mustBeActive(n); err != nil {
		return err
	}
	return n.Stop(ctx)
}

func undefine(ctx context.Context, n Network, _ *encoder) error {
	if !n.Info().Persistent {
		return failf(codeInvalidState, "can't undefine transient network")
	}
	return n.Undefine(ctx)
}

// mustBeActive refuses an inactive network.
func mustBeActive(n Network) error {
	if info := n.Info(); !info.Active {
		return failf(codeInvalidState, "network '%s' is not active", info.Name)
	}
	return nil
}

func isActive(_ context.Context, n Network, results *encoder) error {
	results.flag(n.Info().Active)
	return nil
}

func isPersistent(_ context.Context, n Network, results *encoder) error {
	results.flag(n.Info().Persistent)
	return nil
}

func getAutostart(_ context.Context, n Network, results *encoder) error {
	results.flag(n.Info().Autostart)
	return nil
}

// networkValue is a network with a number: flags, or a boolean.
type networkValue struct {
	ref
	value uint32
}

func readNetworkFlags(d *decoder) networkValue { return networkValue{readRef(d), d.uint32()} }
func readNetworkValue(d *decoder) networkValue { return networkValue{readRef(d), d.uint32()} }

func setAutostart(_ context.Context, c *session, a networkValue, _ *encoder) error {
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	if !n.Info().Persistent {
		return failf(codeInvalidState, "cannot set autostart for transient network")
	}
	return n.SetAutostart(a.value != 0)
}

func getBridgeName(_ context.Context, n Network, results *encoder) error {
	info := n.Info()
	if info.Bridge == "" {
		return failf(codeInternal, "network '%s' does not have a bridge name.", info.Name)
	}
	results.string(info.Bridge)
	return nil
}

func getXMLDesc(_ context.Context, c *session, a networkValue, results *encoder) error {
	const inactive = 1 // VIR_NETWORK_XML_INACTIVE
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	if err := checkFlags(a.value, inactive, "networkGetXMLDesc"); err != nil {
		return err
	}
	text, err := documentOf(n, a.value&inactive != 0)
	if err != nil {
		return err
	}
	results.string(string(text))
	return nil
}

// documentOf is n's document, which it has not any more when it has gone meanwhile.
func documentOf(n Network, inactive bool) ([]byte, error) {
	text := n.XML(inactive)
	if len(text) == 0 {
		return nil, failf(codeNoNetwork, "no network with matching name '%s'", n.Info().Name)
	}
	return text, nil
}

// updateArgs are those of virNetworkUpdate.
type updateArgs struct {
	ref
	netdef.Update
	flags uint32
}

func readUpdate(d *decoder) updateArgs {
	return updateArgs{
		ref: readRef(d),
		Update: netdef.Update{
			Command: netdef.Command(d.uint32()), Section: netdef.Section(d.uint32()),
			Index: int(d.int32()), XML: []byte(d.string()),
		},
		flags: d.uint32(),
	}
}

func updateNetwork(ctx context.Context, c *session, a updateArgs, _ *encoder) error {
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	target, err := targetOf(n, a.flags, "networkUpdate")
	if err != nil {
		return err
	}
	return n.Update(ctx, a.Update, target)
}
