// Holds what the picture of the host's networks connects with what.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

globalThis.cockpit = { gettext: text => text, format: (text, ...args) => text.replace(/\$(\d)/g, (_, i) => String(args[i])) };

let graphOf, dir;
before(async () => {
    dir = mkdtempSync(join(tmpdir(), "topology-"));
    const outfile = join(dir, "topology.mjs");
    await build({ entryPoints: [join(here, "../src/topology.ts")], bundle: true, format: "esm", platform: "neutral", outfile });
    ({ graphOf } = await import(pathToFileURL(outfile).href));
});
after(() => rmSync(dir, { recursive: true, force: true }));

const network = (Name, Mode, Bridge, Active = true) => ({ Name, Mode, Bridge, Active, State: Active ? "active" : "inactive" });
const port = (Network, IfName, more = {}) => ({ path: "/" + IfName, Network, IfName, Name: "g-" + IfName, MAC: "52:54:00:00:00:01", Addresses: [], VLAN: "", ...more });
const host = { outward: ["eno1"], links: [{ ifname: "eno1", operstate: "UP" }, { ifname: "eno2", operstate: "DOWN", master: "br0", linkinfo: { info_kind: "bond" } }, { ifname: "vnet0", master: "br0" }] };
const edges = graph => graph.edges.map(e => `${e.from} - ${e.to}`).sort();

describe("the picture", () => {
    it("leads from the default route to the guests of a NAT network", () => {
        const graph = graphOf([network("web", "nat", "virbr0")], [port("web", "vnet1", { Addresses: ["192.168.50.2"] })], host, new Map());
        assert.deepEqual(edges(graph), ["bridge virbr0 - network web", "network web - port /vnet1", "port /vnet1 - guest /vnet1", "uplink eno1 - bridge virbr0"]);
        assert.deepEqual(graph.nodes.find(n => n.kind === "guest"), { id: "guest /vnet1", kind: "guest", title: "g-vnet1", detail: "192.168.50.2", state: "active", network: "web" });
    });
    it("leads by the interface that a document names, if it names one", () => {
        const graph = graphOf([network("web", "route", "virbr0")], [], host, new Map([["web", ["eno2"]]]));
        assert.deepEqual(edges(graph), ["bridge virbr0 - network web", "uplink eno2 - bridge virbr0"]);
        assert.deepEqual(graph.nodes.find(n => n.kind === "uplink"), { id: "uplink eno2", kind: "uplink", title: "eno2", detail: "bond", state: "inactive" });
    });
    it("shows a bridged network on the members of its bridge, but not its guests as uplinks", () => {
        const graph = graphOf([network("lan", "bridge", "br0")], [port("lan", "vnet0")], host, new Map([["lan", ["br0"]]]));
        assert.deepEqual(edges(graph).filter(e => e.startsWith("uplink")), ["uplink eno2 - bridge br0"]);
    });
    it("shows a network without a bridge on its interfaces", () => {
        assert.deepEqual(edges(graphOf([network("direct", "private", "")], [], host, new Map([["direct", ["eno1"]]]))), ["uplink eno1 - network direct"]);
    });
    it("connects isolated and inactive networks with nothing outside", () => {
        const graph = graphOf([network("lab", "none", "virbr1"), network("off", "nat", "virbr2", false)], [], host, new Map());
        assert.deepEqual(edges(graph), ["bridge virbr1 - network lab"]);
        assert.equal(graph.nodes.find(n => n.title === "off").state, "inactive");
    });
    it("is drawn before the host is known", () => {
        assert.deepEqual(edges(graphOf([network("web", "nat", "virbr0")], [], null, new Map())), ["bridge virbr0 - network web"]);
    });
    it("stays small where guests are many", () => {
        const ports = Array.from({ length: 500 }, (_, i) => port(i % 2 ? "web" : "lab", "vnet" + i));
        const graph = graphOf([network("web", "nat", "virbr0"), network("lab", "none", "virbr1")], ports, host, new Map());
        assert.equal(graph.nodes.filter(n => n.kind === "port").length, 58);
        assert.deepEqual(graph.nodes.filter(n => n.id.startsWith("more")).map(n => n.title), ["221 more", "221 more"]);
    });
});
