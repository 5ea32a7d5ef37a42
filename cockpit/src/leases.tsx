// Leases of DHCP, and their reservation.
import { useCallback, useEffect, useRef, useState } from "react";
import { Button, Card, CardBody, CardHeader, CardTitle, Label, Toolbar, ToolbarContent, ToolbarItem } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { leasesOf, updateHost, useVnetd, xmlOf } from "./bus";
import { hostElement, hostOf, type Reservation, reservationFor, reservationsOf, subnetOf } from "./document";
import { failed, NetworkLink, Nothing, ProblemAlert, Search, succeeded } from "./parts";
import { _, matches, moment, type Problem, problemOf, say } from "./text";
import type { Lease, Network } from "./types";

// Leases that belong to no port have no signal: they are looked at while somebody does.
const every = 3000; // milliseconds

interface Held {
    leases: Lease[];
    reservations: Map<string, Reservation[]>; // by network
}

/** The leases of active networks and what is reserved there, and a look at once. */
export function useLeases(networks: Network[]): { held: Held | null; problem: Problem | null; look: () => Promise<void> } {
    const [held, setHeld] = useState<Held | null>(null);
    const [problem, setProblem] = useState<Problem | null>(null);
    const active = networks.filter(n => n.Active);
    const latest = useRef(active);
    latest.current = active;
    const look = useCallback(async () => {
        try {
            const read = await Promise.all(latest.current.map(async n => [n, await leasesOf(n), reservationsOf(await xmlOf(n))] as const));
            setHeld({ leases: read.flatMap(r => r[1]), reservations: new Map(read.map(r => [r[0].Name, r[2]])) });
            setProblem(null);
        } catch (error) {
            // One that has stopped meanwhile is looked at no more.
            if (!/\.(NotFound|InvalidState|UnknownObject|UnknownMethod)$/.test((error as CockpitError).name ?? "")) setProblem(problemOf(_("The leases can't be read"), error));
        }
    }, []);
    const key = active.map(n => n.path).join();
    useEffect(() => {
        void look();
        const timer = window.setInterval(() => { if (!document.hidden) void look(); }, every);
        return () => window.clearInterval(timer);
    }, [key, look]);
    return { held, problem, look };
}

const clientName = (l: Lease) => l.hostname || l.mac || l.address;

async function reserve(n: Network, l: Lease) {
    try {
        const index = subnetOf(await xmlOf(n), l.address);
        await updateHost(n, "add", index, hostOf(l));
        succeeded(say(_("$0 is reserved for $1"), l.address, clientName(l)));
    } catch (error) {
        failed(say(_("$0 was not reserved"), l.address), error);
    }
}

async function unreserve(n: Network, l: Lease, r: Reservation) {
    try {
        await updateHost(n, "delete", r.index, hostElement(r));
        succeeded(say(_("$0 is reserved no more"), l.address));
    } catch (error) {
        failed(say(_("The reservation of $0 was not removed"), l.address), error);
    }
}

export function LeaseTable({ networks, wanted, label, of }: { networks: Network[]; wanted: string; label: string; of?: string }) {
    const { held, problem, look } = useLeases(networks);
    const [busy, setBusy] = useState("");
    if (problem) return <ProblemAlert problem={problem} />;
    if (!held) return <Nothing title={_("Reading the leases …")} />;
    const shown = held.leases.filter(l => matches(wanted, l.address, l.mac, l.hostname, l.network, l.clientID));
    if (shown.length === 0) {
        return held.leases.length > 0
            ? <Nothing title={_("No lease matches the search")} />
            : <Nothing title={_("No leases")}>{_("Guests of active networks that ask by DHCP are listed here.")}</Nothing>;
    }
    const act = async (l: Lease, work: () => Promise<void>) => {
        setBusy(l.address);
        await work();
        await look();
        setBusy("");
    };
    return (
        <Table aria-label={label} variant="compact">
            <Thead>
                <Tr>
                    <Th>{_("Address")}</Th><Th>{_("Host name")}</Th><Th>{_("MAC address")}</Th>{!of && <Th>{_("Network")}</Th>}<Th>{_("Until")}</Th>
                    <Th screenReaderText={_("Reservation")} />
                </Tr>
            </Thead>
            <Tbody>
                {shown.map(l => {
                    const network = networks.find(n => n.Name === l.network);
                    const reservation = reservationFor(held.reservations.get(l.network) ?? [], l);
                    const client = l.family === 6 ? l.clientID : l.mac;
                    return (
                        <Tr key={l.network + l.address}>
                            <Td dataLabel={_("Address")}>{l.address} {reservation && <Label isCompact color="blue">{_("Reserved")}</Label>}</Td>
                            <Td dataLabel={_("Host name")}>{l.hostname || "–"}</Td>
                            <Td dataLabel={_("MAC address")}>{l.mac || "–"}</Td>
                            {!of && <Td dataLabel={_("Network")}><NetworkLink name={l.network} /></Td>}
                            <Td dataLabel={_("Until")}>{l.expiry === 0 ? _("for ever") : moment(l.expiry)}</Td>
                            <Td isActionCell>
                                {network && (reservation
                                    ? <Button variant="link" size="sm" isDisabled={busy !== ""} aria-label={say(_("Remove reservation of $0"), l.address)}
                                        onClick={() => act(l, () => unreserve(network, l, reservation))}>{_("Remove reservation")}</Button>
                                    : <Button variant="secondary" size="sm" isDisabled={busy !== "" || !client} isLoading={busy === l.address} aria-label={say(_("Reserve $0 for $1"), l.address, clientName(l))}
                                        onClick={() => act(l, () => reserve(network, l))}>{_("Reserve")}</Button>)}
                            </Td>
                        </Tr>
                    );
                })}
            </Tbody>
        </Table>
    );
}

export function Leases() {
    const { networks } = useVnetd();
    const [wanted, setWanted] = useState("");
    return (
        <Card>
            <CardHeader><CardTitle component="h2">{_("Leases")}</CardTitle></CardHeader>
            <CardBody>
                <Toolbar>
                    <ToolbarContent>
                        <ToolbarItem><Search label={_("Search leases")} value={wanted} onChange={setWanted} /></ToolbarItem>
                    </ToolbarContent>
                </Toolbar>
                <LeaseTable networks={networks} wanted={wanted} label={_("Leases")} />
            </CardBody>
        </Card>
    );
}
