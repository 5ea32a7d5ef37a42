package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// DefaultSysctlDir is one of the directories of sysctl.d(5); what is in
	// it is gone after a reboot, like the sysctls.
	DefaultSysctlDir = "/run/sysctl.d"

	// SysctlFile is the name of vnetd's file in it. Files with a name that
	// sorts later override it, and those of distributions sort earlier.
	SysctlFile = "70-vnetd.conf"

	// sysctlFileLimit is the size of the largest file that is read.
	sysctlFileLimit = 1 << 20
)

const sysctlComment = "# Written by vnetd: what it switched on while networks are active.\n"

// persist adds the sysctls of set, by path, to the file in dir, empty for none, and
// takes those of unset out. Others that are in it stay: a former vnetd set them, and
// they are in effect still.
func persist(dir string, set map[string]string, unset []string) error {
	if dir == "" || len(set)+len(unset) == 0 {
		return nil
	}
	path := filepath.Join(dir, SysctlFile)
	if err := updateSysctlFile(path, set, unset); err != nil {
		return fmt.Errorf("persisting sysctls: %w", err)
	}
	return nil
}

func updateSysctlFile(path string, set map[string]string, unset []string) error {
	data, err := readLimited(path)
	if err != nil {
		return err
	}
	keys := parseSysctlFile(data)
	for p, value := range set {
		keys[fileKey(p)] = value
	}
	for _, p := range unset {
		delete(keys, fileKey(p))
	}
	if len(keys) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return replaceFile(path, formatSysctlFile(keys))
}

// readLimited reads a file; one that isn't there is empty.
func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > sysctlFileLimit:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, sysctlFileLimit)
	}
	return os.ReadFile(path)
}

// replaceFile writes a file so that a reader sees the old one or the new one.
func replaceFile(path string, data []byte) error {
	temp := path + ".new" // sysctl reads *.conf alone
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// fileKey is the key of a path below /proc/sys. sysctl.d(5): with a slash as
// first separator, dots and slashes stay as they are, so that a link's name may
// contain dots.
func fileKey(path string) string { return strings.TrimPrefix(path, "/proc/sys/") }

// parseSysctlFile reads keys and values as formatSysctlFile writes them. Lines
// that it would not write are dropped: the file is vnetd's alone.
func parseSysctlFile(data []byte) map[string]string {
	keys := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		if ok && strings.HasPrefix(key, "net/") && !strings.ContainsAny(key, " \t\r") {
			keys[key] = strings.TrimSpace(value)
		}
	}
	return keys
}

// formatSysctlFile is the file with those keys and values, see sysctl.d(5).
func formatSysctlFile(keys map[string]string) []byte {
	var out strings.Builder
	out.WriteString(sysctlComment)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&out, "%s = %s\n", key, keys[key])
	}
	return []byte(out.String())
}
