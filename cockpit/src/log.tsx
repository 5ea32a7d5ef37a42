// The log of vnetd, as it is written.
import { useEffect, useState } from "react";
import { Card, CardBody, CardHeader, CardTitle, FormSelect, FormSelectOption, Toolbar, ToolbarContent, ToolbarItem } from "@patternfly/react-core";
import { Nothing, ProblemAlert, Search } from "./parts";
import { _, matches, type Problem, problemOf } from "./text";

const most = 1000; // lines that are kept
const pause = 2000; // milliseconds before the journal is followed again, where that ended

interface Line {
    key: string;
    at: number; // milliseconds of Unix time
    priority: number; // of syslog: 0 is the worst
    message: string;
}

function parse(text: string): Line | null {
    try {
        const entry = JSON.parse(text) as Record<string, unknown>;
        if (typeof entry.MESSAGE !== "string") return null;
        return {
            key: String(entry.__CURSOR),
            at: Number(entry.__REALTIME_TIMESTAMP) / 1000,
            priority: Number(entry.PRIORITY ?? 6),
            message: entry.MESSAGE,
        };
    } catch {
        return null; // not an entry, as "-- No entries --"
    }
}

const journalctl = (...args: string[]) =>
    cockpit.spawn(["journalctl", "--unit=vnetd.service", "--output=json", "--quiet", ...args], { superuser: "try", err: "message" });

/** The last lines of the log and those that follow. */
function useLog(): { lines: Line[]; problem: Problem | null } {
    const [lines, setLines] = useState<Line[]>([]);
    const [problem, setProblem] = useState<Problem | null>(null);
    useEffect(() => {
        let closed = false;
        let journal: CockpitProcess | null = null;
        let timer = 0;
        let cursor = "";
        const add = (texts: string[]) => {
            const more = texts.map(parse).filter(line => line !== null);
            if (more.length === 0) return;
            cursor = more.at(-1)!.key;
            setProblem(null);
            setLines(old => [...old, ...more].slice(-most));
        };
        // What is there is read first: journalctl that follows from the end of a journal without
        // any line of the unit loses the first one.
        const read = () => {
            journal = journalctl("--lines=" + most);
            journal.then(text => { add(text.split("\n")); follow(); }, again);
        };
        const follow = () => {
            if (closed) return;
            let rest = "";
            journal = journalctl("--follow", "--no-tail", cursor ? "--after-cursor=" + cursor : "--since=-60s");
            journal.stream(data => {
                const parts = (rest + data).split("\n");
                rest = parts.pop()!;
                add(parts);
            });
            journal.then(() => again(null), again); // it ends where there is no journal yet, and with the session
        };
        const again = (error: unknown) => {
            if (closed) return;
            if (error) setProblem(problemOf(_("The log can't be read"), error));
            timer = window.setTimeout(cursor ? follow : read, pause);
        };
        read();
        return () => {
            closed = true;
            window.clearTimeout(timer);
            journal?.close("cancelled");
        };
    }, []);
    return { lines, problem };
}

function level(priority: number): string {
    if (priority <= 3) return _("Error");
    if (priority === 4) return _("Warning");
    return priority >= 7 ? _("Debug") : _("Info");
}

export function Log() {
    const { lines, problem } = useLog();
    const [wanted, setWanted] = useState("");
    const [worst, setWorst] = useState("7");
    const shown = lines.filter(l => l.priority <= Number(worst) && matches(wanted, l.message));
    const time = new Intl.DateTimeFormat(cockpit.language.replace("_", "-"), { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
    return (
        <Card>
            <CardHeader><CardTitle component="h2">{_("Log")}</CardTitle></CardHeader>
            <CardBody>
                <Toolbar>
                    <ToolbarContent>
                        <ToolbarItem><Search label={_("Search the log")} value={wanted} onChange={setWanted} /></ToolbarItem>
                        <ToolbarItem>
                            <FormSelect aria-label={_("Which lines are shown")} value={worst} onChange={(_event, value) => setWorst(value)}>
                                <FormSelectOption value="7" label={_("All lines")} />
                                <FormSelectOption value="6" label={_("Info and worse")} />
                                <FormSelectOption value="4" label={_("Warnings and errors")} />
                                <FormSelectOption value="3" label={_("Errors")} />
                            </FormSelect>
                        </ToolbarItem>
                    </ToolbarContent>
                </Toolbar>
                <ProblemAlert problem={problem} />
                {shown.length === 0
                    ? !problem && <Nothing title={lines.length === 0 ? _("The log of vnetd is empty") : _("No line matches the search")}>
                        {lines.length === 0 && _("The journal has no line of vnetd.service, or you may not read it: with administrative access you see all of it.")}
                    </Nothing>
                    : <div className="vnetd-log" role="log" tabIndex={0} aria-label={_("Log of vnetd, the latest line first")}>
                        {shown.slice().reverse().map(l => (
                            <div key={l.key} className={l.priority <= 3 ? "vnetd-log-error" : l.priority === 4 ? "vnetd-log-warning" : ""}>
                                <time dateTime={new Date(l.at).toISOString()}>{time.format(new Date(l.at))}</time> <span>{level(l.priority)}</span> {l.message}
                            </div>
                        ))}
                    </div>}
            </CardBody>
        </Card>
    );
}
