// Curves of the last minutes: traffic of networks, and leases.
import { scaleLinear, scaleTime } from "d3-scale";
import { line } from "d3-shape";
import { useEffect, useRef, useState } from "react";
import { describe, useVnetd } from "./bus";
import { kept, useRates } from "./host";
import { Nothing } from "./parts";
import { _, rate, say } from "./text";

interface Sample {
    at: number; // milliseconds of Unix time
    value: number;
}

export interface Series {
    name: string;
    samples: Sample[];
}

const width = 560;
const high = 180;
const margin = { left: 76, right: 28, top: 10, bottom: 24 };
const span = 5 * 60 * 1000; // milliseconds that are shown
const colours = 6; // of the style sheet

/** Curves over the last five minutes. Their last values stand in the legend, for who can't see them. */
export function Plot({ label, series, format }: { label: string; series: Series[]; format: (value: number) => string }) {
    const now = Math.max(0, ...series.flatMap(s => s.samples.at(-1)?.at ?? 0));
    if (now === 0) return <Nothing title={_("No figures yet")} />;
    const x = scaleTime().domain([now - span, now]).range([margin.left, width - margin.right]);
    const top = Math.max(1, ...series.flatMap(s => s.samples.map(p => p.value)));
    const y = scaleLinear().domain([0, top]).nice(4).range([high - margin.bottom, margin.top]);
    const path = line<Sample>().x(p => x(p.at)).y(p => y(p.value));
    const clock = new Intl.DateTimeFormat(cockpit.language.replace("_", "-"), { hour: "2-digit", minute: "2-digit" });
    const last = (s: Series) => format(s.samples.at(-1)?.value ?? 0);
    return (
        <figure className="vnetd-plot">
            <svg viewBox={`0 0 ${width} ${high}`} role="img" aria-label={label + ": " + series.map(s => `${s.name} ${last(s)}`).join(", ")}>
                {y.ticks(4).map(t => (
                    <g key={t}>
                        <line className="vnetd-grid" x1={margin.left} x2={width - margin.right} y1={y(t)} y2={y(t)} />
                        <text className="vnetd-tick" x={margin.left - 6} y={y(t) + 4} textAnchor="end">{format(t)}</text>
                    </g>
                ))}
                {x.ticks(5).map(t => <text key={+t} className="vnetd-tick" x={x(t)} y={high - 6} textAnchor="middle">{clock.format(t)}</text>)}
                {series.map((s, i) => <path key={s.name} className={`vnetd-curve vnetd-colour-${i % colours}`} d={path(s.samples.filter(p => p.at >= now - span)) ?? ""} />)}
            </svg>
            <figcaption>
                {series.map((s, i) => <span key={s.name} className="vnetd-legend"><span className={`vnetd-swatch vnetd-colour-${i % colours}`} aria-hidden="true" />{s.name}: {last(s)}</span>)}
            </figcaption>
        </figure>
    );
}

/** Traffic of networks between their bridges and the host. */
export function Throughput() {
    const { networks } = useVnetd();
    const rates = useRates();
    const series = networks.filter(n => n.Active && n.Bridge).flatMap(n => {
        const of = (key: "received" | "sent") => rates.flatMap(r => {
            const link = r.links.get(n.Bridge);
            return link ? [{ at: r.at, value: link[key] }] : [];
        });
        return [{ name: say(_("$0, to guests"), n.Name), samples: of("sent") }, { name: say(_("$0, from guests"), n.Name), samples: of("received") }];
    });
    if (series.length === 0) return <Nothing title={_("No network is active")} />;
    return <Plot label={_("Throughput")} series={series} format={rate} />;
}

const every = 2000; // milliseconds between two counts of leases

/** Leases of each active network. */
export function LeasePlot() {
    const { networks } = useVnetd();
    const [counts, setCounts] = useState(new Map<string, Sample[]>());
    const active = useRef(networks);
    active.current = networks.filter(n => n.Active);
    useEffect(() => {
        let gone = false;
        const look = async () => {
            const at = Date.now();
            const read = await Promise.all(active.current.map(async n => {
                const detail = await describe(n).catch(() => null); // it has stopped meanwhile
                return [n.Name, detail?.pools.reduce((sum, pool) => sum + pool.used, 0) ?? null] as const;
            }));
            if (gone) return;
            setCounts(old => new Map(read.flatMap(([name, value]) => value === null ? [] : [[name, [...(old.get(name) ?? []), { at, value }].slice(-kept)] as const])));
        };
        void look();
        const timer = window.setInterval(() => { if (!document.hidden) void look(); }, every);
        return () => { gone = true; window.clearInterval(timer); };
    }, []);
    if (active.current.length === 0) return <Nothing title={_("No network is active")} />;
    return <Plot label={_("Leases")} series={[...counts].map(([name, samples]) => ({ name, samples }))} format={value => Number.isInteger(value) ? String(value) : ""} />;
}
