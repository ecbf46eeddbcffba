//! A backtest as one page that opens by itself: no script, nothing fetched.

use std::fmt::Write as _;

use super::outcome::{Outcome, VersionResult};
use super::plan::Assumptions;
use super::tally::{Counts, day_of};
use askwhen_domain::eligibility::decision::Gate;

/// Told apart also by those who see few colours.
const COLOURS: [&str; 4] = ["#2563a8", "#c2570c", "#2f7d4f", "#7a4fa3"];
const WIDTH: f64 = 860.0;
/// Days that a plot shows; of more, the last ones.
const MAX_DAYS: usize = 120;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5d6873; --line: #d9dee3; --ground: #ffffff; --bar: #eef1f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5b0; --line: #39424b; --ground: #14181c; --bar: #222931; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 900px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; color: var(--soft); }
svg { display: block; max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .back { fill: var(--bar); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .4em 0 0; }
.legend > span { margin-right: 1.4em; }
";

/// The page.
pub fn html(outcome: &Outcome) -> String {
    let mut page = String::new();
    let names: Vec<&str> = outcome.versions.iter().map(|fared| fared.name.as_str()).collect();
    let ids: Vec<&str> = outcome.versions[0].surveys.iter().map(|(id, _)| id.as_str()).collect();
    let title = escape(&format!("Backtest of {}", ids.join(" and ")));
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{} to {}, {} journal records of that time, project \
         {}.</p>\n<p class=\"soft\">{}</p>\n",
        day_of(outcome.from),
        day_of(outcome.to),
        number(outcome.tried_records),
        escape(&outcome.project),
        supposed(outcome.assumptions),
    );
    legend(&mut page, &names);
    figures(&mut page, outcome);
    for survey_id in ids {
        let counts: Vec<&Counts> = outcome.versions.iter().filter_map(|fared| counts_of(fared, survey_id)).collect();
        let _ = writeln!(page, "<h2>{}: why triggers were not answered with it</h2>", escape(survey_id));
        funnel(&mut page, &counts);
        let _ = writeln!(page, "<h2>{}: users reached per day (UTC)</h2>", escape(survey_id));
        days(&mut page, &counts);
    }
    if !outcome.assumptions.alone {
        beside(&mut page, outcome);
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// What was assumed, as a sentence.
pub fn supposed(assumptions: Assumptions) -> String {
    let Assumptions { displayed, answered, alone } = assumptions;
    let displays = if displayed { "is displayed at once" } else { "is never displayed" };
    let answers = match answered {
        none if none <= 0.0 => "is not answered".to_owned(),
        all if all >= 1.0 => "is answered in full, at once".to_owned(),
        share => format!("is answered in full, at once, with a chance of {share}"),
    };
    let others = if alone { "No other survey is active." } else { "The other surveys are as they were." };
    format!("Supposed: an offer that was not really made {displays} and {answers}. {others}")
}

fn counts_of<'a>(fared: &'a VersionResult, survey_id: &str) -> Option<&'a Counts> {
    fared.surveys.iter().find(|(id, _)| id == survey_id).map(|(_, counts)| counts)
}

fn colour(version: usize) -> &'static str {
    COLOURS[version % COLOURS.len()]
}

fn legend(page: &mut String, names: &[&str]) {
    if names.len() < 2 {
        return;
    }
    page.push_str("<p class=\"legend\">");
    for (v, name) in names.iter().enumerate() {
        let _ =
            write!(page, "<span><span class=\"key\" style=\"background:{}\"></span>{}</span>", colour(v), escape(name));
    }
    page.push_str("</p>\n");
}

/// The numbers that one asks for first.
fn figures(page: &mut String, outcome: &Outcome) {
    page.push_str(
        "<table>\n<tr><th></th><th>considered</th><th>offers</th><th>users reached</th><th>displayed</th>\
         <th>answered</th><th>completed</th></tr>\n",
    );
    for fared in &outcome.versions {
        for (id, c) in &fared.surveys {
            let name = match (fared.surveys.len(), outcome.versions.len()) {
                (1, _) => fared.name.clone(),
                (_, 1) => id.clone(),
                _ => format!("{id} ({})", fared.name),
            };
            let _ = write!(page, "<tr><td>{}</td>", escape(&name));
            for n in [c.considered, c.offers, c.users_reached, c.displayed, c.answered, c.completed] {
                let _ = write!(page, "<td>{}</td>", number(n));
            }
            page.push_str("</tr>\n");
        }
    }
    page.push_str("</table>\n");
}

/// Gates that were shut to any of them, in their order.
pub fn gates(counts: &[&Counts]) -> Vec<&'static str> {
    let order = Gate::ALL.iter().map(|(name, _)| *name).chain(["shadow"]);
    order.filter(|gate| counts.iter().any(|c| c.not_offered.contains_key(gate))).collect()
}

/// How many triggers are left behind each gate.
fn funnel(page: &mut String, counts: &[&Counts]) {
    let gates = gates(counts);
    let most = counts.iter().map(|c| c.considered).max().unwrap_or(0);
    if most == 0 {
        page.push_str("<p>No trigger of this time is one that it shows on.</p>\n");
        return;
    }
    let (label, end, bar, gap) = (150.0, WIDTH - 170.0, 14.0, 10.0);
    let height = (gates.len() + 1) as f64 * (counts.len() as f64 * (bar + 3.0) + gap);
    svg(page, height, "Triggers left behind each gate");
    let mut y = 0.0;
    let mut left: Vec<u64> = counts.iter().map(|c| c.considered).collect();
    for step in std::iter::once(None).chain(gates.iter().map(Some)) {
        let middle = y + counts.len() as f64 * (bar + 3.0) / 2.0 + 3.0;
        let name = step.copied().unwrap_or("considered");
        let _ = writeln!(page, "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>", label - 10.0);
        for (v, count) in counts.iter().enumerate() {
            let stopped = step.map_or(0, |gate| count.not_offered.get(gate).copied().unwrap_or(0));
            left[v] = left[v].saturating_sub(stopped);
            let width = left[v] as f64 / most as f64 * (end - label);
            let label_text = if stopped > 0 {
                format!("{} left, {} stopped", number(left[v]), number(stopped))
            } else {
                number(left[v])
            };
            let _ = writeln!(
                page,
                "<rect class=\"back\" x=\"{label}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{bar}\" rx=\"2\"/>\
                 <rect x=\"{label}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar}\" rx=\"2\" fill=\"{}\"/>\
                 <text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{label_text}</text>",
                end - label,
                colour(v),
                end + 8.0,
                y + bar - 3.0,
            );
            y += bar + 3.0;
        }
        y += gap;
    }
    page.push_str("</svg>\n");
}

/// Columns of users by day, one colour for each version.
fn days(page: &mut String, counts: &[&Counts]) {
    let mut days: Vec<&String> = counts.iter().flat_map(|c| c.per_day.keys()).collect();
    days.sort();
    days.dedup();
    let days = &days[days.len().saturating_sub(MAX_DAYS)..];
    let users = |c: &Counts, day: &String| c.per_day.get(day).map_or(0, |reach| reach.users);
    let most = counts.iter().flat_map(|c| days.iter().map(|day| users(c, day))).max().unwrap_or(0);
    if most == 0 {
        page.push_str("<p>Nobody was reached.</p>\n");
        return;
    }
    let (left, top, base, height) = (60.0, 10.0, 190.0, 225.0);
    svg(page, height, "Users reached per day");
    let scale = ceiling(most);
    for part in 0..=4_u32 {
        let y = base - f64::from(part) / 4.0 * (base - top);
        let value = scale * f64::from(part) / 4.0;
        let _ = writeln!(
            page,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 4.0,
            if value.fract() == 0.0 { number(value as u64) } else { format!("{value:.1}") },
        );
    }
    let room = (WIDTH - left) / days.len() as f64;
    let width = (room * 0.8 / counts.len() as f64).min(40.0);
    // As many dates as can be read.
    let every = (days.len() as f64 / 10.0).ceil() as usize;
    for (n, day) in days.iter().enumerate() {
        let start = left + room * n as f64 + (room - width * counts.len() as f64) / 2.0;
        for (v, count) in counts.iter().enumerate() {
            let value = users(count, day);
            let tall = value as f64 / scale * (base - top);
            let new = count.per_day.get(*day).map_or(0, |reach| reach.new_users);
            let _ = writeln!(
                page,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{}\"><title>{day}: {} users, {} \
                 for the first time</title></rect>",
                start + width * v as f64,
                base - tall,
                (width - 1.0).max(1.0),
                colour(v),
                number(value),
                number(new),
            );
        }
        if n % every == 0 {
            let _ = writeln!(
                page,
                "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                left + room * (n as f64 + 0.5),
                base + 18.0,
                &day[5..],
            );
        }
    }
    page.push_str("</svg>\n");
}

/// The other surveys: what they lose and gain.
fn beside(page: &mut String, outcome: &Outcome) {
    let any = outcome.versions.iter().any(|fared| fared.beside.values().any(|b| b.offers_with + b.offers_without > 0));
    page.push_str("<h2>The other surveys</h2>\n");
    if !any {
        page.push_str("<p>No other survey was offered in this time.</p>\n");
        return;
    }
    for (v, fared) in outcome.versions.iter().enumerate() {
        if outcome.versions.len() > 1 {
            legend_of(page, v, &fared.name);
        }
        page.push_str(
            "<table>\n<tr><th>survey</th><th>offers without</th><th>offers with</th><th>lost</th><th>gained</th>\
             <th>users in both</th><th>lost, by gate</th></tr>\n",
        );
        for (id, b) in fared.beside.iter().filter(|(_, b)| b.offers_with + b.offers_without > 0) {
            let _ = write!(page, "<tr><td>{}</td>", escape(id));
            for n in [b.offers_without, b.offers_with, b.lost, b.gained, b.users_in_both] {
                let _ = write!(page, "<td>{}</td>", number(n));
            }
            let gates: Vec<String> = b.lost_by.iter().map(|(gate, n)| format!("{gate} {}", number(*n))).collect();
            let _ = writeln!(page, "<td>{}</td></tr>", gates.join(", "));
        }
        page.push_str("</table>\n");
    }
}

fn legend_of(page: &mut String, version: usize, name: &str) {
    let _ =
        writeln!(page, "<p><span class=\"key\" style=\"background:{}\"></span>{}</p>", colour(version), escape(name));
}

fn svg(page: &mut String, height: f64, label: &str) {
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"{label}\">"
    );
}

/// The next number that divides well by four.
fn ceiling(most: u64) -> f64 {
    let power = 10_f64.powf((most.max(1) as f64).log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= most as f64).unwrap_or(10.0 * power)
}

/// With separators that do not depend on where it is read.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
