// Launch NAME PORT ARGUMENT... starts QEMU with ARGUMENTs and a card on vnetd's network
// default. The guest is NAME there, and PORT of this host leads to its SSH. All of it ends
// with QEMU.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: launch NAME PORT ARGUMENT...")
	}
	if err := launch(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		log.Fatal(err)
	}
}

func launch(name, hostPort string, arguments []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	vnetd, err := client.Dial(ctx)
	if err != nil {
		return err
	}
	port, err := vnetd.RequestPort(ctx, "default", client.PortOptions{
		Name: name, VnetHdr: true, Forwards: []api.ForwardOptions{{Ports: hostPort, ToPort: 22}},
	})
	if err != nil {
		return err
	}
	qemu := exec.Command("qemu-system-x86_64", append(arguments,
		"-netdev", "tap,id=n0,fd=3", "-device", "virtio-net-pci,netdev=n0,mac="+port.Info.MAC)...)
	qemu.Stdin, qemu.Stdout, qemu.Stderr = os.Stdin, os.Stdout, os.Stderr
	qemu.ExtraFiles = port.Files // from descriptor 3 on
	if err := qemu.Start(); err != nil {
		return err
	}
	if err := port.Close(); err != nil { // QEMU has its own: the port lives until it ends
		return err
	}
	if _, err := port.WaitForAddress(ctx); err != nil {
		return err
	}
	fmt.Printf("%s has an address: ssh -p %s 127.0.0.1\n", name, hostPort)
	return qemu.Wait()
}
