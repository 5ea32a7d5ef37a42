// What is amiss on the host, and what helps.
import { Card, CardBody, CardHeader, CardTitle, ClipboardCopy, DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm } from "@patternfly/react-core";
import { useVnetd } from "./bus";
import { NetworkLink, Nothing, Notice } from "./parts";
import { _, moment } from "./text";
import type { Condition } from "./types";

const variants: Record<string, "danger" | "warning" | "info"> = { error: "danger", warning: "warning", info: "info" };

function One({ condition: c }: { condition: Condition }) {
    return (
        <Notice variant={variants[c.severity] ?? "warning"} title={c.message} component="h3" className="vnetd-condition">
            <DescriptionList isCompact isHorizontal>
                <DescriptionListGroup>
                    <DescriptionListTerm>{_("Kind")}</DescriptionListTerm>
                    <DescriptionListDescription>{c.kind}</DescriptionListDescription>
                </DescriptionListGroup>
                <DescriptionListGroup>
                    <DescriptionListTerm>{_("Networks")}</DescriptionListTerm>
                    <DescriptionListDescription>{c.networks.length === 0 ? _("the whole host") : c.networks.map((n, i) => <span key={n}>{i > 0 && ", "}<NetworkLink name={n} /></span>)}</DescriptionListDescription>
                </DescriptionListGroup>
                <DescriptionListGroup>
                    <DescriptionListTerm>{_("Since")}</DescriptionListTerm>
                    <DescriptionListDescription>{moment(c.since)}</DescriptionListDescription>
                </DescriptionListGroup>
                {c.evidence && (
                    <DescriptionListGroup>
                        <DescriptionListTerm>{_("Shown by")}</DescriptionListTerm>
                        <DescriptionListDescription><code className="vnetd-evidence">{c.evidence}</code></DescriptionListDescription>
                    </DescriptionListGroup>
                )}
                {c.remedy && (
                    <DescriptionListGroup>
                        <DescriptionListTerm>{_("What helps")}</DescriptionListTerm>
                        <DescriptionListDescription>
                            <ClipboardCopy isReadOnly isCode hoverTip={_("Copy")} clickTip={_("Copied")} textAriaLabel={_("The command that helps")} variant="inline-compact">{c.remedy}</ClipboardCopy>
                        </DescriptionListDescription>
                    </DescriptionListGroup>
                )}
            </DescriptionList>
        </Notice>
    );
}

export function ConditionList({ conditions }: { conditions: Condition[] }) {
    if (conditions.length === 0) return <Nothing title={_("Nothing is amiss")}>{_("What keeps guests from what their networks promise is told here within seconds.")}</Nothing>;
    return <>{conditions.map(c => <One key={c.kind + c.networks.join() + c.evidence} condition={c} />)}</>;
}

export function Conditions() {
    const { conditions } = useVnetd();
    return (
        <Card>
            <CardHeader><CardTitle component="h2">{_("Conditions")}</CardTitle></CardHeader>
            <CardBody aria-live="polite"><ConditionList conditions={conditions} /></CardBody>
        </Card>
    );
}
