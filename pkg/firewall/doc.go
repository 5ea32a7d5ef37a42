// Package firewall decides which packets of networks pass, and sees to it that the
// kernel's rules say so.
//
// A Network is the intent of one network; its Rules are that intent as typed
// values, in the order in which packets meet them, without the syntax of any
// program. A Firewall keeps the rules of all networks that shall stand (Desired),
// has a Writer make the kernel's rules the same, watches what others do to them,
// repairs them, and keeps bridges in their zones of firewalld.
//
// Writer is the seam to the kernel. Package iptables writes libvirt's chains;
// package diagnose explains what rules of others do to guests. Both import this
// package, which knows neither: whoever starts a Firewall hands it its writer.
package firewall
