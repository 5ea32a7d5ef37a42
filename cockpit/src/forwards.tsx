// Ports of the host that lead to guests.
import { useState } from "react";
import {
    Button, Card, CardBody, CardHeader, CardTitle, FormGroup, FormHelperText, FormSelect, FormSelectOption, HelperText, HelperTextItem, TextInput, Toolbar,
    ToolbarContent, ToolbarItem,
} from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { addForward, releaseForward, useVnetd } from "./bus";
import { Dialog, NetworkLink, Nothing, openDialog, Search, State, succeeded } from "./parts";
import { _, matches, say } from "./text";
import type { Forward, Network } from "./types";

const words = (f: Forward) => `${f.Protocol}/${f.Ports}`;

function askRelease(f: Forward) {
    openDialog(
        <Dialog title={say(_("Delete the forward of $0?"), words(f))} action={_("Delete")} danger failure={say(_("The forward of $0 was not deleted"), words(f))}
            work={async () => { await releaseForward(f); succeeded(say(_("The forward of $0 is deleted"), words(f))); }}>
            <p>{_("Connections that go on by it end.")}</p>
        </Dialog>);
}

// portNumber is a port that was typed, 0 for none, or null for what is no port.
function portNumber(text: string): number | null {
    if (text.trim() === "") return 0;
    const n = Number(text);
    return Number.isInteger(n) && n > 0 && n < 65536 ? n : null;
}

function NewForward({ networks }: { networks: Network[] }) {
    const [network, setNetwork] = useState(networks[0]!.Name);
    const [protocol, setProtocol] = useState("tcp");
    const [ports, setPorts] = useState("");
    const [to, setTo] = useState("");
    const [toPort, setToPort] = useState("");
    const [address, setAddress] = useState("");
    const target = portNumber(toPort);
    const add = async () => {
        const n = networks.find(n => n.Name === network)!;
        await addForward(n, { ports: ports.trim(), to: to.trim(), to_port: target ?? 0, protocol, address: address.trim() });
        succeeded(say(_("$0 leads to $1 now"), `${protocol}/${ports.trim()}`, to.trim()));
    };
    const input = (id: string, label: string, value: string, set: (text: string) => void, required: boolean, help: string, fault = "") => (
        <FormGroup label={label} fieldId={id} isRequired={required}>
            <TextInput id={id} value={value} isRequired={required} validated={fault ? "error" : "default"} aria-describedby={id + "-help"} onChange={(_event, text) => set(text)} />
            <FormHelperText><HelperText id={id + "-help"} isLiveRegion><HelperTextItem variant={fault ? "error" : "default"}>{fault || help}</HelperTextItem></HelperText></FormHelperText>
        </FormGroup>
    );
    return (
        <Dialog title={_("Add forward")} action={_("Add")} failure={_("The forward was not added")} work={add} disabled={!ports.trim() || !to.trim() || target === null}>
            <FormGroup label={_("Network")} fieldId="forward-network">
                <FormSelect id="forward-network" value={network} onChange={(_event, value) => setNetwork(value)}>
                    {networks.map(n => <FormSelectOption key={n.path} value={n.Name} label={n.Name} />)}
                </FormSelect>
            </FormGroup>
            <FormGroup label={_("Protocol")} fieldId="forward-protocol">
                <FormSelect id="forward-protocol" value={protocol} onChange={(_event, value) => setProtocol(value)}>
                    {["tcp", "udp", "sctp"].map(p => <FormSelectOption key={p} value={p} label={p} />)}
                </FormSelect>
            </FormGroup>
            {input("forward-ports", _("Ports of the host"), ports, setPorts, true, _("One port or a range, as 8080 or 9000-9009"))}
            {input("forward-to", _("Guest"), to, setTo, true, _("Its name, MAC address or IP address"))}
            {input("forward-to-port", _("Port of the guest"), toPort, setToPort, false, _("Left empty: the same"), target === null ? say(_("\"$0\" is no port: write a number from 1 to 65535."), toPort) : "")}
            {input("forward-address", _("Address of the host"), address, setAddress, false, _("Left empty: all of them"))}
        </Dialog>
    );
}

export function ForwardTable({ forwards, label, of }: { forwards: Forward[]; label: string; of?: string }) {
    if (forwards.length === 0) return <Nothing title={_("No forwards")}>{_("A forward leads what is sent to a port of the host to a guest.")}</Nothing>;
    return (
        <Table aria-label={label} variant="compact">
            <Thead>
                <Tr>
                    <Th>{_("Ports of the host")}</Th>{!of && <Th>{_("Network")}</Th>}<Th>{_("Guest")}</Th><Th>{_("Port of the guest")}</Th><Th>{_("Leads to")}</Th><Th>{_("State")}</Th>
                    <Th screenReaderText={_("Delete")} />
                </Tr>
            </Thead>
            <Tbody>
                {forwards.map(f => (
                    <Tr key={f.path}>
                        <Td dataLabel={_("Ports of the host")}>{words(f)}{f.Address && ` (${f.Address})`}</Td>
                        {!of && <Td dataLabel={_("Network")}><NetworkLink name={f.Network} /></Td>}
                        <Td dataLabel={_("Guest")}>{f.To}</Td>
                        <Td dataLabel={_("Port of the guest")}>{f.ToPort || "–"}</Td>
                        <Td dataLabel={_("Leads to")}>{f.Targets.join(", ") || "–"}</Td>
                        <Td dataLabel={_("State")}><State state={f.State} /></Td>
                        <Td isActionCell><Button variant="secondary" size="sm" isDanger aria-label={say(_("Delete the forward of $0"), words(f))} onClick={() => askRelease(f)}>{_("Delete")}</Button></Td>
                    </Tr>
                ))}
            </Tbody>
        </Table>
    );
}

export function Forwards() {
    const { networks, forwards } = useVnetd();
    const [wanted, setWanted] = useState("");
    const able = networks.filter(n => n.Mode === "nat" || n.Mode === "route");
    const shown = forwards.filter(f => matches(wanted, f.Ports, f.Protocol, f.Network, f.To, f.Address, ...f.Targets));
    return (
        <Card>
            <CardHeader><CardTitle component="h2">{_("Forwards")}</CardTitle></CardHeader>
            <CardBody>
                <Toolbar>
                    <ToolbarContent>
                        <ToolbarItem><Search label={_("Search forwards")} value={wanted} onChange={setWanted} /></ToolbarItem>
                        <ToolbarItem><Button variant="primary" isDisabled={able.length === 0} onClick={() => openDialog(<NewForward networks={able} />)}>{_("Add forward")}</Button></ToolbarItem>
                    </ToolbarContent>
                </Toolbar>
                {forwards.length > 0 && shown.length === 0
                    ? <Nothing title={_("No forward matches the search")} />
                    : <ForwardTable forwards={shown} label={_("Forwards")} />}
            </CardBody>
        </Card>
    );
}
