// The list of networks, and what can be done with each.
import { useState } from "react";
import {
    Button, Card, CardBody, CardHeader, CardTitle, Checkbox, Dropdown, DropdownItem, DropdownList, FormGroup, FormHelperText, FormSelect,
    FormSelectOption, HelperText, HelperTextItem, MenuToggle, Switch, TextInput, Toolbar, ToolbarContent, ToolbarItem,
} from "@patternfly/react-core";
import { EllipsisVIcon } from "@patternfly/react-icons";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { daemon, define, startNetwork, startPath, stopNetwork, undefineNetwork, useVnetd } from "./bus";
import { nameFault, newDocument, subnetFault, type Words } from "./document";
import { Dialog, closeDialog, failed, go, NetworkLink, Nothing, openDialog, Search, State, succeeded } from "./parts";
import { _, matches, modeName, say } from "./text";
import type { Network, Port } from "./types";

async function start(n: Network) {
    try {
        await startNetwork(n);
        succeeded(say(_("Network $0 is started"), n.Name));
    } catch (error) {
        failed(say(_("Network $0 was not started"), n.Name), error);
    }
}

async function stop(n: Network) {
    try {
        await stopNetwork(n);
        succeeded(say(_("Network $0 is stopped"), n.Name));
    } catch (error) {
        failed(say(_("Network $0 was not stopped"), n.Name), error);
    }
}

async function setAutostart(n: Network, on: boolean) {
    try {
        await daemon.setAutostart(n, on);
    } catch (error) {
        failed(say(_("Autostart of network $0 was not changed"), n.Name), error);
    }
}

// A stop cuts guests off: that is asked about where there are some.
function askStop(n: Network, ports: Port[]) {
    const cut = ports.filter(p => p.Network === n.Name);
    if (cut.length === 0 && n.Persistent) {
        void stop(n);
        return;
    }
    openDialog(
        <Dialog title={say(_("Stop network $0?"), n.Name)} action={_("Stop")} danger failure={say(_("Network $0 was not stopped"), n.Name)}
            work={async () => { await stopNetwork(n); succeeded(say(_("Network $0 is stopped"), n.Name)); }}>
            {cut.length > 0 && <p>{say(cockpit.ngettext("$0 port is taken off, and its guest is cut off.", "$0 ports are taken off, and their guests are cut off.", cut.length), cut.length)}</p>}
            {!n.Persistent && <p>{_("The network has no definition on disk: it is gone when it stops.")}</p>}
        </Dialog>);
}

function askUndefine(n: Network) {
    openDialog(
        <Dialog title={say(_("Remove the definition of network $0?"), n.Name)} action={_("Remove")} danger failure={say(_("Network $0 was not removed"), n.Name)}
            work={async () => {
                await undefineNetwork(n);
                succeeded(say(_("The definition of network $0 is removed"), n.Name));
                if (!n.Active) go("networks");
            }}>
            <p>{n.Active ? _("The network goes on, and is gone when it is stopped.") : _("The network is gone, with its reservations and forwards.")}</p>
        </Dialog>);
}

/** The buttons of one network. */
export function NetworkActions({ network: n, ports }: { network: Network; ports: Port[] }) {
    return (
        <>
            {n.Active
                ? <Button variant="secondary" size="sm" aria-label={say(_("Stop network $0"), n.Name)} onClick={() => askStop(n, ports)}>{_("Stop")}</Button>
                : <Button variant="primary" size="sm" aria-label={say(_("Start network $0"), n.Name)} onClick={() => start(n)}>{_("Start")}</Button>}
        </>
    );
}

export function NetworkMenu({ network: n }: { network: Network }) {
    const [open, setOpen] = useState(false);
    return (
        <Dropdown isOpen={open} onOpenChange={setOpen} onSelect={() => setOpen(false)} popperProps={{ position: "right" }}
            toggle={ref => (
                <MenuToggle ref={ref} variant="plain" isExpanded={open} icon={<EllipsisVIcon />} aria-label={say(_("More actions of network $0"), n.Name)} onClick={() => setOpen(!open)} />
            )}>
            <DropdownList>
                <DropdownItem onClick={() => go("networks", n.Name, "xml")}>{_("Edit XML")}</DropdownItem>
                <DropdownItem isDanger isDisabled={!n.Persistent} onClick={() => askUndefine(n)}>{_("Remove definition")}</DropdownItem>
            </DropdownList>
        </Dropdown>
    );
}

export function Autostart({ network: n }: { network: Network }) {
    return (
        <Switch id={"autostart-" + n.UUID} aria-label={say(_("Start network $0 with the host"), n.Name)} isChecked={n.Autostart} isDisabled={!n.Persistent}
            onChange={(_event, on) => setAutostart(n, on)} />
    );
}

export function Networks() {
    const { networks, ports } = useVnetd();
    const [wanted, setWanted] = useState("");
    const shown = networks.filter(n => matches(wanted, n.Name, n.Bridge, modeName(n.Mode), n.State));
    return (
        <Card>
            <CardHeader>
                <CardTitle component="h2">{_("Networks")}</CardTitle>
            </CardHeader>
            <CardBody>
                <Toolbar>
                    <ToolbarContent>
                        <ToolbarItem><Search label={_("Search networks")} value={wanted} onChange={setWanted} /></ToolbarItem>
                        <ToolbarItem><Button variant="primary" onClick={() => openDialog(<NewNetwork />)}>{_("New network")}</Button></ToolbarItem>
                        <ToolbarItem><Button variant="secondary" onClick={() => go("new")}>{_("New from XML")}</Button></ToolbarItem>
                    </ToolbarContent>
                </Toolbar>
                {shown.length === 0
                    ? <Nothing title={networks.length === 0 ? _("No networks yet") : _("No network matches the search")}>
                        {networks.length === 0 && _("A new network gets a free subnet by itself; guests have addresses and names on it as soon as it is started.")}
                    </Nothing>
                    : <Table aria-label={_("Networks")} variant="compact">
                        <Thead>
                            <Tr>
                                <Th>{_("Name")}</Th><Th>{_("State")}</Th><Th>{_("Mode")}</Th><Th>{_("Bridge")}</Th><Th>{_("Ports")}</Th>
                                <Th>{_("With the host")}</Th><Th screenReaderText={_("Start or stop")} /><Th screenReaderText={_("More actions")} />
                            </Tr>
                        </Thead>
                        <Tbody>
                            {shown.map(n => (
                                <Tr key={n.path}>
                                    <Td dataLabel={_("Name")}><NetworkLink name={n.Name} /></Td>
                                    <Td dataLabel={_("State")}><State state={n.State} /></Td>
                                    <Td dataLabel={_("Mode")}>{modeName(n.Mode)}</Td>
                                    <Td dataLabel={_("Bridge")}>{n.Bridge}</Td>
                                    <Td dataLabel={_("Ports")}>{ports.filter(p => p.Network === n.Name).length}</Td>
                                    <Td dataLabel={_("With the host")}><Autostart network={n} /></Td>
                                    <Td><NetworkActions network={n} ports={ports} /></Td>
                                    <Td isActionCell><NetworkMenu network={n} /></Td>
                                </Tr>
                            ))}
                        </Tbody>
                    </Table>}
            </CardBody>
        </Card>
    );
}

// Field is one line of the form, with what is wrong with it.
function Field({ id, label, value, onChange, fault, help, required }: {
    id: string; label: string; value: string; onChange: (value: string) => void; fault: string; help?: string; required?: boolean;
}) {
    return (
        <FormGroup label={label} fieldId={id} isRequired={required}>
            <TextInput id={id} value={value} isRequired={required} validated={fault ? "error" : "default"} aria-describedby={id + "-help"}
                onChange={(_event, text) => onChange(text)} />
            <FormHelperText>
                <HelperText id={id + "-help"} isLiveRegion>
                    {(fault || help) && <HelperTextItem variant={fault ? "error" : "default"}>{fault || help}</HelperTextItem>}
                </HelperText>
            </FormHelperText>
        </FormGroup>
    );
}

/** The form of a new network. What it makes can be looked at as XML first. */
function NewNetwork() {
    const [words, setWords] = useState<Words>({ name: "", mode: "nat", subnet: "auto", subnet6: "none", domain: "" });
    const [touched, setTouched] = useState(false);
    const [startNow, setStartNow] = useState(true);
    const [withHost, setWithHost] = useState(false);
    const change = (part: Partial<Words>) => { setTouched(true); setWords({ ...words, ...part }); };
    const faults = { name: nameFault(words.name), subnet: subnetFault(4, words.subnet), subnet6: subnetFault(6, words.subnet6) };
    const faulty = Object.values(faults).some(fault => fault !== "");
    const create = async () => {
        const { path } = await define(newDocument(words), { new: true });
        succeeded(say(_("Network $0 is defined"), words.name));
        const made = { path, Name: words.name } as Network;
        // It is there from now on: what fails after that is told, and the form closes.
        if (withHost) await setAutostart(made, true);
        if (startNow) await startPath(path).catch(error => failed(say(_("Network $0 was not started"), words.name), error));
    };
    return (
        <Dialog title={_("New network")} action={_("Create")} failure={_("The network was not created")} disabled={faulty} work={create} wide
            more={<Button variant="secondary" isDisabled={faulty} onClick={() => { draft.xml = newDocument(words); closeDialog(); go("new"); }}>{_("Review as XML")}</Button>}>
            <Field id="new-name" label={_("Name")} value={words.name} required onChange={name => change({ name })} fault={touched ? faults.name : ""} />
            <FormGroup label={_("Mode")} fieldId="new-mode">
                <FormSelect id="new-mode" value={words.mode} onChange={(_event, mode) => change({ mode })} aria-label={_("Mode")}>
                    <FormSelectOption value="nat" label={_("NAT: guests reach the outside by the host's addresses")} />
                    <FormSelectOption value="route" label={_("Routed: guests are reached by their own addresses")} />
                    <FormSelectOption value="open" label={_("Open: routed, without any rules")} />
                    <FormSelectOption value="none" label={_("Isolated: guests reach each other and the host")} />
                </FormSelect>
            </FormGroup>
            <Field id="new-subnet" label={_("IPv4 subnet")} value={words.subnet} onChange={subnet => change({ subnet })} fault={faults.subnet}
                help={_("auto: a free one is chosen. none, or one as 192.168.50.0/24")} />
            <Field id="new-subnet6" label={_("IPv6 subnet")} value={words.subnet6} onChange={subnet6 => change({ subnet6 })} fault={faults.subnet6}
                help={_("none, auto for a local one, or one as fd00:50::/64")} />
            <Field id="new-domain" label={_("DNS domain of the guests")} value={words.domain} onChange={domain => change({ domain })} fault="" help={_("May be left empty")} />
            <Checkbox id="new-start" label={_("Start it now")} isChecked={startNow} onChange={(_event, on) => setStartNow(on)} />
            <Checkbox id="new-autostart" label={_("Start it with the host")} isChecked={withHost} onChange={(_event, on) => setWithHost(on)} />
        </Dialog>
    );
}

/** What the form has made for the editor of a new network. */
export const draft = { xml: "" };
