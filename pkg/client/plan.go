package client

import (
	"context"
	"encoding/json"

	"github.com/vnetd/vnetd/pkg/api"
)

// Plan tells what a network of that document would be. It touches nothing. A fault
// in the document is ErrInvalid; what is in the network's way is in the plan.
func (c *Client) Plan(ctx context.Context, xml string) (api.Plan, error) {
	var p api.Plan
	var text string
	if err := c.call(ctx, rootPath, managerInterface+".Plan", xml).into(&text); err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, badReply(managerInterface+".Plan", err)
	}
	return p, nil
}
