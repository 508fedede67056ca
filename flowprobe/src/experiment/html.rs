//! The result as one page that needs nothing else: no script, no file, no network.

use std::fmt::Write as _;

use super::{
    estimate::Quantity,
    report::{Combination, Report},
    svg::{self, Plot, escaped},
    terminal::{self, percent},
};

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;\
color:#1a1a1a;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}\
#answer{border-left:.3rem solid #0072b2;padding:.2rem 1rem;background:#f2f6fa}\
#answer pre{font:15px/1.5 ui-monospace,monospace;white-space:pre-wrap;margin:.5rem 0}\
.wide{overflow-x:auto}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #d5d5d5}\
th:first-child,td:first-child,td:nth-child(2),th:nth-child(2){text-align:left}\
td small{display:block;color:#595959}\
#plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(28rem,100%),1fr));gap:1rem}\
figure{margin:0}figure svg{width:100%;height:auto}\
@media (prefers-color-scheme:dark){body{color:#eee;background:#161616}\
#answer{background:#1d2833;border-color:#56b4e9}th,td{border-color:#3a3a3a}\
td small{color:#b0b0b0}}";

/// Quantities of the large table, with their heads.
const COLUMNS: [(&str, Quantity); 10] = [
    ("packets", Quantity::Packets),
    ("octets", Quantity::Octets),
    ("top flows", Quantity::Top),
    ("prefixes", Quantity::Prefix),
    ("ports", Quantity::Port),
    ("flow count", Quantity::Flows),
    ("sizes", Quantity::Sizes),
    ("sizes by packets", Quantity::SizesByPackets),
    ("flows seen", Quantity::Seen),
    ("recall", Quantity::Recall),
];

/// The page.
pub(super) fn page(report: &Report, plots: &[Plot]) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Which sampling rate is enough – flowprobe experiment</title>\n\
         <style>{STYLE}{}</style>\n</head>\n<body>\n<main>\n\
         <h1>Which sampling rate is enough</h1>\n\
         <section id=\"answer\" aria-label=\"Answer\"><pre>{}</pre></section>\n",
        svg::style(),
        escaped(&terminal::answer(&report.answer)),
    );
    page.push_str(&truth(report));
    page.push_str("<h2>Errors over the rate</h2>\n<section id=\"plots\">\n");
    for plot in plots {
        let _ = writeln!(page, "<figure>{}</figure>", plot.inline());
    }
    page.push_str("</section>\n");
    page.push_str(&results(report));
    page.push_str(&missed(report));
    page.push_str(&explanation(report));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn truth(report: &Report) -> String {
    let (truth, design) = (&report.truth, &report.design);
    let files: Vec<String> = report
        .files
        .iter()
        .map(|file| escaped(file.name()))
        .collect();
    let mut rows = Vec::new();
    match &report.live {
        Some(live) => rows.extend([
            ("interface", escaped(&live.interface)),
            (
                "packets lost: the kernel had no room for them",
                live.lost_packets.to_string(),
            ),
        ]),
        None => rows.push(("captures", files.join(", "))),
    }
    if report.cut_short {
        rows.push(("cut short", "by a signal: packets before it".to_owned()));
    }
    rows.extend([
        ("packets", truth.packets.to_string()),
        ("IP octets", truth.octets.to_string()),
        (
            "packets of no flow: sampled like others, in no total",
            truth.ignored_packets.to_string(),
        ),
        ("flows", truth.flows.to_string()),
        (
            "TCP flows, and those without SYN",
            format!("{}, {}", truth.tcp_flows, truth.tcp_flows_without_syn),
        ),
        (
            "prefixes of sources and of destinations",
            format!(
                "{} (/{} and /{})",
                truth.prefixes, design.prefix_v4_bits, design.prefix_v6_bits
            ),
        ),
        (
            "ports of sources and of destinations",
            truth.ports.to_string(),
        ),
        (
            "duration",
            format!("{:.3} s", truth.duration_ns as f64 / 1e9),
        ),
        ("runs of each method and rate", design.runs.to_string()),
        ("seed", design.seed.to_string()),
    ]);
    let mut text = "<h2>The truth</h2>\n<div class=\"wide\"><table id=\"truth\">\n".to_owned();
    for (name, value) in rows {
        let _ = writeln!(
            text,
            "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>"
        );
    }
    text.push_str("</table></div>\n");
    text
}

fn head(id: &str, caption: &str, names: &[&str]) -> String {
    let mut text = format!(
        "<div class=\"wide\"><table id=\"{id}\"><caption>{caption}</caption>\n\
         <thead><tr><th scope=\"col\">method</th><th scope=\"col\">rate</th>"
    );
    for name in names {
        let _ = write!(text, "<th scope=\"col\">{name}</th>");
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    text
}

/// The start of a row: what it is about.
fn row_start(result: &Combination) -> String {
    format!(
        "<tr><td>{}</td><td>{}</td>",
        result.method.name(),
        result.rate
    )
}

fn results(report: &Report) -> String {
    let mut text = "<h2>All figures, in percent</h2>\n".to_owned();
    text.push_str(&head(
        "results",
        "Root mean square of errors with a sign, mean of others; below it the bound that 95 % of \
         samplings keep with 95 % confidence, or the interval of the mean; then theory",
        &COLUMNS.map(|(name, _)| name),
    ));
    for result in &report.results {
        text.push_str(&row_start(result));
        for (_, quantity) in COLUMNS {
            let figure = result.figure(quantity);
            let interval = match (quantity, figure.summary) {
                (Quantity::Seen | Quantity::Recall, Some(summary)) => format!(
                    "{} to {}",
                    percent(summary.mean_low_ratio),
                    percent(summary.mean_high_ratio)
                ),
                (_, summary) => {
                    format!("≤ {}", percent(summary.and_then(|s| s.bound_ratio)))
                }
            };
            let theory = figure.theory.map(|theory| theory.theory_ratio);
            let _ = write!(
                text,
                "<td>{}<small>{interval}</small><small>theory {}</small></td>",
                percent(figure.measured()),
                percent(theory)
            );
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

fn missed(report: &Report) -> String {
    let mut text = "<h2>Flows missed, and the cost</h2>\n".to_owned();
    text.push_str(&head(
        "cost",
        "Percent of the flows missed, by their packets; then means of what is metered and exported",
        &[
            "1 packet",
            "2–9",
            "10–99",
            "100–999",
            "1000 or more",
            "packets metered",
            "of all, %",
            "flows exported",
            "IPFIX octets",
        ],
    ));
    for result in &report.results {
        text.push_str(&row_start(result));
        for class in 0..5 {
            let measured = result.figure(Quantity::Missed(class)).measured();
            let _ = write!(text, "<td>{}</td>", percent(measured));
        }
        let cost = &result.cost;
        let _ = writeln!(
            text,
            "<td>{:.0}</td><td>{}</td><td>{:.0}</td><td>{:.0}</td></tr>",
            cost.selected_packets,
            percent(Some(cost.selected_ratio)),
            cost.exported_flows,
            cost.exported_octets
        );
    }
    text.push_str("</tbody></table></div>\n");
    text
}

fn explanation(report: &Report) -> String {
    format!(
        "<h2>How to read this</h2>\n<section id=\"explanation\">\n\
         <p>All packets went past all samplers in one pass. What each one selected was multiplied \
         by n and compared with the truth. A flow is all packets of one key over all captures, \
         without timeouts.</p>\n\
         <p><strong>With 95 % confidence</strong>: the bound is an upper tolerance limit. With \
         95 % confidence at least 95 % of all samplings of this traffic, whatever their seed, have \
         no larger error. With 59 runs or more it is an order statistic of the runs and assumes \
         nothing; with fewer it is that of a normal distribution. It says nothing of other \
         traffic.</p>\n\
         <p><strong>Error of top flows, prefixes, ports</strong>: the sum of the absolute errors \
         of the {top} largest, in octets, over the sum of their octets.</p>\n\
         <p><strong>Flow count</strong>: for TCP, selected packets with SYN times n (Duffield, \
         Lund, Thorup 2003): right where each flow has exactly one. For others a lower bound from \
         the flows that were seen once and twice (Chao, Lin 2012). Without such a mark in each \
         flow there is no unbiased estimate.</p>\n\
         <p><strong>Sizes</strong>: the Kolmogorov–Smirnov distance between the packets of all \
         flows and the scaled ones of the flows seen, each flow counting once, or by its packets. \
         Nothing is inverted: it is what a collector has.</p>\n\
         <p><strong>Theory</strong>: with p the share that is selected and c packets of equal \
         size, the relative standard error of independent sampling (random, and hash if the hash \
         is good) is √((1−p)/(p·c)). count and nofn are compared with simple random sampling of \
         well-mixed traffic; traffic with a period that shares a factor with N can be off without \
         limit under count. time is at best as good as random. flow selects flows, so that the \
         largest ones decide: √((1−p)/p·Σs²)/Σs over flow sizes s.</p>\n\
         <p>Repeat it with <code>--seed {seed}</code> and the same options.</p>\n</section>\n",
        top = report.design.top_count,
        seed = report.design.seed,
    )
}
