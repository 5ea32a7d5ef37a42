// Command vnet-bgp announces networks by BGP for vnetd(8), which runs it where vnetd.toml has a
// [bgp]: orders come on standard input, reports go to standard output, as package bgp has them.
package main

import (
	"os"

	"github.com/vnetd/vnetd/pkg/bgp/speaker"
)

func main() {
	if err := speaker.Run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		os.Exit(1)
	}
}
