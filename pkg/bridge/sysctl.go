package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// netSysctls has a directory per family.
const netSysctls = "/proc/sys/net"

const ipv6Conf = netSysctls + "/ipv6/conf"

// setIPv6 switches IPv6 on a bridge on or off. A bridge never configures itself
// from its guests' router advertisements. On a kernel without IPv6, off is
// success.
func setIPv6(name string, on bool) error {
	dir := filepath.Join(ipv6Conf, name)
	if _, err := os.Stat(ipv6Conf); errors.Is(err, fs.ErrNotExist) && !on {
		return nil
	}
	disable := "1"
	if on {
		disable = "0"
	}
	for _, s := range []struct{ key, value string }{
		{"disable_ipv6", disable},
		{"accept_ra", "0"},
		{"autoconf", "0"},
	} {
		if err := writeSysctl(filepath.Join(dir, s.key), s.value); err != nil {
			return fmt.Errorf("setting IPv6 sysctls: %w", err)
		}
	}
	return nil
}

// writeSysctl sets a sysctl unless it has that value.
func writeSysctl(path, value string) error {
	old, err := readSysctl(path)
	if err != nil || old == value {
		return err
	}
	return os.WriteFile(path, []byte(value), 0)
}

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}
