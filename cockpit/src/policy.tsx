// Who may reach whom: the peers and rules of a network.
import { List, ListComponent, ListItem, OrderType } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { NetworkLink, State } from "./parts";
import { _, say } from "./text";
import type { Detail, Peer } from "./types";

/** Whether a network has any of what Policy shows. */
export const hasPolicy = ({ peers, rules }: Detail) => peers.length > 0 || rules.rules.length > 0 || rules.egress !== "" || rules.ingress !== "";

function directionName(direction: string): string {
    switch (direction) {
    case "out": return _("to the other");
    case "in": return _("from the other");
    default: return _("both ways");
    }
}

function Peers({ peers, label }: { peers: Peer[]; label: string }) {
    return (
        <Table aria-label={label} variant="compact">
            <Thead>
                <Tr><Th>{_("Peer")}</Th><Th>{_("Who opens")}</Th><Th>{_("What")}</Th><Th>{_("State")}</Th><Th>{_("Why it waits")}</Th></Tr>
            </Thead>
            <Tbody>
                {peers.map(p => (
                    <Tr key={p.network + p.direction + p.services.join()}>
                        <Td dataLabel={_("Peer")}><NetworkLink name={p.network} /></Td>
                        <Td dataLabel={_("Who opens")}>{directionName(p.direction)}</Td>
                        <Td dataLabel={_("What")}>{p.services.join(", ") || _("everything")}</Td>
                        <Td dataLabel={_("State")}><State state={p.state} word={p.state === "waiting" ? _("Waiting") : undefined} /></Td>
                        <Td dataLabel={_("Why it waits")}>{p.reason || "–"}</Td>
                    </Tr>
                ))}
            </Tbody>
        </Table>
    );
}

export function Policy({ detail: { peers, rules }, name }: { detail: Detail; name: string }) {
    const all = [
        ...rules.rules,
        ...(rules.egress ? [say(_("all else that guests open: $0"), rules.egress)] : []),
        ...(rules.ingress ? [say(_("all else that is opened to guests: $0"), rules.ingress)] : []),
    ];
    return (
        <>
            {peers.length > 0 && <Peers peers={peers} label={say(_("Peers of network $0"), name)} />}
            {all.length > 0 && (
                <List component={ListComponent.ol} type={OrderType.number} aria-label={say(_("Rules of network $0"), name)}>
                    {all.map((rule, i) => <ListItem key={i}>{rule}</ListItem>)}
                </List>
            )}
        </>
    );
}
