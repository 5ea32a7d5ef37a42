// The part of Cockpit's base1/cockpit.js that the page uses.
export {};

declare global {
    interface CockpitEvents {
        addEventListener(name: string, handler: (event: unknown, ...args: any[]) => void): void;
        removeEventListener(name: string, handler: (event: unknown, ...args: any[]) => void): void;
    }

    interface DBusVariant {
        t: string;
        v: unknown;
    }

    interface DBusProxy extends CockpitEvents {
        valid: boolean;
        Current?: string;
    }

    interface DBusClient extends CockpitEvents {
        close(problem?: string): void;
        call(path: string, iface: string, method: string, args: unknown[] | null, options?: { type?: string; flags?: string; timeout?: number }): Promise<any[]>;
        subscribe(match: Record<string, string>, handler: (path: string, iface: string, signal: string, args: any[]) => void): { remove(): void };
        proxy(iface: string, path: string): DBusProxy;
    }

    interface CockpitChannel extends CockpitEvents {
        close(problem?: string): void;
    }

    interface CockpitProcess extends Promise<string> {
        stream(handler: (data: string) => void): CockpitProcess;
        close(problem?: string): void;
    }

    interface CockpitError {
        problem?: string | null;
        name?: string | null;
        message?: string | null;
    }

    interface CockpitLocation {
        path: string[];
        options: Record<string, string | string[]>;
        go(path: string[] | string, options?: Record<string, string>): void;
    }

    interface Cockpit extends CockpitEvents {
        language: string;
        location: CockpitLocation;
        hidden: boolean;
        gettext(text: string): string;
        ngettext(one: string, many: string, n: number): string;
        format(template: string, ...args: unknown[]): string;
        message(error: CockpitError | string): string;
        dbus(name: string | null, options?: { bus?: string; superuser?: string }): DBusClient;
        channel(options: Record<string, unknown>): CockpitChannel;
        spawn(args: string[], options?: { superuser?: string; err?: string; environ?: string[] }): CockpitProcess;
    }

    const cockpit: Cockpit;
}
