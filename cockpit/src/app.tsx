// The frame of the page: which part is shown, and what is shown while vnetd does not answer.
import { Button, EmptyState, EmptyStateActions, EmptyStateBody, EmptyStateFooter, Nav, NavItem, NavList, Page, PageSection, Spinner } from "@patternfly/react-core";
import { useState } from "react";
import { daemon, useVnetd } from "./bus";
import { Conditions } from "./conditions";
import { Editor } from "./editor";
import { Forwards } from "./forwards";
import { Leases } from "./leases";
import { Log } from "./log";
import { NetworkPage } from "./network";
import { Networks } from "./networks";
import { Overview } from "./overview";
import { DialogHost, failed, go, Notice, Toasts, useLocation } from "./parts";
import { Ports } from "./ports";
import { _, problemOf } from "./text";

const parts: Record<string, { title: () => string; page: (rest: string[]) => React.ReactNode; hidden?: boolean }> = {
    "": { title: () => _("Overview"), page: () => <Overview /> },
    networks: {
        title: () => _("Networks"),
        page: ([name, what]) => !name ? <Networks /> : what === "xml" ? <Editor key={name} name={name} /> : <NetworkPage key={name} name={name} />,
    },
    ports: { title: () => _("Ports"), page: () => <Ports /> },
    leases: { title: () => _("Leases"), page: () => <Leases /> },
    forwards: { title: () => _("Forwards"), page: () => <Forwards /> },
    conditions: { title: () => _("Conditions"), page: () => <Conditions /> },
    log: { title: () => _("Log"), page: () => <Log /> },
    new: { title: () => "", page: () => <Editor key="new" name="" />, hidden: true },
};

// Stopped says what to do when vnetd does not run: start it, or see why it ended.
function Stopped() {
    const [busy, setBusy] = useState(false);
    const start = async () => {
        setBusy(true);
        try {
            await cockpit.spawn(["systemctl", "start", "vnetd.service"], { superuser: "try", err: "message" });
        } catch (error) {
            failed(_("vnetd was not started"), error);
        } finally {
            setBusy(false);
        }
    };
    return (
        <EmptyState titleText={_("vnetd does not run")} headingLevel="h2" status="warning">
            <EmptyStateBody>
                {_("Active networks, guests and leases stay as they are, but nothing answers DHCP and DNS. Start the service, or see in its log why it ended.")}
            </EmptyStateBody>
            <EmptyStateFooter>
                <EmptyStateActions>
                    <Button variant="primary" isLoading={busy} isDisabled={busy} onClick={start}>{_("Start vnetd")}</Button>
                </EmptyStateActions>
                <EmptyStateActions>
                    <Button variant="link" onClick={() => go("log")}>{_("Show the log")}</Button>
                </EmptyStateActions>
            </EmptyStateFooter>
        </EmptyState>
    );
}

function Body({ path }: { path: string[] }) {
    const { link, error, version } = useVnetd();
    const part = path[0] ?? "";
    // The log can be read without vnetd.
    if (part !== "log") {
        if (link === "stopped") return <Stopped />;
        if (link === "connecting") return <EmptyState titleText={_("Connecting to vnetd …")} headingLevel="h2" icon={Spinner} />;
        if (link === "lost" && !version) {
            return (
                <EmptyState titleText={_("vnetd can't be reached")} headingLevel="h2" status="danger">
                    <EmptyStateBody>{problemOf("", error).text}</EmptyStateBody>
                    <EmptyStateFooter><Button variant="primary" onClick={daemon.recover}>{_("Try again")}</Button></EmptyStateFooter>
                </EmptyState>
            );
        }
    }
    return (
        <>
            {link === "lost" && (
                <Notice variant="danger" title={_("The connection to vnetd is lost: what is shown may be old. It is tried again.")}
                    actionLinks={<Button variant="link" isInline onClick={daemon.recover}>{_("Try again")}</Button>}>
                    {problemOf("", error).text}
                </Notice>
            )}
            {(parts[part] ?? parts[""]!).page(path.slice(1))}
        </>
    );
}

export function App() {
    const path = useLocation();
    const { conditions } = useVnetd();
    const part = path[0] && path[0] in parts ? path[0] : "";
    const shown = part === "new" ? "networks" : part;
    const bad = conditions.filter(c => c.severity !== "info").length;
    return (
        <Page className="pf-m-no-sidebar" isContentFilled>
            <h1 className="vnetd-hidden">{_("Virtual networks")}</h1>
            <PageSection type="tabs" hasBodyWrapper={false} className="vnetd-tabs">
                <Nav variant="horizontal-subnav" aria-label={_("Parts of the page")}>
                    <NavList>
                        {Object.entries(parts).filter(([, p]) => !p.hidden).map(([key, p]) => (
                            <NavItem key={key} itemId={key} isActive={key === shown} to={"#/" + key} preventDefault onClick={() => (key ? go(key) : go())}>
                                {p.title()}{key === "conditions" && bad > 0 ? ` (${bad})` : ""}
                            </NavItem>
                        ))}
                    </NavList>
                </Nav>
            </PageSection>
            <PageSection hasBodyWrapper={false} className="vnetd-body"><Body path={path} /></PageSection>
            <Toasts />
            <DialogHost />
        </Page>
    );
}

