// vnetd on the system bus: what there is, kept true by signals, and what can be asked of it.
import { useSyncExternalStore } from "react";
import type { Condition, Defined, Detail, Forward, Lease, Network, Plan, Port } from "./types";

const name = "org.vnetd1";
const root = "/org/vnetd1";
const iface = (word: string) => `${name}.${word}`;
const properties = "org.freedesktop.DBus.Properties";
const objectManager = "org.freedesktop.DBus.ObjectManager";

/** How the page stands with vnetd. */
export type Link = "connecting" | "running" | "stopped" | "lost";

export interface Snapshot {
    link: Link;
    error: unknown; // why the link is lost
    version: string;
    networks: Network[];
    ports: Port[];
    forwards: Forward[];
    conditions: Condition[];
}

type Properties = Record<string, unknown>;

const nothing: Snapshot = { link: "connecting", error: null, version: "", networks: [], ports: [], forwards: [], conditions: [] };

// Signals come in bursts, as when a network with many ports stops: one picture of them all.
const settle = 50; // milliseconds
const slowest = 15000; // milliseconds between two tries to connect

/** Takes values out of their variants. */
export function plain(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== "object") return value;
    const record = value as Record<string, unknown>;
    const keys = Object.keys(record);
    if (keys.length === 2 && typeof record.t === "string" && "v" in record) return plain(record.v);
    return Object.fromEntries(keys.map(key => [key, plain(record[key])]));
}

const values = (raw: Record<string, unknown>) => plain(raw) as Properties;

const compare = (a: string, b: string) => a.localeCompare(b, undefined, { numeric: true });

class Daemon {
    private client: DBusClient | null = null;
    private objects = new Map<string, Record<string, Properties>>();
    private manager: Properties = {};
    private snapshot = nothing;
    private listeners = new Set<() => void>();
    private timer = 0;
    private tries = 0;
    private load = 0; // counts them: the answer to an earlier one does not count

    get = () => this.snapshot;

    subscribe = (listener: () => void) => {
        this.listeners.add(listener);
        return () => { this.listeners.delete(listener); };
    };

    /** Connects, and again whenever the connection ends or the user's rights change. */
    start() {
        this.connect();
        const superuser = cockpit.dbus(null, { bus: "internal" }).proxy("cockpit.Superuser", "/superuser");
        let current: string | undefined;
        superuser.addEventListener("changed", () => {
            if (current !== undefined && superuser.Current !== current) this.reconnect();
            current = superuser.Current;
        });
    }

    /** Ends the connection, if there is one, and makes another at once. */
    reconnect = () => {
        const old = this.client;
        this.client = null;
        old?.close();
        window.clearTimeout(this.timer);
        this.tries = 0;
        this.connect();
    };

    /** Does what helps after the connection was lost. */
    recover = () => {
        // Without its connection to Cockpit the page can have no other.
        const { problem } = this.snapshot.error as CockpitError;
        if (problem === "disconnected" || problem === "terminated") window.location.reload();
        else this.reconnect();
    };

    private connect() {
        const client = cockpit.dbus(name, { bus: "system", superuser: "try" });
        this.client = client;
        client.addEventListener("close", (_event, options?: CockpitError) => {
            if (this.client !== client) return;
            this.client = null;
            this.show("lost", options ?? { problem: "disconnected" });
            this.timer = window.setTimeout(() => this.connect(), Math.min(1000 * 2 ** this.tries++, slowest));
        });
        client.addEventListener("owner", (_event, owner: string | null) => {
            if (this.client !== client) return;
            if (owner) void this.fetch(client);
            else this.show("stopped", null);
        });
        client.subscribe({ path_namespace: root }, (path, from, signal, args) => {
            if (this.client === client) this.hear(path, from, signal, args);
        });
    }

    // fetch reads all there is. Signals that come before the answer are in it.
    private async fetch(client: DBusClient) {
        const load = ++this.load;
        try {
            const [[objects], [manager]] = await Promise.all([
                client.call(root, objectManager, "GetManagedObjects", [], { type: "" }),
                client.call(root, properties, "GetAll", [iface("Manager")], { type: "s" }),
            ]);
            if (load !== this.load || this.client !== client) return;
            this.objects = new Map(Object.entries(objects as Record<string, Record<string, Record<string, unknown>>>)
                .map(([path, has]) => [path, Object.fromEntries(Object.entries(has).map(([i, p]) => [i, values(p)]))]));
            this.manager = values(manager);
            this.tries = 0;
            this.show("running", null);
        } catch (error) {
            if (load !== this.load || this.client !== client) return;
            if (/\.(ServiceUnknown|NameHasNoOwner|NoReply)$/.test((error as CockpitError).name ?? "")) {
                this.show("stopped", null); // whoever owns the name next is told of
                return;
            }
            this.show("lost", error);
            this.timer = window.setTimeout(this.retry, Math.min(1000 * 2 ** this.tries++, slowest));
        }
    }

    private retry = () => {
        if (this.client) void this.fetch(this.client);
    };

    private hear(path: string, from: string, signal: string, args: any[]) {
        if (from === objectManager && signal === "InterfacesAdded") {
            const has = this.objects.get(args[0]) ?? {};
            for (const [i, p] of Object.entries(args[1] as Record<string, Record<string, unknown>>)) has[i] = values(p);
            this.objects.set(args[0], has);
        } else if (from === objectManager && signal === "InterfacesRemoved") {
            const has = this.objects.get(args[0]) ?? {};
            for (const i of args[1] as string[]) delete has[i];
            if (Object.keys(has).some(i => i.startsWith(name))) this.objects.set(args[0], has);
            else this.objects.delete(args[0]);
        } else if (from === properties && signal === "PropertiesChanged") {
            const changed = values(args[1]);
            if (path === root) this.manager = { ...this.manager, ...changed };
            else if (this.objects.get(path)?.[args[0]]) this.objects.get(path)![args[0]] = { ...this.objects.get(path)![args[0]], ...changed };
        } else {
            return;
        }
        if (this.snapshot.link === "running" && !this.timer) {
            this.timer = window.setTimeout(() => { this.timer = 0; this.show("running", null); }, settle);
        }
    }

    private show(link: Link, error: unknown) {
        window.clearTimeout(this.timer);
        this.timer = 0;
        if (link !== "running") {
            // What was seen last stays until the connection is back, but for a vnetd that has ended.
            this.snapshot = link === "lost" ? { ...this.snapshot, link, error } : { ...nothing, link, error };
        } else {
            this.snapshot = {
                link,
                error,
                version: String(this.manager.Version ?? ""),
                networks: this.all<Network>("Network").sort((a, b) => compare(a.Name, b.Name)),
                ports: this.all<Port>("Port").sort((a, b) => compare(a.Network, b.Network) || compare(a.IfName, b.IfName)),
                forwards: this.all<Forward>("Forward").sort((a, b) => compare(a.Network, b.Network) || compare(a.Ports, b.Ports)),
                conditions: (this.manager.Conditions ?? []) as Condition[],
            };
        }
        for (const listener of this.listeners) listener();
    }

    private all<T>(word: string): T[] {
        const found: T[] = [];
        for (const [path, has] of this.objects) {
            const p = has[iface(word)];
            if (p) found.push({ ...p, path } as T);
        }
        return found;
    }

    /** Calls a method of an object of vnetd's, with the signature of its arguments. */
    async call(path: string, word: string, method: string, type: string, args: unknown[]): Promise<any[]> {
        if (!this.client) throw { problem: "disconnected" } as CockpitError;
        return this.client.call(path, iface(word), method, args, { type });
    }

    async setAutostart(n: Network, on: boolean) {
        if (!this.client) throw { problem: "disconnected" } as CockpitError;
        await this.client.call(n.path, properties, "Set", [iface("Network"), "Autostart", { t: "b", v: on }], { type: "ssv" });
    }
}

export const daemon = new Daemon();

/** What vnetd has now. A component that uses it is drawn anew with each change. */
export const useVnetd = () => useSyncExternalStore(daemon.subscribe, daemon.get);

export const startNetwork = (n: Network) => daemon.call(n.path, "Network", "Start", "", []);
export const stopNetwork = (n: Network) => daemon.call(n.path, "Network", "Stop", "", []);
export const undefineNetwork = (n: Network) => daemon.call(n.path, "Network", "Undefine", "", []);
export const releasePort = (p: Port) => daemon.call(p.path, "Port", "Release", "", []);
export const releaseForward = (f: Forward) => daemon.call(f.path, "Forward", "Release", "", []);
export const startPath = (path: string) => daemon.call(path, "Network", "Start", "", []);

/** The definition on disk, or else what the network is. */
export const xmlOf = async (n: Network): Promise<string> => (await daemon.call(n.path, "Network", "GetXML", "u", [n.Persistent ? 1 : 0]))[0];

export const describe = async (n: Network): Promise<Detail> => JSON.parse((await daemon.call(n.path, "Network", "Describe", "", []))[0]);

export const plan = async (xml: string): Promise<Plan> => JSON.parse((await daemon.call(root, "Manager", "Plan", "s", [xml]))[0]);

/** Writes a definition. One that is new must not be known yet. */
export async function define(xml: string, options: { new?: boolean; apply?: string }): Promise<Defined> {
    const variants: Record<string, DBusVariant> = {};
    if (options.new) variants.new = { t: "b", v: true };
    if (options.apply) variants.apply = { t: "s", v: options.apply };
    const [path, result] = await daemon.call(root, "Manager", "DefineNetworkWithOptions", "sa{sv}", [xml, variants]);
    return { path, ...(values(result) as Omit<Defined, "path">) };
}

export interface ForwardOptions {
    ports: string;
    to: string;
    to_port?: number;
    protocol: string;
    address?: string;
}

export async function addForward(n: Network, o: ForwardOptions) {
    const options: Record<string, DBusVariant> = { ports: { t: "s", v: o.ports }, to: { t: "s", v: o.to }, protocol: { t: "s", v: o.protocol } };
    if (o.to_port) options.to_port = { t: "q", v: o.to_port };
    if (o.address) options.address = { t: "s", v: o.address };
    await daemon.call(n.path, "Network", "AddForward", "a{sv}", [options]);
}

export async function leasesOf(n: Network): Promise<Lease[]> {
    const [rows] = await daemon.call(n.path, "Network", "GetLeases", "", []);
    return (rows as [string, number, number, string, string, string, number, string, string][]).map(
        ([, expiry, kind, mac, iaid, address, prefix, hostname, clientID]) =>
            ({ network: n.Name, expiry, family: kind === 1 ? 6 : 4, mac, iaid, address, prefix, hostname, clientID }));
}

/** Adds or deletes a <host> of the <ip> at an index, of what a network is and of its definition. */
export async function updateHost(n: Network, command: "add" | "delete", index: number, host: string) {
    const flags = n.Active && n.Persistent ? 3 : n.Active ? 1 : 2;
    await daemon.call(n.path, "Network", "Update", "ssisu", [command, "ip-dhcp-host", index, host, flags]);
}
