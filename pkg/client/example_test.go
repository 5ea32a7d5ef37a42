package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// A launcher asks for a port and gives its file to the machine. Here a fake
// vnetd answers; a launcher leaves startVnetd out.
func Example() {
	defer startVnetd()()
	ctx := context.Background()

	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	port, err := c.RequestPort(ctx, "lab", client.PortOptions{Name: "web1", VnetHdr: true})
	if err != nil {
		log.Fatal(err)
	}
	defer port.Close()

	// The first extra file is descriptor 3 of the new process.
	qemu := exec.Command("qemu-system-x86_64",
		"-netdev", "tap,id=n0,fd=3",
		"-device", "virtio-net-pci,netdev=n0,mac="+port.Info.MAC.String())
	qemu.ExtraFiles = port.Files

	fmt.Println("port", port.Info.IfName, "on", port.Info.Network)
	fmt.Println(qemu.Args[len(qemu.Args)-1])
	// Output:
	// port vnet0 on lab
	// virtio-net-pci,netdev=n0,mac=00:00:5e:00:53:01
}

// startVnetd starts a fake vnetd with the active network lab.
func startVnetd() (stop func()) {
	s, err := clienttest.Start()
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", s.Address); err != nil {
		log.Fatal(err)
	}
	c, err := client.Dial(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CreateNetwork(context.Background(), labXML); err != nil {
		log.Fatal(err)
	}
	return func() {
		if err := s.Close(); err != nil {
			log.Print(err)
		}
	}
}
