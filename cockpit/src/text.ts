// Words for people: translated strings, numbers and times.

/** Translates a string. Strings are collected from calls of this name. */
export const _ = (text: string): string => cockpit.gettext(text);

/** Translates a string and puts the arguments in place of $0, $1 and so on. */
export const say = (text: string, ...args: unknown[]): string => cockpit.format(text, ...args);

const language = () => cockpit.language.replace("_", "-");

/** A moment, given in seconds of Unix time, as the reader writes it. */
export const moment = (seconds: number): string =>
    new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds * 1000));

/** A rate in bits a second, of one in bytes a second. */
export function rate(bytes: number): string {
    const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let value = bytes * 8;
    let unit = 0;
    for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
    return new Intl.NumberFormat(language(), { maximumFractionDigits: value < 10 && unit > 0 ? 1 : 0 }).format(value) + " " + units[unit];
}

/** Whether any of the fields has what was searched for. */
export const matches = (wanted: string, ...fields: string[]): boolean =>
    wanted.trim().toLowerCase().split(/\s+/).every(word => fields.some(field => field.toLowerCase().includes(word)));

/** Modes of networks, in words. */
export function modeName(mode: string): string {
    switch (mode) {
    case "nat": return _("NAT");
    case "route": return _("Routed");
    case "none": return _("Isolated");
    case "open": return _("Open");
    case "bridge": return _("Bridged");
    default: return mode;
    }
}

/** States of networks and forwards, in words. */
export function stateName(state: string): string {
    switch (state) {
    case "inactive": return _("Inactive");
    case "starting": return _("Starting");
    case "active": return _("Active");
    case "degraded": return _("Degraded");
    case "stopping": return _("Stopping");
    case "failed": return _("Failed");
    case "waiting": return _("Waiting for an address");
    default: return state;
    }
}

export interface Problem {
    title: string;
    text: string;
    hint?: string;
}

/**
 * What a failed call means to a person: the daemon's own sentence, as it is the one that
 * names the object, and what helps where the right to do it is missing.
 */
export function problemOf(title: string, error: unknown): Problem {
    const e = error as CockpitError;
    const text = e.name ? e.message || e.name : e.problem ? cockpit.message(e) : e.message || String(error);
    const denied = e.problem === "access-denied" || /\.(Denied|AccessDenied|InteractiveAuthorizationRequired)$/.test(e.name ?? "");
    return { title, text, hint: denied ? _("Turn on administrative access at the top of the window, or become a member of the group vnet.") : undefined };
}
