// All at one glance: how many, what is amiss, the picture and the curves.
import { Button, Card, CardBody, CardHeader, CardTitle, Gallery, GalleryItem, Grid, GridItem } from "@patternfly/react-core";
import { useVnetd } from "./bus";
import { ConditionList } from "./conditions";
import { Picture } from "./graph";
import { go } from "./parts";
import { LeasePlot, Throughput } from "./plots";
import { _, say } from "./text";

function Count({ title, text, to }: { title: string; text: string; to: string }) {
    return (
        <GalleryItem>
            <Card isCompact isFullHeight>
                <CardHeader><CardTitle component="h2">{title}</CardTitle></CardHeader>
                <CardBody><Button variant="link" isInline aria-label={`${title}: ${text}`} onClick={() => go(to)}>{text}</Button></CardBody>
            </Card>
        </GalleryItem>
    );
}

function Panel({ title, children }: { title: string; children: React.ReactNode }) {
    return (
        <Card isFullHeight>
            <CardHeader><CardTitle component="h2">{title}</CardTitle></CardHeader>
            <CardBody>{children}</CardBody>
        </Card>
    );
}

export function Overview() {
    const { networks, ports, forwards, conditions } = useVnetd();
    const bad = conditions.filter(c => c.severity !== "info");
    return (
        <>
            <Gallery hasGutter minWidths={{ default: "160px" }}>
                <Count title={_("Networks")} to="networks" text={say(_("$0 active of $1"), networks.filter(n => n.Active).length, networks.length)} />
                <Count title={_("Ports and guests")} to="ports" text={say(_("$0 with an address of $1"), ports.filter(p => p.Addresses.length > 0).length, ports.length)} />
                <Count title={_("Forwards")} to="forwards" text={say(_("$0 active of $1"), forwards.filter(f => f.State === "active").length, forwards.length)} />
                <Count title={_("Conditions")} to="conditions" text={bad.length === 0 ? _("Nothing is amiss") : say(cockpit.ngettext("$0 needs a look", "$0 need a look", bad.length), bad.length)} />
            </Gallery>
            <Grid hasGutter>
                {bad.length > 0 && <GridItem span={12}><Panel title={_("What is amiss")}><ConditionList conditions={bad} /></Panel></GridItem>}
                <GridItem span={12}><Panel title={_("Picture")}><Picture /></Panel></GridItem>
                <GridItem span={12} lg={6}><Panel title={_("Throughput")}><Throughput /></Panel></GridItem>
                <GridItem span={12} lg={6}><Panel title={_("Leases")}><LeasePlot /></Panel></GridItem>
            </Grid>
        </>
    );
}
