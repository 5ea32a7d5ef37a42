package clienttest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// busConfig is a bus on which everybody may do everything.
const busConfig = `<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`

// Bus is a private message bus.
type Bus struct {
	// Address is what DBUS_SYSTEM_BUS_ADDRESS must be to reach the bus.
	Address string

	dir string
	cmd *exec.Cmd
}

// StartBus starts a message bus and returns when it listens. The caller must
// Close it.
func StartBus() (*Bus, error) {
	// A short path: that of a socket ends after 107 bytes.
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		return nil, err
	}
	b := &Bus{dir: dir}
	if err := b.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting dbus-daemon: %w", err), b.Close())
	}
	return b, nil
}

// start runs dbus-daemon and reads its address.
func (b *Bus) start() error {
	config := filepath.Join(b.dir, "bus.conf")
	text := fmt.Sprintf(busConfig, filepath.Join(b.dir, "bus"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	line, err := bufio.NewReader(stdout).ReadString('\n')
	b.Address = strings.TrimSpace(line)
	if err != nil {
		// Wait ends the copying to stderr.
		return fmt.Errorf("%w: %w: %s", err, cmd.Wait(), stderr.Bytes())
	}
	return nil
}

// Close ends the bus; everybody on it loses the connection.
func (b *Bus) Close() error {
	if b.cmd != nil {
		// The bus has nothing to save, and a kill is not a failure.
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
	return os.RemoveAll(b.dir)
}
