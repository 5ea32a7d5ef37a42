// The editor of a network's document. What it would change, and make, is shown before it is saved.
import { useEffect, useRef, useState } from "react";
import {
    ActionList, ActionListItem, Breadcrumb, BreadcrumbItem, Button, Card, CardBody, CardHeader, CardTitle, ExpandableSection, Form, FormGroup, FormSelect,
    FormSelectOption, List, ListItem, TextArea,
} from "@patternfly/react-core";
import { createTwoFilesPatch } from "diff";
import { define, plan, useVnetd, xmlOf } from "./bus";
import { nameOf } from "./document";
import { draft } from "./networks";
import { go, Nothing, Notice, ProblemAlert, succeeded } from "./parts";
import { _, type Problem, problemOf, say } from "./text";
import type { Plan } from "./types";

const example = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>web</name>
  <forward mode='nat'/>
  <vnetd:subnet auto='yes'/>
</network>
`;

interface Review {
    xml: string; // that was looked at: saving another one needs another look
    before: string; // empty: there is no such network
    plan: Plan;
}

function Changes({ review }: { review: Review }) {
    if (!review.before) return <p>{_("A new network.")}</p>;
    const lines = createTwoFilesPatch("before", "after", review.before, review.xml, "", "", { context: 2 }).split("\n").slice(4)
        .filter(line => line !== "" && !line.startsWith("\\"));
    if (lines.length === 0) return <p>{_("The definition stays as it is.")}</p>;
    const kind = (line: string) => line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : line.startsWith("@@") ? "place" : "same";
    return (
        <pre className="vnetd-diff" tabIndex={0} aria-label={_("Changes of the definition")}>
            {lines.map((line, i) => <span key={i} className={"vnetd-diff-" + kind(line)}>{line + "\n"}</span>)}
        </pre>
    );
}

function Items({ title, items }: { title: string; items: string[] }) {
    if (items.length === 0) return null;
    return (
        <>
            <h3 className="vnetd-subtitle">{title}</h3>
            <List isPlain>{items.map((item, i) => <ListItem key={i}>{item}</ListItem>)}</List>
        </>
    );
}

function Planned({ plan: p }: { plan: Plan }) {
    const [open, setOpen] = useState(false);
    return (
        <>
            {p.conflicts.length > 0 && (
                <Notice variant="warning" title={_("This is in the way of a start")}>
                    <List isPlain>{p.conflicts.map((c, i) => <ListItem key={i}>{c}</ListItem>)}</List>
                </Notice>
            )}
            {p.not_understood.length > 0 && (
                <Notice variant="warning" title={_("Lines of dnsmasq options are not understood")}>
                    <List isPlain>{p.not_understood.map((c, i) => <ListItem key={i}>{c}</ListItem>)}</List>
                </Notice>
            )}
            <Items title={_("Only with its next start")} items={p.pending} />
            <Items title={_("Links")} items={p.links.map(l => l.made ? l.name : say(_("$0, which is the host's"), l.name))} />
            <Items title={_("Addresses")} items={p.addresses.map(a => `${a.address} (${a.link})`)} />
            <Items title={_("DHCP")} items={p.pools.flatMap(pool => pool.ranges.map(r => `${r.start} – ${r.end}`))} />
            <Items title={_("Services")} items={p.services.map(s => [s.name, s.addrs.join(", ")].filter(word => word).join(": "))} />
            <Items title={_("Peers and rules")} items={p.opens} />
            <Items title={_("Routes")} items={p.routes.map(r => `${r.destination} via ${r.gateway}`)} />
            {p.rules.length > 0 && (
                <ExpandableSection isExpanded={open} onToggle={(_event, on) => setOpen(on)}
                    toggleText={say(cockpit.ngettext("$0 firewall rule", "$0 firewall rules", p.rules.length), p.rules.length)}>
                    <pre className="vnetd-rules" tabIndex={0} aria-label={_("Firewall rules")}>{p.rules.map(r => `${r.family} ${r.table} ${r.chain} ${r.args}\n`).join("")}</pre>
                </ExpandableSection>
            )}
        </>
    );
}

/** The editor: of a network, or of a new one without a name. */
export function Editor({ name }: { name: string }) {
    const { networks } = useVnetd();
    const network = networks.find(n => n.Name === name);
    const [xml, setXML] = useState<string | null>(null);
    const [apply, setApply] = useState("harmless");
    const [review, setReview] = useState<Review | null>(null);
    const [problem, setProblem] = useState<Problem | null>(null);
    const [busy, setBusy] = useState(false);

    const path = network?.path;
    useEffect(() => {
        if (!name) {
            setXML(draft.xml || example);
            draft.xml = "";
            return;
        }
        // What is being edited stays, whatever becomes of the network meanwhile.
        if (network && xml === null) xmlOf(network).then(setXML, error => setProblem(problemOf(say(_("The document of network $0 can't be read"), name), error)));
        // eslint-disable-next-line
    }, [name, path]);

    const shown = useRef<HTMLDivElement>(null);
    useEffect(() => { if (review) shown.current?.scrollIntoView({ block: "start" }); }, [review]);

    const known = (text: string) => networks.find(n => n.Name === nameOf(text));
    const look = async () => {
        if (xml === null) return;
        setBusy(true);
        setProblem(null);
        setReview(null);
        try {
            const old = network ?? known(xml);
            const [planned, before] = await Promise.all([plan(xml), old ? xmlOf(old) : Promise.resolve("")]);
            setReview({ xml, before, plan: planned });
        } catch (error) {
            setProblem(problemOf(_("The document can't be used"), error));
        } finally {
            setBusy(false);
        }
    };
    const save = async () => {
        if (!review) return;
        setBusy(true);
        setProblem(null);
        try {
            const result = await define(review.xml, review.before ? { apply } : { new: true });
            succeeded(say(_("Network $0 is saved"), review.plan.name), <List isPlain>{[
                ...result.changes.map(c => say(_("Changed: $0"), c)), ...result.pending.map(p => say(_("With its next start: $0"), p)),
            ].map((line, i) => <ListItem key={i}>{line}</ListItem>)}</List>);
            go("networks", review.plan.name);
        } catch (error) {
            setProblem(problemOf(_("The network was not saved"), error));
            setReview(null);
        } finally {
            setBusy(false);
        }
    };

    if (name && !network && xml === null) return <Nothing title={say(_("There is no network $0"), name)} />;
    const current = review !== null && review.xml === xml;
    return (
        <>
            <Breadcrumb aria-label={_("Where this is")}>
                <BreadcrumbItem component="button" onClick={() => go("networks")}>{_("Networks")}</BreadcrumbItem>
                {name && <BreadcrumbItem component="button" onClick={() => go("networks", name)}>{name}</BreadcrumbItem>}
                <BreadcrumbItem isActive>{_("XML")}</BreadcrumbItem>
            </Breadcrumb>
            <Card>
                <CardHeader><CardTitle component="h2">{name ? say(_("Document of network $0"), name) : _("New network from XML")}</CardTitle></CardHeader>
                <CardBody>
                    <ProblemAlert problem={problem} />
                    <Form onSubmit={event => event.preventDefault()}>
                        <FormGroup label={_("XML, as libvirt has it")} fieldId="xml">
                            <TextArea id="xml" className="vnetd-xml" value={xml ?? ""} rows={20} spellCheck={false} resizeOrientation="vertical" onChange={(_event, text) => setXML(text)} />
                        </FormGroup>
                        {network?.Active && (
                            <FormGroup label={_("What the active network becomes at once")} fieldId="apply">
                                <FormSelect id="apply" value={apply} onChange={(_event, value) => setApply(value)}>
                                    <FormSelectOption value="harmless" label={_("What cuts off no guest")} />
                                    <FormSelectOption value="all" label={_("Everything, by a restart of the network where it takes one")} />
                                    <FormSelectOption value="none" label={_("Nothing: all of it with its next start")} />
                                </FormSelect>
                            </FormGroup>
                        )}
                    </Form>
                    <ActionList className="vnetd-actions">
                        <ActionListItem><Button variant={current ? "secondary" : "primary"} isLoading={busy && !current} isDisabled={busy || !xml} onClick={look}>{_("Review changes")}</Button></ActionListItem>
                        <ActionListItem><Button variant={current ? "primary" : "secondary"} isDisabled={busy || !current} onClick={save}>{_("Save")}</Button></ActionListItem>
                        <ActionListItem><Button variant="link" onClick={() => (name ? go("networks", name) : go("networks"))}>{_("Cancel")}</Button></ActionListItem>
                    </ActionList>
                </CardBody>
            </Card>
            {current && (
                <Card ref={shown}>
                    <CardHeader><CardTitle component="h2">{_("What saving this does")}</CardTitle></CardHeader>
                    <CardBody aria-live="polite"><Changes review={review} /><Planned plan={review.plan} /></CardBody>
                </Card>
            )}
        </>
    );
}
