package libvirtcorpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// newer is the release of Debian that is looked into beside the machine's own:
// its libvirt tests more of the schema than that of Debian 12.
const newer = "trixie"

// apt runs apt's programs with lists and caches of their own below dir.
type apt struct{ dir string }

// download fetches the original sources of the newest version that can be had
// into dir, and returns the file.
func download(ctx context.Context, dir string) (string, error) {
	a := apt{dir}
	if err := a.setUp(ctx); err != nil {
		return "", err
	}
	// One source that can't be read must not hide the others: it only matters
	// if nothing is found.
	_, err := a.run(ctx, "apt-get", "--quiet=2", "-o", "APT::Update::Error-Mode=any", "update")
	errs := []error{err}
	versions, err := a.versions(ctx)
	if err != nil {
		return "", errors.Join(append(errs, err)...)
	}
	for _, version := range versions {
		_, err := a.run(ctx, "apt-get", "--quiet=2", "source", "--download-only", "--tar-only", "libvirt="+version)
		if files, _ := filepath.Glob(filepath.Join(dir, "libvirt_*.orig.tar.*")); err == nil && len(files) > 0 {
			return files[0], nil
		}
		errs = append(errs, fmt.Errorf("fetching version %s: %w", version, err))
	}
	return "", errors.Join(errs...)
}

// run runs a program of apt. Options on the command line go before all files of
// configuration.
func (a apt) run(ctx context.Context, name string, args ...string) (string, error) {
	options := []string{
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=" + filepath.Join(a.dir, "sources.list.d"),
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "APT::Sandbox::User=", // the directory is not the sandbox's
	}
	return run(ctx, a.dir, name, append(options, args...)...)
}

// versions returns the versions of the source package, newest first.
func (a apt) versions(ctx context.Context) ([]string, error) {
	out, err := a.run(ctx, "apt-cache", "showsrc", "--only-source", "libvirt")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^Version: (\S+)$`).FindAllStringSubmatch(out, -1) {
		list = append(list, m[1])
	}
	if len(list) == 0 {
		return nil, errors.New("the machine's package sources have no source package libvirt")
	}
	slices.SortFunc(list, func(x, y string) int {
		if _, err := run(ctx, a.dir, "dpkg", "--compare-versions", x, "lt", y); err == nil {
			return 1
		}
		return -1
	})
	return slices.Compact(list), nil
}

// setUp writes the machine's list of package sources as one of source packages.
func (a apt) setUp(ctx context.Context) error {
	for _, dir := range []string{"sources.list.d", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	out, err := run(ctx, a.dir, "apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
	if err != nil {
		return err
	}
	place := regexp.MustCompile(`LIST='(.*)'\nPARTS='(.*)'`).FindStringSubmatch(out)
	if place == nil {
		return fmt.Errorf("apt-config does not say where the package sources are: %q", out)
	}
	files, err := filepath.Glob(filepath.Join(place[2], "*"))
	if err != nil {
		return err
	}
	own, err := codename()
	if err != nil {
		return err
	}
	for _, file := range append(files, place[1]) {
		if err := a.addSources(file, own); err != nil {
			return err
		}
	}
	return nil
}

// codename returns that of the machine's release.
func codename() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\S+)$`).FindSubmatch(text)
	if m == nil {
		return "", errors.New("/etc/os-release has no VERSION_CODENAME")
	}
	return string(m[1]), nil
}

// addSources writes one file of package sources, in either format of
// sources.list(5), as one of source packages. A source of the release own also
// becomes one of the newer release.
func (a apt) addSources(file, own string) error {
	rewrite := map[string]func(line, own string) string{".list": oneLine, ".sources": deb822}[filepath.Ext(file)]
	if rewrite == nil {
		return nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		b.WriteString(rewrite(strings.TrimSuffix(line, "\n"), own) + "\n")
	}
	return os.WriteFile(filepath.Join(a.dir, "sources.list.d", filepath.Base(file)), []byte(b.String()), 0o644)
}

// deb822 rewrites a line of a stanza.
func deb822(line, own string) string {
	field, val, _ := strings.Cut(line, ":")
	switch {
	case field == "Types":
		return "Types: deb-src"
	case field == "Suites" && slices.Contains(strings.Fields(val), own) && own != newer:
		return line + " " + newer
	}
	return line
}

// oneLine rewrites a line "deb [options] URI suite components".
func oneLine(line, own string) string {
	m := regexp.MustCompile(`^\s*deb(?:-src)?\s+((?:\[[^\]]*\]\s+)?\S+)\s+(\S+)\s+(.*)$`).FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	lines := fmt.Sprintf("deb-src %s %s %s", m[1], m[2], m[3])
	if m[2] == own && own != newer {
		lines += fmt.Sprintf("\ndeb-src %s %s %s", m[1], newer, m[3])
	}
	return lines
}
