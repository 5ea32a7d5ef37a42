package firewall

import "context"

// backend is one family's way into the kernel. What goes in and out are rules in
// the form of Rule.Args, whatever the backend makes of them: it is the only part
// that would differ for rules that nft(8) shows as its own.
type backend interface {
	// list reads what the tables hold.
	list(ctx context.Context) (listing, error)
	// apply carries out increments in the form of iptables-restore: "*TABLE",
	// lines of -N, -I, -D and -X, "COMMIT". Each table takes effect as a whole or
	// not at all, in the order of the text. A *RestoreError names the one that
	// failed; those after it are as they were.
	apply(ctx context.Context, increments string) error
}
