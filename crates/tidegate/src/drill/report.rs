//! The report of a drill: one HTML file with everything in it, and the same as JSON.

use super::{
    api,
    run::{Outcome, Weather},
};
use crate::cli::DrillArgs;
use serde_json::{Value, json};
use std::{fmt::Write as _, time::Duration};

/// A picture: some series over the time of the drill.
struct Chart {
    title: &'static str,
    what: &'static str,
    unit: &'static str,
    series: &'static [(&'static str, &'static str)],
}

const CHARTS: &[Chart] = &[
    Chart {
        title: "Clients that hold a session",
        what: "Every client that shall hold a session, and those that do.",
        unit: "",
        series: &[("held", "shall"), ("up", "do")],
    },
    Chart {
        title: "Running connections",
        what: "The longest that any running connection waited for an answer. Each sends a line five times a second.",
        unit: "ms",
        series: &[("longest_wait_ms", "longest wait")],
    },
    Chart {
        title: "New connections",
        what: "Clients that start from their disk, register, open a connection and get its first byte.",
        unit: "ms",
        series: &[("first_byte_ms", "middle"), ("first_byte_worst_ms", "slowest")],
    },
    Chart {
        title: "Registrations at the PoP, and re-authentications",
        what: "Sessions made, starts of broken clients, and grants renewed.",
        unit: "/s",
        series: &[
            ("registered_per_s", "sessions"),
            ("surged_per_s", "broken clients' starts"),
            ("renewed_per_s", "grants"),
        ],
    },
    Chart {
        title: "Reads of the API",
        what: "The slowest read in each half second.",
        unit: "ms",
        series: &[("read_ms", "slowest")],
    },
    Chart {
        title: "Writes of the API",
        what: "Done, and refused with 503: nothing is half-done.",
        unit: "/s",
        series: &[("writes_ok", "done"), ("writes_refused", "refused"), ("writes_else", "anything else")],
    },
    Chart {
        title: "How long writes of the API took",
        what: "The slowest in each half second.",
        unit: "ms",
        series: &[("write_ms", "done"), ("refusal_ms", "refused")],
    },
    Chart {
        title: "Connections to the database",
        what: "Of the controller, counted between it and the server. It holds 8 at the most.",
        unit: "",
        series: &[("connections", "open")],
    },
    Chart {
        title: "Memory of the PoP",
        what: "Resident memory of the PoP process; of several, the largest.",
        unit: "MiB",
        series: &[("pop_mib", "resident")],
    },
    Chart {
        title: "Database statements",
        what: "Of SQLite counted by its own trace, of PostgreSQL where the controller sends them.",
        unit: "/s",
        series: &[("statements_per_s", "statements")],
    },
    Chart {
        title: "Memory of the controller",
        what: "Resident memory of the controller's process.",
        unit: "MiB",
        series: &[("controller_mib", "resident")],
    },
    Chart {
        title: "Descriptors of the controller",
        what: "Sockets and files that the controller's process has open.",
        unit: "",
        series: &[("controller_descriptors", "open")],
    },
];

/// More stretches than this are listed in two columns.
const LONG_LIST: usize = 24;
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;

const STYLE: &str = "
:root{color-scheme:light dark;--page:light-dark(#f1f4f4,#0a1519);--surface:light-dark(#fff,#101f25);
--line:light-dark(#dde5e5,#21363e);--text:light-dark(#10242c,#e6eeef);--text-2:light-dark(#4b6069,#a2b6bd);
--tide:light-dark(#0a6c67,#56c7ba);--good:light-dark(#0b6b4f,#62cfa4);--good-soft:light-dark(#e1f3ea,#11322a);
--bad:light-dark(#b0262e,#ff8f8c);--bad-soft:light-dark(#fdebeb,#3c1b1d);--far-soft:light-dark(#fcebe1,#3a2113);
--a:light-dark(#2c5fae,#86b2f4);--b:light-dark(#0a7a73,#4fc3b5);--c:light-dark(#a2400f,#f19a68)}
body{margin:0;background:var(--page);color:var(--text);font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}
main{max-width:920px;margin:0 auto;padding:32px 16px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:16px;margin:0 0 2px}p{margin:4px 0 12px;color:var(--text-2);max-width:70ch}
.verdict{font-size:18px;font-weight:600;padding:12px 16px;border-radius:10px;margin:16px 0}
.verdict.good{background:var(--good-soft);color:var(--good)}.verdict.bad{background:var(--bad-soft);color:var(--bad)}
section{background:var(--surface);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0;overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--text-2);font-size:12px}td.word{white-space:nowrap;font-weight:600}
td.good{color:var(--good)}td.bad{color:var(--bad)}svg{display:block;width:100%;height:auto;min-width:560px}
svg text{font-size:11px;fill:var(--text-2)}.grid{stroke:var(--line)}.fault{fill:var(--far-soft)}
.s0{stroke:var(--a)}.s1{stroke:var(--b);stroke-dasharray:5 3}.s2{stroke:var(--c);stroke-dasharray:1.5 3}
.s0,.s1,.s2{fill:none;stroke-width:1.8;stroke-linejoin:round}ul.key{list-style:none;display:flex;gap:20px;margin:6px 0 0;padding:0;font-size:12px;color:var(--text-2)}
ul.key svg{display:inline-block;width:28px;min-width:0;height:8px;margin-right:6px;vertical-align:middle}ol{margin:0;padding-left:26px}
ol.long{columns:2;column-gap:32px}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A round number at or above `value`.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= value).unwrap_or(10.0);
    step * power
}

fn number(value: f64) -> String {
    let (scaled, unit) = if value >= 1_000.0 { (value / 1_000.0, " k") } else { (value, "") };
    let text = format!("{scaled:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

fn draw(chart: &Chart, outcome: &Outcome) -> Option<String> {
    let end = outcome.samples.last()?.at_s.max(1.0);
    let values = |key: &str| -> Vec<(f64, f64)> {
        outcome.samples.iter().filter_map(|sample| Some((sample.at_s, *sample.values.get(key)?))).collect()
    };
    let series: Vec<(&str, Vec<(f64, f64)>)> = chart
        .series
        .iter()
        .map(|(key, name)| (*name, values(key)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let most = series.iter().flat_map(|(_, points)| points).map(|(_, value)| *value).fold(0.0, f64::max);
    if series.is_empty() {
        return None;
    }
    let top = ceiling(most);
    let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - 8.0);
    let y = |value: f64| TOP + (1.0 - value / top) * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let label = format!("{}: at most {} {}", chart.title, number(most.round()), chart.unit);
    let _ =
        write!(svg, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(&label));
    for phase in outcome.phases.iter().filter(|phase| phase.weather == Weather::Fault) {
        let (from, to) = (x(phase.from_s), x(phase.to_s.min(end)));
        let _ = write!(
            svg,
            "<rect class=\"fault\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            (to - from).max(0.0),
            HEIGHT - TOP - BOTTOM,
            escape(&phase.name)
        );
    }
    for part in [0.0, 0.5, 1.0] {
        let at = y(top * part);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 8.0,
            LEFT - 6.0,
            at + 4.0,
            number(top * part)
        );
    }
    let step = ceiling(end / 8.0);
    let mut tick = 0.0;
    while tick <= end {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.0} s</text>",
            x(tick),
            HEIGHT - 6.0
        );
        tick += step;
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let points: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            svg,
            "<polyline class=\"s{index}\" points=\"{}\"><title>{}</title></polyline>",
            points.join(" "),
            escape(name)
        );
    }
    svg.push_str("</svg><ul class=\"key\">");
    for (index, (name, _)) in series.iter().enumerate() {
        let _ = write!(
            svg,
            "<li><svg viewBox=\"0 0 28 8\" aria-hidden=\"true\"><line class=\"s{index}\" x1=\"0\" x2=\"28\" y1=\"4\" y2=\"4\"/></svg>{}{}</li>",
            escape(name),
            if chart.unit.is_empty() { String::new() } else { format!(", {}", chart.unit) }
        );
    }
    svg.push_str("</ul>");
    Some(svg)
}

/// What the API answered in each stretch, and how fast.
fn answers(outcome: &Outcome) -> String {
    let mut table = String::from(
        "<section><h2>Answers of the API</h2><table><tr><th>Stretch<th>Calls<th>Answers<th>Middle<th>99 of 100<th>Slowest</tr>",
    );
    for phase in &outcome.phases {
        for (what, calls) in [("reads", &phase.reads), ("writes", &phase.writes)] {
            let Some(spread) = api::Spread::of(calls) else { continue };
            let _ = write!(
                table,
                "<tr><td>{}<td>{what}<td>{}<td>{} ms<td>{} ms<td>{} ms</tr>",
                escape(&phase.name),
                escape(&api::words(&api::tally(calls))),
                spread.p50_ms,
                spread.p99_ms,
                spread.slowest_ms
            );
        }
    }
    table + "</table></section>"
}

/// The page.
pub fn render(args: &DrillArgs, outcome: &Outcome, took: Duration) -> String {
    let failed = outcome.levels.iter().filter(|level| !level.holds).count();
    let (class, verdict) = match failed {
        0 => ("good", format!("All {} pass levels are reached.", outcome.levels.len())),
        _ => ("bad", format!("{failed} of {} pass levels are not reached.", outcome.levels.len())),
    };
    let drill = args.drill.word();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Tidegate drill: {drill}</title><style>{STYLE}</style><main><h1>Drill: {drill}</h1><p>{}</p>\
         <div class=\"verdict {class}\">{verdict}</div>",
        escape(args.drill.story())
    );
    let crowd = outcome.crowd;
    let _ = write!(
        page,
        "<p>Real processes on one host: {} devices enrolled by the API, of which {} hold a session, {} have a running \
         connection through a connector, and the rest start from disk {} times a second. Seed {}; {:.0} s in all. Tidegate {}.</p>",
        crowd.all,
        crowd.held,
        crowd.flows,
        crowd.visits_per_second,
        args.seed,
        took.as_secs_f64(),
        env!("CARGO_PKG_VERSION")
    );
    page.push_str("<section><h2>Verdict</h2><table><tr><th>&nbsp;<th>What<th>To reach<th>Measured</tr>");
    for level in &outcome.levels {
        let (class, word) = if level.holds { ("good", "holds") } else { ("bad", "failed") };
        let _ = write!(
            page,
            "<tr><td class=\"word {class}\">{word}<td>{}<td>{}<td>{}</tr>",
            escape(&level.what),
            escape(&level.to_reach),
            escape(&level.measured)
        );
    }
    page.push_str("</table></section><section><h2>What happened</h2>");
    page.push_str(if outcome.phases.len() > LONG_LIST { "<ol class=\"long\">" } else { "<ol>" });
    for phase in &outcome.phases {
        let _ = write!(page, "<li>{:.0}–{:.0} s: {}</li>", phase.from_s, phase.to_s, escape(&phase.name));
    }
    page.push_str("</ol>");
    for remark in &outcome.remarks {
        let _ = write!(page, "<p>{}</p>", escape(remark));
    }
    page.push_str("<p>The shaded stretches are those in which something was broken.</p></section>");
    page.push_str(&answers(outcome));
    for chart in CHARTS {
        if let Some(svg) = draw(chart, outcome) {
            let _ = write!(
                page,
                "<section><h2>{}</h2><p>{}</p>{svg}</section>",
                escape(chart.title),
                escape(chart.what)
            );
        }
    }
    page.push_str("</main></html>\n");
    page
}

fn answered(calls: &[api::Call]) -> Value {
    json!({"answers": api::tally(calls), "took": api::Spread::of(calls)})
}

/// Everything as JSON.
pub fn json(args: &DrillArgs, outcome: &Outcome) -> Value {
    let phases: Vec<Value> = outcome
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name, "fault": phase.weather == Weather::Fault, "from_s": phase.from_s, "to_s": phase.to_s,
                "reads": answered(&phase.reads), "writes": answered(&phase.writes),
            })
        })
        .collect();
    let samples: Vec<Value> =
        outcome.samples.iter().map(|sample| json!({"at_s": sample.at_s, "values": sample.values})).collect();
    json!({
        "event": "verdict", "drill": args.drill.word(), "clients": outcome.crowd.all, "seed": args.seed,
        "holds": outcome.levels.iter().all(|level| level.holds), "levels": outcome.levels, "phases": phases,
        "remarks": outcome.remarks, "samples": samples,
    })
}
