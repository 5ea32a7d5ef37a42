package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/vnetd/vnetd/pkg/client"
)

// A launcher asks for a port with two queues, gives its files to QEMU, and waits
// until the guest has an address. The port ends with QEMU, however that ends.
//
// The guest is a kernel and an initramfs in the working directory.
func Example() {
	ctx := context.Background()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	port, err := c.RequestPort(ctx, "default", client.PortOptions{Name: "web1", Queues: 2, VnetHdr: true})
	if err != nil {
		log.Fatal(err)
	}
	qemu := exec.Command("qemu-system-x86_64", "-m", "256", "-smp", "2", "-nographic", "-nodefaults",
		"-kernel", "vmlinuz", "-initrd", "initramfs.gz", "-append", "quiet",
		"-netdev", "tap,id=n0,fds=3:4", // the first extra file is descriptor 3
		"-device", "virtio-net-pci,netdev=n0,romfile=,mq=on,vectors=6,mac="+port.Info.MAC)
	qemu.ExtraFiles, qemu.Stderr = port.Files, os.Stderr
	if err := qemu.Start(); err != nil {
		log.Fatal(err)
	}
	_ = port.Close() // QEMU has its own copies: the port lives until it ends
	addrs, err := port.WaitForAddress(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the guest has", addrs)
	log.Fatal(qemu.Wait())
}
