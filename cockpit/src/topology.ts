// What is connected with what on this host: the ways out, bridges, networks, ports and guests.
import type { Host } from "./host";
import { _, modeName, say } from "./text";
import type { Network, Port } from "./types";

export type Kind = "uplink" | "bridge" | "network" | "port" | "guest";

export interface Node {
    id: string;
    kind: Kind;
    title: string;
    detail: string;
    state: string; // "" for none
    network?: string; // whose page a click opens
}

export interface Edge {
    from: string;
    to: string;
}

export interface Graph {
    nodes: Node[];
    edges: Edge[];
}

// A picture of more guests than this can't be read. Each network has its share, the rest is one node.
const mostGuests = 60;
const leastGuests = 3; // of one network

class Drawing {
    private nodes = new Map<string, Node>();
    private edges: Edge[] = [];

    add(node: Node): string {
        if (!this.nodes.has(node.id)) this.nodes.set(node.id, node);
        return node.id;
    }

    connect(from: string, to: string) {
        this.edges.push({ from, to });
    }

    graph = (): Graph => ({ nodes: [...this.nodes.values()], edges: this.edges });
}

// waysOut are the links of the host by which guests of a network reach the outside: those that its
// document names, or else those of default routes. A bridged network is where the other members of its bridge lead.
function waysOut(n: Network, named: string[], host: Host | null, ours: Set<string>): string[] {
    switch (n.Mode) {
    case "nat": case "route": case "open":
        return named.length > 0 ? named : host?.outward ?? [];
    case "none":
        return [];
    default: {
        const members = (host?.links ?? []).filter(l => n.Bridge && l.master === n.Bridge && !ours.has(l.ifname)).map(l => l.ifname);
        return [...new Set([...named.filter(dev => dev !== n.Bridge), ...members])];
    }
    }
}

function drawPort(d: Drawing, p: Port, from: string) {
    const port = d.add({ id: "port " + p.path, kind: "port", title: p.IfName, detail: p.VLAN ? say(_("VLAN $0"), p.VLAN) : "", state: "", network: p.Network });
    const guest = d.add({
        id: "guest " + p.path, kind: "guest", title: p.Name || p.MAC, detail: p.Addresses[0] ?? _("no address"),
        state: p.Addresses.length > 0 ? "active" : "waiting", network: p.Network,
    });
    d.connect(from, port);
    d.connect(port, guest);
}

/**
 * The graph of all networks. What the host has is null until it is known; devices are what the
 * document of each network names, by the network's name.
 */
export function graphOf(networks: Network[], ports: Port[], host: Host | null, devices: Map<string, string[]>): Graph {
    const d = new Drawing();
    const ours = new Set(ports.map(p => p.IfName));
    const share = Math.max(leastGuests, Math.floor(mostGuests / Math.max(1, networks.filter(n => n.Active).length)));
    for (const n of networks) {
        const network = d.add({ id: "network " + n.Name, kind: "network", title: n.Name, detail: modeName(n.Mode), state: n.State, network: n.Name });
        if (!n.Active) continue;
        let inner = network;
        if (n.Bridge) {
            inner = d.add({ id: "bridge " + n.Bridge, kind: "bridge", title: n.Bridge, detail: "", state: "active", network: n.Name });
            d.connect(inner, network);
        }
        for (const dev of waysOut(n, devices.get(n.Name) ?? [], host, ours)) {
            const link = host?.links.find(l => l.ifname === dev);
            const state = link?.operstate === "DOWN" ? "inactive" : "active";
            d.connect(d.add({ id: "uplink " + dev, kind: "uplink", title: dev, detail: link?.linkinfo?.info_kind ?? "", state }), inner);
        }
        const own = ports.filter(p => p.Network === n.Name);
        const shown = own.length > share ? own.slice(0, share - 1) : own;
        for (const p of shown) drawPort(d, p, network);
        if (shown.length < own.length) {
            d.connect(network, d.add({ id: "more " + n.Name, kind: "guest", title: say(_("$0 more"), own.length - shown.length), detail: "", state: "", network: n.Name }));
        }
    }
    return d.graph();
}
