package client

import (
	"context"
	"encoding/json"

	"github.com/vnetd/vnetd/pkg/api"
)

// Status returns what vnetd and all networks do.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var s api.Status
	text, err := c.Describe(ctx)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, badReply(managerInterface+".Describe", err)
	}
	return s, nil
}
