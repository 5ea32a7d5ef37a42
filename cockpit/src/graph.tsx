// The picture of the host's networks: the ways out, bridges, networks, ports and guests.
import { layout as dagre, Graph } from "@dagrejs/dagre";
import { useEffect, useMemo, useState } from "react";
import { useVnetd, xmlOf } from "./bus";
import { devicesOf } from "./document";
import { useHost } from "./host";
import { go, Nothing } from "./parts";
import { _, stateName } from "./text";
import { graphOf, type Kind, type Node } from "./topology";
import type { Network } from "./types";

const height = 44;
const letter = 7.2; // width of a letter, about

function kindName(kind: Kind): string {
    switch (kind) {
    case "uplink": return _("Uplink");
    case "bridge": return _("Bridge");
    case "network": return _("Network");
    case "port": return _("Port");
    case "guest": return _("Guest");
    }
}

function useDevices(networks: Network[]): Map<string, string[]> {
    const [devices, setDevices] = useState(new Map<string, string[]>());
    const key = networks.map(n => n.path + n.State + n.Pending.length).join();
    useEffect(() => {
        let gone = false;
        Promise.all(networks.map(async n => [n.Name, devicesOf(await xmlOf(n))] as const)).then(all => { if (!gone) setDevices(new Map(all)); }, () => {});
        return () => { gone = true; };
        // eslint-disable-next-line
    }, [key]);
    return devices;
}

// The name has the words of the picture as they stand there, for who speaks them to the browser.
const title = (node: Node) => `${kindName(node.kind)} ${[node.title, node.detail].filter(word => word).join(" ")}` + (node.state ? ", " + stateName(node.state) : "");

export function Picture() {
    const { networks, ports } = useVnetd();
    const { host } = useHost(networks.map(n => n.Name + n.State).join() + ports.map(p => p.IfName).join());
    const devices = useDevices(networks);
    const drawn = useMemo(() => {
        const { nodes, edges } = graphOf(networks, ports, host, devices);
        const g = new Graph<{ width?: number; height?: number; rankdir: string; nodesep: number; ranksep: number; marginx: number; marginy: number }, { width: number; height: number; x?: number; y?: number }, { points?: { x: number; y: number }[] }>();
        g.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 60, marginx: 4, marginy: 4 });
        for (const node of nodes) g.setNode(node.id, { width: Math.max(90, 24 + letter * Math.max(node.title.length, node.detail.length)), height });
        for (const edge of edges) g.setEdge(edge.from, edge.to, {});
        dagre(g as any);
        return { nodes, edges, g };
    }, [networks, ports, host, devices]);
    if (drawn.nodes.length === 0) return <Nothing title={_("No networks yet")} />;
    const size = drawn.g.graph();
    return (
        <div className="vnetd-picture" tabIndex={0} role="group" aria-label={_("Networks of this host, from the ways out to the guests")}>
            <svg width={size.width} height={size.height} viewBox={`0 0 ${size.width} ${size.height}`} role="list" aria-label={_("Networks of this host")}>
                <g aria-hidden="true">
                    {drawn.edges.map((edge, i) => {
                        const points = drawn.g.edge(edge.from, edge.to)?.points ?? [];
                        return <path key={i} className="vnetd-edge" d={"M" + points.map(p => `${p.x},${p.y}`).join("L")} />;
                    })}
                </g>
                {drawn.nodes.map(node => {
                    const at = drawn.g.node(node.id);
                    const open = () => { if (node.network) go("networks", node.network); };
                    return (
                        <g key={node.id} role="listitem" className={`vnetd-node vnetd-node-${node.kind} vnetd-state-${node.state || "none"}`}
                            transform={`translate(${at.x! - at.width / 2},${at.y! - at.height / 2})`}>
                            <g {...(node.network ? { role: "link", tabIndex: 0, onClick: open, onKeyDown: (event: React.KeyboardEvent) => { if (event.key === "Enter") open(); } } : { role: "img" })}
                                aria-label={title(node)}>
                                <title>{title(node)}</title>
                                <rect width={at.width} height={at.height} rx={6} />
                                <text x={12} y={node.detail ? 19 : 27} className="vnetd-node-title">{node.title}</text>{" "}
                                {node.detail && <text x={12} y={35} className="vnetd-node-detail">{node.detail}</text>}
                            </g>
                        </g>
                    );
                })}
            </svg>
        </div>
    );
}
