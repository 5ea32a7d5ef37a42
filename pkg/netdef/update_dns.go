package netdef

import "slices"

// updateDNS lets edit change <dns>. One that is left without anything to say
// is no more.
func (up *updater) updateDNS(edit func(*DNS) error) error {
	if up.n.DNS == nil {
		up.n.DNS = &DNS{}
	}
	d := up.n.DNS
	if err := edit(d); err != nil {
		return err
	}
	if d.silent() {
		up.n.DNS = nil
	}
	return nil
}

// dnsHost updates the <host>s of <dns>: virNetworkDefUpdateDNSHost. The address
// identifies one; to be deleted, any of its names does too.
func (up *updater) dnsHost(e element) error {
	h := e.dnsHost()
	if !h.IP.IsValid() && len(up.faults) == 0 && (up.Command != CommandDelete || len(h.Hostnames) == 0) {
		up.faults.add("host/@ip", "", "missing, want an IP address")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *DNSHost) bool { return sameAddr(h.IP, o.IP) }
	named := func(o *DNSHost) bool {
		return same(o) || slices.ContainsFunc(h.Hostnames, func(name string) bool { return slices.Contains(o.Hostnames, name) })
	}
	return up.updateDNS(func(d *DNS) (err error) {
		r := rule[DNSHost]{conflict: same, modify: same, remove: named, unique: true}
		d.Hosts, err = change(up, d.Hosts, h, r, (*printer).dnsHost)
		return err
	})
}

// dnsTXT updates the <txt>s: virNetworkDefUpdateDNSTxt. The name identifies one.
func (up *updater) dnsTXT(e element) error {
	t := TXT{Name: e.str("name")}
	if up.Command != CommandDelete {
		t = e.txt()
	}
	if t.Name == "" {
		up.faults.add("txt/@name", "", "missing, want the name of the record")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *TXT) bool { return o.Name == t.Name }
	return up.updateDNS(func(d *DNS) (err error) {
		d.TXT, err = change(up, d.TXT, t, rule[TXT]{conflict: same, modify: same, remove: same}, (*printer).txt)
		return err
	})
}

// dnsSRV updates the <srv>s: virNetworkDefUpdateDNSSrv. One matches that has
// every name that is given; port, priority and weight don't count. Where libvirt
// is new enough the only one that matches can be replaced, as here.
func (up *updater) dnsSRV(e element) error {
	s := e.srv()
	if err := up.readable(); err != nil {
		return err
	}
	matches := func(o *SRV) bool {
		return (s.Service == "" || s.Service == o.Service) && (s.Protocol == "" || s.Protocol == o.Protocol) &&
			(s.Domain == "" || s.Domain == o.Domain) && (s.Target == "" || s.Target == o.Target)
	}
	return up.updateDNS(func(d *DNS) (err error) {
		d.SRV, err = change(up, d.SRV, s, rule[SRV]{conflict: matches, modify: matches, remove: matches, unique: true}, (*printer).srv)
		return err
	})
}
