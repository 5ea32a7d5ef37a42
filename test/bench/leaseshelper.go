package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// This file stands in for libvirt_leaseshelper, the program that libvirt has
// dnsmasq run at every change of a lease: it reads all leases of the network
// from a file, changes one and writes them all back, durably.

// leasesHelper is the name under which the bench is that program.
const leasesHelper = "leaseshelper"

// envLeases names the file.
const envLeases = "BENCH_LEASES"

// helperLease is a lease in the file, with the keys that libvirt uses.
type helperLease struct {
	IP       string `json:"ip-address"`
	MAC      string `json:"mac-address"`
	Hostname string `json:"hostname,omitempty"`
	ClientID string `json:"client-id,omitempty"`
	Expires  string `json:"expiry-time"`
}

func leasesFile(dir string) string { return filepath.Join(dir, "leases.json") }

// installLeasesHelper makes the program in dir and returns its path.
func installLeasesHelper(b *bench, dir string) string {
	self, err := os.Executable()
	if err != nil {
		b.Fatalf("finding the bench's program: %w", err)
	}
	path := filepath.Join(dir, leasesHelper)
	if err := os.Symlink(self, path); err != nil {
		b.Fatalf("installing the leases helper: %w", err)
	}
	return path
}

// helpLeases is the program: dnsmasq runs it with an action, a MAC address, an
// IP address and perhaps a host name. It returns the exit code.
func helpLeases(args []string) int {
	if len(args) == 1 && args[0] == "init" {
		return printLeases()
	}
	if len(args) < 3 || !slices.Contains([]string{"add", "old", "del"}, args[0]) {
		return 0
	}
	lease := helperLease{IP: args[2], MAC: args[1], ClientID: os.Getenv("DNSMASQ_CLIENT_ID"), Expires: os.Getenv("DNSMASQ_LEASE_EXPIRES")}
	if len(args) > 3 {
		lease.Hostname = args[3]
	}
	if err := rewriteLeases(os.Getenv(envLeases), lease, args[0] == "del"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// printLeases tells dnsmasq, which keeps none itself, what leases there are.
func printLeases() int {
	leases, err := readLeases(os.Getenv(envLeases))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, l := range leases {
		fmt.Println(l.Expires, l.MAC, l.IP, "*", "*")
	}
	return 0
}

// writeHelperLeases makes a file with so many leases.
func writeHelperLeases(b *bench, path string, leases int) {
	all := make([]helperLease, 0, leases)
	for n := range leases {
		mac := clientMAC(n)
		all = append(all, helperLease{
			IP: held(rangeStart, n).String(), MAC: net.HardwareAddr(mac[:]).String(), Expires: strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10),
		})
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		b.Fatalf("writing leases: %w", err)
	}
	b.write(path, string(data))
}

// rewriteLeases replaces the lease of that address in the file, or deletes it.
func rewriteLeases(path string, lease helperLease, remove bool) error {
	leases, err := readLeases(path)
	if err != nil {
		return err
	}
	leases = slices.DeleteFunc(leases, func(l helperLease) bool { return l.IP == lease.IP })
	if !remove {
		leases = append(leases, lease)
	}
	data, err := json.MarshalIndent(leases, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readLeases reads the file, which may not be there yet.
func readLeases(path string) ([]helperLease, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var leases []helperLease
	return leases, json.Unmarshal(data, &leases)
}

// countHelperLeases counts the leases in the file.
func countHelperLeases(path string) (int, error) {
	leases, err := readLeases(path)
	return len(leases), err
}
