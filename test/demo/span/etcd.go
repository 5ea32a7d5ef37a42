package span

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// server is etcd on a host.
type server struct {
	host    *nstest.Host
	program string
	log     string // a file
	cmd     *exec.Cmd
}

// start starts it, with the settings that vnetctl made and the data that it has.
func (e *server) start(t nstest.TB) error {
	log, err := os.OpenFile(e.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// In memory: etcd waits for the disk after each write.
	e.cmd = e.host.Command(context.WithoutCancel(t.Context()), "sh", "-c", `set -a; . /etc/etcd/etcd.env; ETCD_DATA_DIR=/run/etcd exec "$0"`, e.program)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	return e.cmd.Start()
}

// kill ends it with SIGKILL, and waits until it is gone.
func (e *server) kill() {
	_ = e.cmd.Process.Kill() // nsenter and sh execute etcd in their own place
	_ = e.cmd.Wait()
}

// startEtcd makes certificates and starts three servers, which then ask everybody for one.
func (s *Story) startEtcd(ctx context.Context, say story.Say) error {
	program, err := nstest.EtcdProgram()
	if err != nil {
		return err
	}
	initialise := []string{"cluster", "init", "lab"}
	for i := range s.hosts {
		initialise = append(initialise, "--endpoint", "https://"+address(i)+":2379")
	}
	if _, err := s.vnetctl(ctx, say, 0, append(initialise, "--certificates")...); err != nil {
		return err
	}
	for i, h := range s.hosts {
		if err := s.copy(ctx, "/etc/vnetd/cluster/etcd/"+address(i), i, "/etc/etcd"); err != nil {
			return err
		}
		e := &server{host: h, program: program, log: "/run/etcd-" + h.Name + ".log"}
		if err := e.start(s.t); err != nil {
			return fmt.Errorf("starting etcd on %s: %w", h.Name, err)
		}
		s.t.Cleanup(e.kill)
		s.t.Cleanup(func() {
			if s.t.Failed() {
				text, _ := exec.Command("tail", "-n", "20", e.log).Output()
				s.t.Logf("etcd on %s says:\n%s", h.Name, text)
			}
		})
		s.etcd = append(s.etcd, e)
		say("%s# etcd, with /etc/vnetd/cluster/etcd/%s of h1 as its /etc/etcd", h.Name, address(i))
	}
	return s.shows(ctx, say, 0, nil, initialise...)
}

// copy brings files of the first host into a directory of a host, as scp -p does.
func (s *Story) copy(ctx context.Context, from string, host int, to string) error {
	pack := s.hosts[0].Command(ctx, "tar", "-C", from, "-cf", "-", ".")
	unpack := s.hosts[host].Command(ctx, "sh", "-c", `mkdir -p "$1" && tar -C "$1" -xf -`, "sh", to)
	var err error
	if unpack.Stdin, err = pack.StdoutPipe(); err != nil {
		return err
	}
	if err := pack.Start(); err != nil {
		return err
	}
	out, err := unpack.CombinedOutput()
	if err != nil {
		return fmt.Errorf("copying %s to %s: %w: %s", from, s.hosts[host].Name, err, out)
	}
	return pack.Wait()
}

// killEtcd kills all of etcd while one guest pings the other.
func (s *Story) killEtcd(ctx context.Context, say story.Say) error {
	if err := s.anna.beginPing(ctx, ben); err != nil {
		return err
	}
	say("%s# ping %s &", anna, ben)
	for _, e := range s.etcd {
		say("%s# kill -9 %d # etcd", e.host.Name, e.cmd.Process.Pid)
		e.kill()
	}
	for i := range s.hosts {
		if err := s.shows(ctx, func(string, ...any) {}, i, []string{"away since"}, "cluster", "status"); err != nil {
			return err
		}
	}
	if err := s.shows(ctx, say, 0, []string{"away since"}, "cluster", "status"); err != nil {
		return err
	}
	if err := s.find(ctx, say); err != nil {
		return err
	}
	sent, lost, err := s.anna.endPing(ctx)
	if err != nil {
		return err
	}
	say("%s sent %d packets in all this time, and lost %d", anna, sent, lost)
	if lost > 0 {
		return fmt.Errorf("%d of %d packets were lost", lost, sent)
	}
	for _, g := range []*guest{s.anna, s.ben} { // which takes the address away for a moment
		if err := g.renew(ctx, say); err != nil {
			return err
		}
	}
	return nil
}

// startAgain starts etcd, and sees the hosts come back to it.
func (s *Story) startAgain(ctx context.Context, say story.Say) error {
	for _, e := range s.etcd {
		if err := e.start(s.t); err != nil {
			return fmt.Errorf("starting etcd on %s: %w", e.host.Name, err)
		}
		say("%s# etcd", e.host.Name)
	}
	for i := range s.hosts {
		if err := s.shows(ctx, say, i, []string{"reached since"}, "cluster", "status"); err != nil {
			return err
		}
	}
	return s.shows(ctx, say, 0, []string{"h3", s.ben.address}, "where", ben)
}
