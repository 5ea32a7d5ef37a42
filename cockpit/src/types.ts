// What vnetd shows on D-Bus; docs/dbus.md tells of each. Names are those of the properties.

export interface Condition {
    kind: string;
    severity: string;
    networks: string[];
    message: string;
    evidence: string;
    remedy: string;
    since: number; // seconds of Unix time
}

export interface Network {
    path: string;
    Name: string;
    UUID: string;
    Active: boolean;
    Persistent: boolean;
    Autostart: boolean;
    Bridge: string;
    Mode: string;
    State: string;
    LastError: string;
    Pending: string[];
    Conditions: Condition[];
}

export interface Port {
    path: string;
    Network: string;
    Name: string;
    MAC: string;
    IfName: string;
    Bridge: string;
    Addresses: string[];
    Reserved: string[];
    Lifetime: string;
    Owner: number;
    ID: string;
    Guard: string;
    VLAN: string;
}

export interface Forward {
    path: string;
    Network: string;
    Protocol: string;
    Ports: string;
    Address: string;
    To: string;
    ToPort: number;
    From: string[];
    Lifetime: string;
    State: string;
    Targets: string[];
}

export interface Lease {
    network: string;
    expiry: number; // seconds of Unix time; 0 is never
    family: 4 | 6;
    mac: string;
    iaid: string;
    address: string;
    prefix: number;
    hostname: string;
    clientID: string;
}

export interface Pool {
    family: string;
    ranges: { start: string; end: string }[];
    size: number;
    used: number;
    reservations: number;
}

/** What guests of a network and those of another may open to each other. */
export interface Peer {
    network: string;
    direction: string; // out, in or both, as guests of the network see it
    services: string[]; // as tcp/5432; none: everything
    state: string; // active, waiting or inactive
    reason: string;
}

/** Of a network's Describe, what its properties don't have. */
export interface Detail {
    mac: string;
    mtu: number;
    addresses: string[];
    parents: string[];
    pools: Pool[];
    dns: { domain: string; upstreams: { addr: string; failing: boolean }[] } | null;
    faults: Record<string, string>;
    not_understood: string[];
    peers: Peer[];
    rules: { rules: string[]; egress: string; ingress: string };
}

export interface PlannedService {
    name: string;
    addrs: string[];
}

export interface Plan {
    name: string;
    mode: string;
    action: string;
    conflicts: string[];
    pending: string[];
    links: { name: string; kind: string; made: boolean }[];
    addresses: { link: string; address: string }[];
    routes: { destination: string; gateway: string; link: string }[];
    sysctls: { key: string; value: string }[];
    rules: { family: string; table: string; chain: string; args: string; form: string }[];
    pools: Pool[];
    services: PlannedService[];
    opens: string[]; // peers and rules, in words
    not_understood: string[];
}

export interface Defined {
    path: string;
    action: string;
    changes: string[];
    pending: string[];
}
