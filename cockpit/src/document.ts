// Documents of networks: made of the few words of the form, and what the page reads in them.
import ipaddr from "ipaddr.js";
import { _, say } from "./text";
import type { Lease } from "./types";

const namespace = "urn:vnetd:network:1";

export interface Words {
    name: string;
    mode: string; // nat, route, none or open
    subnet: string; // auto, none or a prefix
    subnet6: string;
    domain: string;
}

/** Escapes text for an attribute or between tags. */
const escape = (text: string) => text.replace(/[&<>'"]/g, c => `&#${c.charCodeAt(0)};`);

/** What is wrong with a subnet that was typed, or empty. */
export function subnetFault(family: 4 | 6, text: string): string {
    if (text === "auto" || text === "none") return "";
    const example = family === 4 ? "192.168.50.0/24" : "fd00:50::/64";
    const most = family === 4 ? 30 : 112;
    if (!ipaddr.isValidCIDR(text)) return say(_("\"$0\" is no subnet: write auto, none, or one as $1."), text, example);
    const [address, bits] = ipaddr.parseCIDR(text);
    if (address.kind() !== (family === 4 ? "ipv4" : "ipv6")) return say(_("\"$0\" is of the other family: write one as $1."), text, example);
    if (bits < 1 || bits > most) return say(_("\"$0\" has no room for guests: its prefix must have 1 to $1 bits."), text, most);
    return "";
}

/** What is wrong with a name, or empty. vnetd has the last word. */
export function nameFault(text: string): string {
    if (!text) return _("A network needs a name.");
    if (/[/\n]/.test(text) || text.startsWith(".")) return say(_("\"$0\" can't be a name: it must not have a slash, nor begin with a dot."), text);
    return "";
}

// ipElement is the <ip> of a subnet: the first address is the host's, guests get the others.
function ipElement(family: 4 | 6, subnet: string): string {
    const [, bits] = ipaddr.parseCIDR(subnet);
    if (family === 4) {
        const network = ipaddr.IPv4.networkAddressFromCIDR(subnet).toByteArray();
        const last = ipaddr.IPv4.broadcastAddressFromCIDR(subnet).toByteArray();
        const by = (bytes: number[], add: number) => {
            const value = bytes.reduce((sum, byte) => sum * 256 + byte, 0) + add;
            return [24, 16, 8, 0].map(shift => Math.floor(value / 2 ** shift) % 256).join(".");
        };
        const mask = ipaddr.IPv4.subnetMaskFromPrefixLength(bits).toString();
        return `  <ip address='${by(network, 1)}' netmask='${mask}'>\n    <dhcp>\n      <range start='${by(network, 2)}' end='${by(last, -1)}'/>\n    </dhcp>\n  </ip>\n`;
    }
    const parts = ipaddr.IPv6.networkAddressFromCIDR(subnet).parts;
    const at = (end: number) => new ipaddr.IPv6([...parts.slice(0, 7), end]).toString();
    return `  <ip family='ipv6' address='${at(1)}' prefix='${bits}'>\n    <dhcp>\n      <range start='${at(0x100)}' end='${at(0xffff)}'/>\n    </dhcp>\n  </ip>\n`;
}

function subnetElement(family: 4 | 6, text: string): string {
    if (text === "none") return "";
    if (text === "auto") return `  <vnetd:subnet auto='yes' family='ipv${family}'/>\n`;
    return ipElement(family, text);
}

// privateSubnet tells whether guests of an IPv6 subnet need translation to reach the outside.
const privateSubnet = (text: string) => text === "auto" || (text !== "none" && ipaddr.parseCIDR(text)[0].range() === "uniqueLocal");

/** The document of a new network. */
export function newDocument(w: Words): string {
    let forward = "";
    if (w.mode === "nat" && privateSubnet(w.subnet6)) forward = "  <forward mode='nat'>\n    <nat ipv6='yes'/>\n  </forward>\n";
    else if (w.mode !== "none") forward = `  <forward mode='${escape(w.mode)}'/>\n`;
    const inbound = w.mode === "nat" && w.subnet6 !== "none" && !privateSubnet(w.subnet6) ? "  <vnetd:ipv6 inbound='no'/>\n" : "";
    return `<network xmlns:vnetd='${namespace}'>\n  <name>${escape(w.name)}</name>\n${forward}` +
        (w.domain ? `  <domain name='${escape(w.domain)}'/>\n` : "") +
        subnetElement(4, w.subnet) + subnetElement(6, w.subnet6) + inbound + "</network>\n";
}

function parse(xml: string): Document {
    return new DOMParser().parseFromString(xml, "application/xml");
}

/** The name that a document gives its network, or empty. */
export const nameOf = (xml: string): string => parse(xml).querySelector("network > name")?.textContent?.trim() ?? "";

/** The interfaces of the host that a network is limited to, or is plugged into. */
export const devicesOf = (xml: string): string[] =>
    [...parse(xml).querySelectorAll("network > forward[dev], network > forward > interface[dev]")]
        .map(e => e.getAttribute("dev")!)
        .filter((dev, i, all) => all.indexOf(dev) === i);

export interface Reservation {
    index: number; // of the <ip> that it is in
    mac: string;
    id: string;
    name: string;
    ip: string;
}

const ips = (xml: string) => [...parse(xml).querySelectorAll("network > ip")];

export function reservationsOf(xml: string): Reservation[] {
    return ips(xml).flatMap((ip, index) => [...ip.querySelectorAll("dhcp > host")].map(host => ({
        index,
        mac: (host.getAttribute("mac") ?? "").toLowerCase(),
        id: (host.getAttribute("id") ?? "").toLowerCase(),
        name: host.getAttribute("name") ?? "",
        ip: host.getAttribute("ip") ?? "",
    })));
}

/** The index of the <ip> that an address is in, or -1. */
export function subnetOf(xml: string, address: string): number {
    const wanted = ipaddr.parse(address);
    return ips(xml).findIndex(ip => {
        const own = ipaddr.parse(ip.getAttribute("address") ?? "");
        const netmask = ip.getAttribute("netmask");
        const bits = netmask ? ipaddr.IPv4.parse(netmask).prefixLengthFromSubnetMask() : Number(ip.getAttribute("prefix"));
        return own.kind() === wanted.kind() && bits !== null && wanted.match(own as any, bits);
    });
}

const sameAddress = (a: string, b: string) => ipaddr.isValid(a) && ipaddr.isValid(b) && ipaddr.parse(a).toNormalizedString() === ipaddr.parse(b).toNormalizedString();

/** The reservation that a lease is of, if there is one. */
export const reservationFor = (all: Reservation[], l: Lease): Reservation | undefined => all.find(r => sameAddress(r.ip, l.address));

/** The <host> that reserves a lease's address for its client: by its MAC address, in IPv6 by its DUID. */
export function hostOf(l: Lease): string {
    const client = l.family === 6 ? `id='${escape(l.clientID)}'` : `mac='${escape(l.mac)}'`;
    return `<host ${client}${l.hostname ? ` name='${escape(l.hostname)}'` : ""} ip='${escape(l.address)}'/>`;
}

/** The <host> of a reservation, as it is deleted by. */
export const hostElement = (r: Reservation): string =>
    `<host${r.mac ? ` mac='${escape(r.mac)}'` : ""}${r.id ? ` id='${escape(r.id)}'` : ""}${r.name ? ` name='${escape(r.name)}'` : ""}${r.ip ? ` ip='${escape(r.ip)}'` : ""}/>`;
