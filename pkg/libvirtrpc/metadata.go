package libvirtrpc

import (
	"context"
	"errors"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// The kinds of metadata (virNetworkMetadataType).
const (
	metadataDescription = 0
	metadataTitle       = 1
	metadataElement     = 2
)

// setMetadataArgs are those of virNetworkSetMetadata. A nil text removes.
type setMetadataArgs struct {
	ref
	kind              int32
	text, prefix, uri *string
	flags             uint32
}

func readSetMetadata(d *decoder) setMetadataArgs {
	return setMetadataArgs{readRef(d), d.int32(), d.optString(), d.optString(), d.optString(), d.uint32()}
}

func setMetadata(ctx context.Context, c *session, a setMetadataArgs, _ *encoder) error {
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	target, err := targetOf(n, a.flags, "networkSetMetadata")
	if err != nil {
		return err
	}
	edit := func(doc *netdef.Network) error { return errors.Join(a.apply(doc), doc.Validate()) }
	if err := n.Edit(ctx, target, edit); err != nil {
		return err
	}
	about := refTo(n.Info())
	for _, other := range c.all.everybody() {
		other.tell(eventMetadata, procEventMetadata, about, func(e *encoder) {
			e.int32(a.kind)
			e.optString(a.uri)
		})
	}
	return nil
}

// apply changes the metadata of a document.
func (a setMetadataArgs) apply(doc *netdef.Network) error {
	switch a.kind {
	case metadataDescription:
		doc.Description = orEmpty(a.text)
	case metadataTitle:
		if strings.Contains(orEmpty(a.text), "\n") {
			return failf(codeInvalidArg, "Title can't contain newlines")
		}
		doc.Title = orEmpty(a.text)
	case metadataElement:
		if orEmpty(a.uri) == "" {
			return failf(codeInvalidArg, "metadata needs the URI of its namespace")
		}
		return doc.SetMetadata(orEmpty(a.uri), orEmpty(a.prefix), orEmpty(a.text))
	default:
		return failf(codeInvalidArg, "unknown metadata type %d", a.kind)
	}
	return nil
}

// orEmpty is what s points to.
func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// getMetadataArgs are those of virNetworkGetMetadata.
type getMetadataArgs struct {
	ref
	kind  int32
	uri   *string
	flags uint32
}

func readGetMetadata(d *decoder) getMetadataArgs {
	return getMetadataArgs{readRef(d), d.int32(), d.optString(), d.uint32()}
}

func getMetadata(_ context.Context, c *session, a getMetadataArgs, results *encoder) error {
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	target, err := targetOf(n, a.flags, "networkGetMetadata")
	if err != nil {
		return err
	}
	text, err := documentOf(n, target&network.TargetConfig != 0)
	if err != nil {
		return err
	}
	doc, err := netdef.Parse(text)
	if err != nil {
		return err
	}
	var found string
	switch a.kind {
	case metadataDescription:
		found = doc.Description
	case metadataTitle:
		found = doc.Title
	case metadataElement:
		found = doc.MetadataOf(orEmpty(a.uri))
	default:
		return failf(codeInvalidArg, "unknown metadata type %d", a.kind)
	}
	if found == "" {
		return failf(codeNoMetadata, "Requested metadata element is not present")
	}
	results.string(found)
	return nil
}
