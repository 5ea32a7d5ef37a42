package nstest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// GuestFiles is what a guest has beside its busybox.
type GuestFiles struct {
	Programs []string          // of this machine, with the libraries they need, for /bin
	Modules  []string          // of the guest's kernel, for /modules; they are not loaded
	Texts    map[string]string // files by their path in the guest
}

// GuestInitrd packs an initial file system with those files, for
// GuestConfig.Initrd. It is gone when the test ends.
func GuestInitrd(t TB, files GuestFiles) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest-")
	if err != nil {
		t.Fatalf("making a folder: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "initrd")
	if err := files.pack(filepath.Join(dir, "root"), path); err != nil {
		t.Fatalf("packing files for a guest: %v", err)
	}
	return path
}

// pack writes the guest's usual archive to path and one with the files behind it,
// which the kernel unpacks one after the other. The second isn't compressed and
// has to begin at a multiple of four bytes
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func (f GuestFiles) pack(root, path string) error {
	top, err := Root()
	if err != nil {
		return err
	}
	guest := filepath.Join(top, ".cache", "guest")
	if err := f.lay(guest, root); err != nil {
		return err
	}
	archive, err := os.ReadFile(filepath.Join(guest, "initramfs.gz"))
	if err != nil {
		return fmt.Errorf("no guest to boot, run test/deps.sh: %w", err)
	}
	cpio := exec.Command("sh", "-c", "find . | cpio --quiet -o -H newc -R 0:0")
	cpio.Dir, cpio.Stderr = root, os.Stderr
	own, err := cpio.Output()
	if err != nil {
		return fmt.Errorf("running cpio: %w", err)
	}
	archive = append(archive, make([]byte, -len(archive)&3)...)
	return os.WriteFile(path, append(archive, own...), 0o600)
}

// lay puts the files below root.
func (f GuestFiles) lay(guest, root string) error {
	for _, program := range f.Programs {
		if err := layProgram(root, program); err != nil {
			return err
		}
	}
	for _, name := range f.Modules {
		file, err := findModule(filepath.Join(guest, "linux"), name+".ko")
		if err != nil {
			return err
		}
		if err := copyFile(file, filepath.Join(root, "modules", name+".ko")); err != nil {
			return err
		}
	}
	for name, text := range f.Texts {
		if err := writeFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// library is a path in what ldd(1) prints.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// layProgram puts a program into /bin, and its libraries where they are here.
func layProgram(root, program string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return err
	}
	if err := copyFile(path, filepath.Join(root, "bin", filepath.Base(path))); err != nil {
		return err
	}
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("not a dynamic executable")) {
		return fmt.Errorf("finding the libraries of %s: %w: %s", path, err, out)
	}
	for _, match := range library.FindAllStringSubmatch(string(out), -1) {
		if err := copyFile(match[1], filepath.Join(root, match[1])); err != nil {
			return err
		}
	}
	return nil
}

// findModule finds a module of the guest's kernel.
func findModule(linux, file string) (path string, err error) {
	err = filepath.WalkDir(linux, func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == file {
			path, err = at, fs.SkipAll
		}
		return err
	})
	if err == nil && path == "" {
		err = fmt.Errorf("the kernel of the guests has no module %s", file)
	}
	return path, err
}

// copyFile copies a file, which may then be executed by all.
func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return writeFile(to, data, 0o755)
}

// writeFile writes a file and makes its folder.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
