// Ports and the guests on them.
import { useState } from "react";
import { Button, Card, CardBody, CardHeader, CardTitle, Toolbar, ToolbarContent, ToolbarItem } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { releasePort, useVnetd } from "./bus";
import { useRates } from "./host";
import { Dialog, NetworkLink, Nothing, openDialog, Search, succeeded } from "./parts";
import { _, matches, rate, say } from "./text";
import type { Port } from "./types";

export const guestName = (p: Port) => p.Name || p.MAC;

function lifetimeName(lifetime: string): string {
    switch (lifetime) {
    case "fd": return _("Until the guest closes it");
    case "bus": return _("Until its client leaves the bus");
    case "persistent": return _("Until it is released");
    case "external": return _("As another program says");
    default: return lifetime;
    }
}

function askRelease(p: Port) {
    openDialog(
        <Dialog title={say(_("Release the port of $0?"), guestName(p))} action={_("Release")} danger failure={say(_("The port of $0 was not released"), guestName(p))}
            work={async () => { await releasePort(p); succeeded(say(_("The port of $0 is released"), guestName(p))); }}>
            <p>{say(_("The guest is cut off from network $0, even if it still runs, and its addresses are free again."), p.Network)}</p>
        </Dialog>);
}

export function PortTable({ ports, label, of }: { ports: Port[]; label: string; of?: string }) {
    const now = useRates().at(-1);
    if (ports.length === 0) {
        return <Nothing title={_("No ports")}>{_("A port comes with a guest: with QEMU's bridge helper, with vnetctl run, or with libvirt.")}</Nothing>;
    }
    // The host's side of a port receives what its guest sends.
    const rates = (p: Port) => {
        const r = now?.links.get(p.IfName);
        return r ? `${rate(r.sent)} / ${rate(r.received)}` : "–";
    };
    return (
        <Table aria-label={label} variant="compact">
            <Thead>
                <Tr>
                    <Th>{_("Guest")}</Th>{!of && <Th>{_("Network")}</Th>}<Th>{_("Addresses")}</Th><Th>{_("MAC address")}</Th><Th>{_("Device")}</Th>
                    <Th>{_("To / from the guest")}</Th><Th>{_("Guard")}</Th><Th>{_("It ends")}</Th><Th screenReaderText={_("Release")} />
                </Tr>
            </Thead>
            <Tbody>
                {ports.map(p => (
                    <Tr key={p.path}>
                        <Td dataLabel={_("Guest")}>{p.Name || _("no name")}</Td>
                        {!of && <Td dataLabel={_("Network")}>{p.Network ? <NetworkLink name={p.Network} /> : "–"}</Td>}
                        <Td dataLabel={_("Addresses")}>{p.Addresses.join(", ") || (p.Reserved.length > 0 ? say(_("$0, reserved"), p.Reserved.join(", ")) : "–")}</Td>
                        <Td dataLabel={_("MAC address")}>{p.MAC}</Td>
                        <Td dataLabel={_("Device")}>{p.IfName}</Td>
                        <Td dataLabel={_("To / from the guest")}>{rates(p)}</Td>
                        <Td dataLabel={_("Guard")}>{p.Guard}</Td>
                        <Td dataLabel={_("It ends")}>{lifetimeName(p.Lifetime)}</Td>
                        <Td isActionCell>
                            <Button variant="secondary" size="sm" isDanger aria-label={say(_("Release the port of $0"), guestName(p))} onClick={() => askRelease(p)}>{_("Release")}</Button>
                        </Td>
                    </Tr>
                ))}
            </Tbody>
        </Table>
    );
}

export function Ports() {
    const { ports } = useVnetd();
    const [wanted, setWanted] = useState("");
    const shown = ports.filter(p => matches(wanted, p.Name, p.Network, p.MAC, p.IfName, ...p.Addresses, p.ID));
    return (
        <Card>
            <CardHeader><CardTitle component="h2">{_("Ports and guests")}</CardTitle></CardHeader>
            <CardBody>
                <Toolbar>
                    <ToolbarContent>
                        <ToolbarItem><Search label={_("Search ports")} value={wanted} onChange={setWanted} /></ToolbarItem>
                    </ToolbarContent>
                </Toolbar>
                {ports.length > 0 && shown.length === 0
                    ? <Nothing title={_("No port matches the search")} />
                    : <PortTable ports={shown} label={_("Ports and guests")} />}
            </CardBody>
        </Card>
    );
}
