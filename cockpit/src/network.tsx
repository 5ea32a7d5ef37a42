// One network with all that hangs on it.
import { useEffect, useState } from "react";
import {
    Breadcrumb, BreadcrumbItem, Button, Card, CardBody, CardHeader, CardTitle, DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm,
    Flex, FlexItem, List, ListItem,
} from "@patternfly/react-core";
import { define, describe, useVnetd, xmlOf } from "./bus";
import { ConditionList } from "./conditions";
import { ForwardTable } from "./forwards";
import { LeaseTable } from "./leases";
import { Autostart, NetworkActions, NetworkMenu } from "./networks";
import { Dialog, go, Nothing, Notice, openDialog, State, succeeded } from "./parts";
import { hasPolicy, Policy } from "./policy";
import { PortTable } from "./ports";
import { _, modeName, say } from "./text";
import type { Detail, Network } from "./types";

const every = 3000; // milliseconds between two looks at what no signal tells of

/** What Describe tells of a network, as long as it is shown. */
export function useDetail(n: Network | undefined): Detail | null {
    const [detail, setDetail] = useState<Detail | null>(null);
    const key = n && [n.path, n.State, n.LastError, n.Pending.join()].join();
    useEffect(() => {
        if (!n) return;
        let gone = false;
        const look = () => describe(n).then(d => { if (!gone) setDetail(d); }, () => {}); // what is wrong with it, its properties say
        void look();
        const timer = window.setInterval(() => { if (!document.hidden) void look(); }, every);
        return () => { gone = true; window.clearInterval(timer); };
        // eslint-disable-next-line
    }, [key]);
    return detail;
}

function Fact({ term, children }: { term: string; children: React.ReactNode }) {
    return (
        <DescriptionListGroup>
            <DescriptionListTerm>{term}</DescriptionListTerm>
            <DescriptionListDescription>{children}</DescriptionListDescription>
        </DescriptionListGroup>
    );
}

function askApply(n: Network) {
    openDialog(
        <Dialog title={say(_("Apply all changes to network $0?"), n.Name)} action={_("Apply")} danger failure={say(_("The changes of network $0 were not applied"), n.Name)}
            work={async () => { await define(await xmlOf(n), { apply: "all" }); succeeded(say(_("The changes of network $0 are in force"), n.Name)); }}>
            <p>{_("Where it takes a restart of the network, guests are without it for a moment.")}</p>
        </Dialog>);
}

function Pending({ network: n }: { network: Network }) {
    if (n.Pending.length === 0) return null;
    return (
        <Notice variant="info" title={_("Its next start changes")} actionLinks={<Button variant="link" isInline onClick={() => askApply(n)}>{_("Apply now")}</Button>}>
            <List isPlain>{n.Pending.map((p, i) => <ListItem key={i}>{p}</ListItem>)}</List>
        </Notice>
    );
}

function Facts({ network: n, detail }: { network: Network; detail: Detail | null }) {
    return (
        <DescriptionList columnModifier={{ default: "1Col", lg: "2Col" }} isHorizontal isCompact>
            <Fact term={_("Mode")}>{modeName(n.Mode)}</Fact>
            <Fact term={_("Bridge")}>{n.Bridge || "–"}</Fact>
            <Fact term={_("With the host")}><Autostart network={n} /></Fact>
            <Fact term={_("Definition on disk")}>{n.Persistent ? _("Yes") : _("No: it is gone when it stops")}</Fact>
            {detail && <Fact term={_("Addresses of the host")}>{detail.addresses.join(", ") || "–"}</Fact>}
            {detail?.pools.map((pool, i) => (
                <Fact key={i} term={say(_("Leases of $0"), pool.family === "ipv6" ? "IPv6" : "IPv4")}>
                    {say(_("$0 of $1, $2 reserved"), pool.used, pool.size, pool.reservations)}
                </Fact>
            ))}
            {detail?.dns && <Fact term={_("DNS domain")}>{detail.dns.domain || "–"}</Fact>}
            {detail?.dns && <Fact term={_("DNS asks")}>{detail.dns.upstreams.map(u => u.failing ? say(_("$0 (fails)"), u.addr) : u.addr).join(", ") || "–"}</Fact>}
            {detail && detail.mtu > 0 && <Fact term={_("MTU")}>{detail.mtu}</Fact>}
            <Fact term={_("UUID")}>{n.UUID}</Fact>
        </DescriptionList>
    );
}

function Section({ title, children }: { title: string; children: React.ReactNode }) {
    return (
        <Card>
            <CardHeader><CardTitle component="h3">{title}</CardTitle></CardHeader>
            <CardBody>{children}</CardBody>
        </Card>
    );
}

export function NetworkPage({ name }: { name: string }) {
    const { networks, ports, forwards } = useVnetd();
    const n = networks.find(n => n.Name === name);
    const detail = useDetail(n);
    if (!n) {
        return (
            <Nothing title={say(_("There is no network $0"), name)}>
                <Button variant="link" onClick={() => go("networks")}>{_("All networks")}</Button>
            </Nothing>
        );
    }
    const faults = Object.entries(detail?.faults ?? {});
    return (
        <>
            <Breadcrumb aria-label={_("Where this is")}>
                <BreadcrumbItem component="button" onClick={() => go("networks")}>{_("Networks")}</BreadcrumbItem>
                <BreadcrumbItem isActive>{n.Name}</BreadcrumbItem>
            </Breadcrumb>
            <Card>
                <CardHeader actions={{ actions: <Flex><FlexItem><NetworkActions network={n} ports={ports} /></FlexItem><FlexItem><NetworkMenu network={n} /></FlexItem></Flex>, hasNoOffset: true }}>
                    <CardTitle component="h2">{n.Name} <State state={n.State} /></CardTitle>
                </CardHeader>
                <CardBody>
                    {n.LastError && <Notice variant={n.State === "failed" ? "danger" : "warning"} title={n.LastError} />}
                    {faults.length > 0 && !n.LastError && <Notice variant="warning" title={_("Parts of it fail")}>{faults.map(([part, why]) => <p key={part}>{part}: {why}</p>)}</Notice>}
                    <Pending network={n} />
                    <Facts network={n} detail={detail} />
                </CardBody>
            </Card>
            {n.Conditions.length > 0 && <Section title={_("Conditions")}><ConditionList conditions={n.Conditions} /></Section>}
            {detail && hasPolicy(detail) && <Section title={_("Peers and rules")}><Policy detail={detail} name={n.Name} /></Section>}
            <Section title={_("Ports and guests")}><PortTable ports={ports.filter(p => p.Network === n.Name)} label={say(_("Ports of network $0"), n.Name)} of={n.Name} /></Section>
            <Section title={_("Leases")}><LeaseTable networks={[n]} wanted="" label={say(_("Leases of network $0"), n.Name)} of={n.Name} /></Section>
            <Section title={_("Forwards")}><ForwardTable forwards={forwards.filter(f => f.Network === n.Name)} label={say(_("Forwards of network $0"), n.Name)} of={n.Name} /></Section>
        </>
    );
}
