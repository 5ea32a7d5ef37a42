// What the page asks of the host itself: links and routes for the picture, and rates of
// traffic, which Cockpit's bridge measures.
import { useEffect, useState, useSyncExternalStore } from "react";

export interface HostLink {
    ifname: string;
    master?: string;
    operstate?: string;
    linkinfo?: { info_kind?: string };
}

export interface Host {
    links: HostLink[];
    outward: string[]; // links of default routes, the preferred one first
}

async function ip(...args: string[]): Promise<any[]> {
    const out = await cockpit.spawn(["ip", "-json", ...args], { err: "message", environ: ["LC_ALL=C"] });
    return JSON.parse(out.trim() || "[]");
}

async function readHost(): Promise<Host> {
    const [links, routes4, routes6] = await Promise.all([
        ip("-details", "link", "show"), ip("-4", "route", "show", "default"), ip("-6", "route", "show", "default"),
    ]);
    const devices = [...routes4, ...routes6].map(r => r.dev as string | undefined).filter((dev): dev is string => !!dev);
    return { links, outward: [...new Set(devices)] };
}

/** The host's links and ways out, read anew when key changes. */
export function useHost(key: string): { host: Host | null; error: unknown } {
    const [state, set] = useState<{ host: Host | null; error: unknown }>({ host: null, error: null });
    useEffect(() => {
        let gone = false;
        readHost().then(host => { if (!gone) set({ host, error: null }); }, error => { if (!gone) set(old => ({ ...old, error })); });
        return () => { gone = true; };
    }, [key]);
    return state;
}

const interval = 2000; // milliseconds between two samples
export const kept = 150; // samples: five minutes

/** Bytes a second of one link, as the host counts them. */
export interface Rate {
    received: number;
    sent: number;
}

export interface Rates {
    at: number; // milliseconds of Unix time
    links: Map<string, Rate>;
}

// Meter has Cockpit's bridge measure the traffic of all links while somebody looks.
class Meter {
    private channel: CockpitChannel | null = null;
    private samples: Rates[] = [];
    private listeners = new Set<() => void>();
    private instances: string[][] = [];
    private last: (number | false)[][] = [];
    private timer = 0;

    get = () => this.samples;

    subscribe = (listener: () => void) => {
        this.listeners.add(listener);
        if (!this.channel) this.open();
        return () => {
            this.listeners.delete(listener);
            if (this.listeners.size > 0) return;
            window.clearTimeout(this.timer);
            this.channel?.close();
            this.channel = null;
        };
    };

    private open() {
        this.samples = []; // a curve must not bridge the time in which nobody looked
        const channel = cockpit.channel({
            payload: "metrics1",
            source: "internal",
            interval,
            metrics: [{ name: "network.interface.rx", derive: "rate" }, { name: "network.interface.tx", derive: "rate" }],
        });
        this.channel = channel;
        channel.addEventListener("message", (_event, text: string) => this.hear(JSON.parse(text)));
        channel.addEventListener("close", () => {
            if (this.channel !== channel) return;
            this.channel = null;
            this.timer = window.setTimeout(() => { if (this.listeners.size > 0 && !this.channel) this.open(); }, 5000);
        });
    }

    // hear takes a description of what follows, or samples: for each metric the values of its
    // links in their order. What is left out or null is as it was, false is not known.
    private hear(message: { metrics: { instances?: string[] }[] } | (((number | false | null)[] | null)[])[]) {
        if (!Array.isArray(message)) {
            this.instances = message.metrics.map(m => m.instances ?? []);
            this.last = this.instances.map(names => names.map(() => false));
            return;
        }
        for (const sample of message) {
            this.last = this.last.map((values, metric) => values.map((value, i) => sample[metric]?.[i] ?? value));
        }
        const links = new Map<string, Rate>();
        const add = (metric: number, key: keyof Rate) => this.instances[metric]?.forEach((name, i) => {
            const value = this.last[metric]?.[i];
            if (typeof value !== "number") return;
            const rate = links.get(name) ?? { received: 0, sent: 0 };
            rate[key] = value;
            links.set(name, rate);
        });
        add(0, "received");
        add(1, "sent");
        this.samples = [...this.samples, { at: Date.now(), links }].slice(-kept);
        for (const listener of this.listeners) listener();
    }
}

const meter = new Meter();

/** The last minutes of traffic of the host's links, oldest first. */
export const useRates = () => useSyncExternalStore(meter.subscribe, meter.get);
