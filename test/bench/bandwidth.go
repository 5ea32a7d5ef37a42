package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
)

// ratesProgram is the name under which the bench is a program that measures bandwidth at
// the rates of its arguments, in Mbit/s: in a machine of its own, with Debian's kernel.
const ratesProgram = "rates"

// The rates that are measured: on this kernel, and on Debian's under emulation.
var (
	nativeRates   = []float64{1, 10, 100, 1000, 5000}
	emulatedRates = []float64{1, 4}
)

// The cards of two guests, and what a frame of theirs carries: rates are those of frames
// with their Ethernet header.
const (
	rateGuest   = "10.30.0.2"
	rateOther   = "10.30.0.3"
	frameSize   = 1514
	tcpPayload  = frameSize - 14 - 20 - 32 // with time stamps
	udpPayload  = frameSize - 14 - 20 - 8
	rateSeconds = 10
)

// bandwidth prints what a guest gets of what is asked for, on this kernel and on Debian's.
func bandwidth(b *bench) {
	b.printf("\nThis kernel:\n")
	b.play(func(b *bench) { b.printf("%s", ratesTable(b, nativeRates)) })
	b.printf("\nDebian's kernel, emulated:\n")
	b.play(func(b *bench) { b.printf("%s", emulatedTable(b, emulatedRates)) })
}

// emulatedTable is the table of a machine with Debian's kernel.
func emulatedTable(b *bench, rates []float64) string {
	modules := []string{
		"llc", "stp", "bridge", "veth", "nfnetlink", "libcrc32c", "nf_tables", "nf_dup_netdev", "nft_fwd_netdev",
		"ifb", "sch_htb", "sch_sfq", "sch_ingress", "cls_u32", "cls_fw", "act_police",
	}
	m := nstest.BootGuest(b, nstest.GuestConfig{
		Name: ratesProgram, Memory: 512, CPUs: 2,
		Initrd: nstest.GuestInitrd(b, nstest.GuestFiles{Programs: []string{"ip", "tc", "nft", "iperf3", "ss", b.self(ratesProgram)}, Modules: modules}),
	})
	command := "mkdir -p /run/netns && for i in " + strings.Join(modules, " ") + "; do insmod /modules/$i.ko || exit 1; done && " + ratesProgram
	for _, rate := range rates {
		command += fmt.Sprintf(" %g", rate)
	}
	out, status, err := m.Run(b.Context(), command)
	if err != nil || status != 0 {
		b.Fatalf("measuring on Debian's kernel: status %d, %v\n%s", status, err, out)
	}
	return out
}

// measureRates is the program.
func measureRates(args []string) int {
	var rates []float64
	for _, arg := range args {
		rate, err := strconv.ParseFloat(arg, 64)
		if err != nil || rate <= 0 {
			return 2
		}
		rates = append(rates, rate)
	}
	err := nstest.Play(context.Background(), os.Stderr, func(t nstest.TB) { fmt.Print(ratesTable(t, rates)) })
	if err != nil {
		return 1
	}
	return 0
}

// holder holds a device to a rate of bytes a second in both directions, and lets it go.
type holder struct {
	name string
	hold func(device string, rate uint64) error
	free func(device string) error
}

// ratesTable measures each rate as vnetd and as libvirt hold a port to it.
func ratesTable(t nstest.TB, rates []float64) string {
	nstest.IP(t, "link add "+bridge+" type bridge")
	nstest.IP(t, "link set "+bridge+" up")
	t.Cleanup(func() { nstest.IP(t, "link del "+bridge) })
	guest, other := nstest.Guest(t, bridge, "guest", ""), nstest.Guest(t, bridge, "other", "")
	guest.IP("addr add " + rateGuest + "/24 dev " + guestLink)
	other.IP("addr add " + rateOther + "/24 dev " + guestLink)
	shaper, err := tc.New()
	if err != nil {
		t.Fatalf("speaking with the kernel: %w", err)
	}
	t.Cleanup(shaper.Close)
	rows, notes := new(table), ""
	rows.add("asked", "by", "direction", "TCP got", "CPU", "UDP got", "CPU")
	both := func(asked string, h holder, rate float64) {
		err := h.hold("v-guest", uint64(rate*1e6/8))
		if err != nil {
			notes = fmt.Sprintf("  as %s does, it can't be done here: %s\n", h.name, strings.TrimSpace(err.Error()))
		} else {
			rows.add(append([]string{asked, h.name, "to guest"}, got(t, guest, other, rateGuest, rate)...)...)
			rows.add(append([]string{asked, h.name, "from guest"}, got(t, other, guest, rateOther, rate)...)...)
		}
		if err := h.free("v-guest"); err != nil {
			t.Fatalf("letting the guest go: %w", err)
		}
	}
	nothing := func(string) error { return nil }
	both("no limit", holder{"-", func(string, uint64) error { return nil }, nothing}, 0)
	for _, rate := range rates {
		both(fmt.Sprintf("%g Mbit/s", rate), vnetdHolder(shaper), rate)
		both(fmt.Sprintf("%g Mbit/s", rate), libvirtHolder(), rate)
	}
	return rows.String() + notes
}

// vnetdHolder holds as vnetd does.
func vnetdHolder(s *tc.Shaper) holder {
	become := func(device string, cfg tc.Config) error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		changes, err := s.Compare(link.Index, device, cfg)
		for _, c := range changes {
			if err == nil {
				err = c.Mend()
			}
		}
		return err
	}
	return holder{
		"vnetd",
		func(device string, rate uint64) error {
			r := &tc.Rate{Average: rate}
			return become(device, tc.Config{Egress: r, Ingress: r})
		},
		func(device string) error { return become(device, tc.Config{}) },
	}
}

// libvirtHolder holds as libvirt's virNetDevBandwidthSet does, by its commands of tc(8).
func libvirtHolder() holder {
	return holder{
		"libvirt",
		func(device string, rate uint64) error {
			average, burst := fmt.Sprintf("%dkbps", rate/1000), fmt.Sprintf("%dkb", min(rate/1000, 1<<22-1))
			quantum := strconv.FormatUint(max(rate/1000*1024/8/1500, 1), 10)
			return batch(
				"qdisc add dev "+device+" root handle 1: htb default 1",
				"class add dev "+device+" parent 1: classid 1:1 htb rate "+average+" quantum "+quantum,
				"qdisc add dev "+device+" parent 1:1 handle 2: sfq perturb 10",
				"filter add dev "+device+" parent 1:0 protocol all prio 1 handle 1 fw flowid 1",
				"qdisc add dev "+device+" ingress",
				"filter add dev "+device+" parent ffff: protocol all u32 match u32 0 0 police rate "+average+" burst "+burst+" mtu 64kb drop flowid :1",
			)
		},
		func(device string) error {
			_ = batch("qdisc del dev " + device + " root")
			_ = batch("qdisc del dev " + device + " ingress")
			return nil
		},
	}
}

// batch runs commands of tc(8).
func batch(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("tc", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("tc %s: %s", command, out)
		}
	}
	return nil
}

// got is what gets through from a client to a server, by TCP and by UDP of twice the rate
// (0: as much as can be), and how much of a processor both took, with what the kernel did for them.
func got(t nstest.TB, server, client *nstest.NS, address string, rate float64) (cells []string) {
	for _, load := range []struct {
		payload float64
		args    []string
	}{
		{tcpPayload, nil},
		{udpPayload, []string{"-u", "-b", strconv.FormatFloat(2e6*rate, 'f', 0, 64), "-l", strconv.Itoa(udpPayload)}},
	} {
		arrives := arriving(t, server)
		bits, cpu := iperf(t, server, client, append([]string{"-c", address, "-J", "-t", strconv.Itoa(rateSeconds)}, load.args...))
		mbit := bits * frameSize / load.payload / 1e6
		if load.args != nil {
			// What its socket has no room for has got through all the same.
			mbit = <-arrives * 8 / 1e6
		}
		text := fmt.Sprintf("%.2f", mbit)
		if rate > 0 {
			text += fmt.Sprintf(" (%+.1f %%)", (mbit/rate-1)*100)
		}
		cells = append(cells, text, fmt.Sprintf("%.1f %%", cpu))
	}
	return cells
}

// arriving is how many bytes a second come to the card of a guest while a load runs that
// is about to begin.
func arriving(t nstest.TB, guest *nstest.NS) <-chan float64 {
	rate := make(chan float64, 1)
	go func() {
		time.Sleep(rateSeconds * time.Second / 4)
		began, before := time.Now(), received(t, guest)
		time.Sleep(rateSeconds * time.Second / 2)
		rate <- float64(received(t, guest)-before) / time.Since(began).Seconds()
	}()
	return rate
}

// received is how many bytes the card of a guest has received.
func received(t nstest.TB, guest *nstest.NS) uint64 {
	text := guest.Exec("cat", "/sys/class/net/"+guestLink+"/statistics/rx_bytes")
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatalf("reading the counter of a card: %w", err)
	}
	return n
}

// iperf is how many bits a second a server has got, and how much of a processor it and
// the client took, in percent.
func iperf(t nstest.TB, server, client *nstest.NS, args []string) (bits, cpu float64) {
	serve := server.Command(t.Context(), "iperf3", "-s", "-1")
	if err := serve.Start(); err != nil {
		t.Fatalf("starting a server: %w", err)
	}
	defer func() { _ = serve.Wait() }()
	nstest.Eventually(t, time.Minute, "a server", func() error {
		return server.Command(t.Context(), "sh", "-c", "ss -ltn | grep -q :5201").Run()
	})
	var report struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			CPU struct {
				Client float64 `json:"host_total"`
				Server float64 `json:"remote_total"`
			} `json:"cpu_utilization_percent"`
		} `json:"end"`
	}
	if out := client.Exec("iperf3", args...); json.Unmarshal([]byte(out), &report) != nil {
		t.Fatalf("iperf3 says %s", out)
	}
	return report.End.Received.Bits, report.End.CPU.Client + report.End.CPU.Server
}
