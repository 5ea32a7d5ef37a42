package nstest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
)

// busAddress is where the system bus of the namespaces listens: the standard
// place, in the private /run.
const busAddress = "unix:path=/run/dbus/system_bus_socket"

// BusConfig lets everybody own and call everything. Without receive_sender
// clients are told that the transport endpoint is not connected.
const BusConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>` + busAddress + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`

// Bus is a system bus.
type Bus struct {
	cmd *exec.Cmd
}

// StartBus starts a system bus for the test's namespaces, ended with the test,
// and points DBUS_SYSTEM_BUS_ADDRESS of this process and its children to it. It
// accepts connections when StartBus returns.
func StartBus(t TB) *Bus {
	t.Helper()
	b := new(Bus)
	if err := b.start(); err != nil {
		t.Fatalf("starting the system bus: %v", err)
	}
	t.Cleanup(b.end)
	return b
}

// Restart ends the bus, with all connections to it, and starts another one.
func (b *Bus) Restart() error {
	b.end()
	return b.start()
}

// end kills the bus.
func (b *Bus) end() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

func (b *Bus) start() error {
	if err := os.MkdirAll("/run/dbus", 0o755); err != nil {
		return err
	}
	const config = "/run/dbus/bus.conf"
	if err := os.WriteFile(config, []byte(BusConfig), 0o644); err != nil {
		return err
	}
	address, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = address.Close() }()
	cmd := exec.Command("dbus-daemon", "--nofork", "--nopidfile", "--config-file="+config, "--print-address=3")
	complaints := new(syncBuffer)
	cmd.Stderr = complaints
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	b.cmd = cmd
	// The address is printed when the bus listens.
	if _, err := bufio.NewReader(address).ReadString('\n'); err != nil {
		return fmt.Errorf("it did not say where it listens: %w\n%s", err, complaints)
	}
	// For every user, whatever the umask is.
	if err := os.Chmod("/run/dbus/system_bus_socket", 0o777); err != nil {
		return err
	}
	return os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", busAddress)
}
