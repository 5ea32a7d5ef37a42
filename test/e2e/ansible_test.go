package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// The plays: a network that is there, active, starts with the host and knows a guest,
// and one that is not.
const (
	playThere = `
- hosts: localhost
  gather_facts: false
  tasks:
    - community.libvirt.virt_net: {name: lab, state: present, xml: "{{ xml }}"}
    - community.libvirt.virt_net: {name: lab, state: active}
    - community.libvirt.virt_net: {name: lab, autostart: true}
    - community.libvirt.virt_net:
        name: lab
        command: modify
        xml: "<host mac='FC:C2:33:00:6c:3c' name='db' ip='198.51.100.10'/>"
    - community.libvirt.virt_net: {command: facts}
    - ansible.builtin.assert:
        that:
          - ansible_libvirt_networks.lab.state == 'active'
          - ansible_libvirt_networks.lab.persistent == 'yes'
          - ansible_libvirt_networks.lab.autostart
          - ansible_libvirt_networks.lab.bridge == 'virbr7'
          - ansible_libvirt_networks.lab.forward_mode == 'nat'
`
	playGone = `
- hosts: localhost
  gather_facts: false
  tasks:
    - community.libvirt.virt_net: {name: lab, state: inactive}
    - community.libvirt.virt_net: {name: lab, state: absent}
`
)

// play runs plays, and returns how many of its tasks changed something for each.
func play(t *testing.T, plays string) (changed []int) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "play.yml")
	if err := os.WriteFile(file, []byte(plays), 0o644); err != nil {
		t.Fatal(err)
	}
	variables, err := json.Marshal(map[string]string{"xml": networkDocumentOf("lab", "virbr7", "198.51.100"), "ansible_python_interpreter": "/usr/bin/python3"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ansible-playbook", "-i", "localhost,", "-c", "local", "-e", string(variables), file)
	cmd.Env = append(os.Environ(), "ANSIBLE_STDOUT_CALLBACK=ansible.posix.json", "ANSIBLE_PIPELINING=true", "ANSIBLE_HOME="+dir, "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ansible-playbook: %v\n%s", err, out)
	}
	var said struct {
		Plays []struct {
			Tasks []struct {
				Hosts map[string]struct{ Changed bool }
			}
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("ansible-playbook says %s: %v", out, err)
	}
	for _, p := range said.Plays {
		changed = append(changed, 0)
		for _, task := range p.Tasks {
			if task.Hosts["localhost"].Changed {
				changed[len(changed)-1]++
			}
		}
	}
	return changed
}

// TestAnsible holds that Ansible's module for libvirt's networks makes one, and takes it
// away, and does nothing the second time.
func TestAnsible(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		startForLibvirt(t, l)
		l.StartVirtqemud()
		if got, want := play(t, playThere+playThere+playGone+playGone), []int{4, 0, 2, 0}; !slices.Equal(got, want) {
			t.Errorf("the plays changed %d things, want %d", got, want)
		}
		if n := networks(t); len(n) != 0 {
			t.Errorf("networks are left: %+v", n)
		}
	})
}
