//! The result for people at a terminal: the answer first, then tables of 80 columns.

use std::fmt::Write as _;

use super::{
    estimate::Quantity,
    report::{Answer, AnswerOf, Combination, Report},
    statistics::BoundKind,
};

/// Widest line.
#[cfg(test)]
pub(super) const COLUMNS: usize = 80;

/// Figures of the first table, and how their columns are headed.
const ERRORS: [(&str, Quantity); 9] = [
    ("packets", Quantity::Packets),
    ("octets", Quantity::Octets),
    ("top", Quantity::Top),
    ("prefix", Quantity::Prefix),
    ("port", Quantity::Port),
    ("flows", Quantity::Flows),
    ("sizes", Quantity::Sizes),
    ("seen", Quantity::Seen),
    ("recall", Quantity::Recall),
];

/// All of it.
pub(super) fn text(report: &Report) -> String {
    let mut text = answer(&report.answer);
    text.push_str(&facts(report));
    let top = report.design.top_count;
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n\
         Percent. Error of all packets, octets and flows: root mean square. Of the top\n\
         {top} flows, prefixes and ports: how much of their octets is wrong, mean. sizes:\n\
         distance of the flow sizes. seen, recall: of all flows, of the top flows.\n\
         The second line is theory.\n"
    );
    text.push_str(&head(&ERRORS.map(|(name, _)| name)));
    for result in &report.results {
        let figures = ERRORS.map(|(_, quantity)| result.figure(quantity));
        text.push_str(&row(
            result.method.name(),
            &result.rate.to_string(),
            &figures.map(|figure| percent(figure.measured())),
        ));
        text.push_str(&row(
            "",
            "theory",
            &figures.map(|figure| percent(figure.theory.map(|theory| theory.theory_ratio))),
        ));
    }
    text.push_str(
        "\n\
         Percent of flows missed, by their packets, and the cost: percent of packets\n\
         that are metered, and of flows that are exported.\n",
    );
    text.push_str(&head(&[
        "1", "2-9", "10-99", "100+", "1000+", "meter", "export",
    ]));
    for result in &report.results {
        text.push_str(&missed(result));
    }
    text
}

/// The question and its answer.
pub(super) fn answer(answer: &Answer) -> String {
    let mut text = format!(
        "The highest n that keeps the error of {}\nunder {} % with {} % confidence:\n",
        answer.of,
        short(answer.within_ratio),
        short(answer.confidence_ratio),
    );
    for method in &answer.methods {
        let bound = method.bound_ratio.map(short);
        let (n, why) = match (&method.highest_rate, bound) {
            (Some(rate), Some(bound)) => {
                let more = if method.is_last {
                    "; higher ones may do"
                } else {
                    ""
                };
                (
                    rate.0.strip_prefix("1/").unwrap_or(&rate.0).to_owned(),
                    format!("the error is below {bound} %{more}"),
                )
            }
            (_, Some(bound)) => (
                "none".to_owned(),
                format!("the lowest rate's error may be {bound} %"),
            ),
            (_, None) => (
                "?".to_owned(),
                "give --runs 3 or more: fewer bound nothing".to_owned(),
            ),
        };
        let _ = writeln!(text, "  {:<7} {n:<9} {why}", method.method.0);
    }
    let normal = |method: &AnswerOf| method.bound_kind == Some(BoundKind::NormalTolerance);
    if answer.methods.iter().any(normal) {
        text.push_str(
            "This takes errors to be normally distributed; --runs 59 or more does not.\n",
        );
    }
    text
}

/// What was compared.
fn facts(report: &Report) -> String {
    let truth = &report.truth;
    let mut text = format!(
        "\n{} packets of {} flows, {} octets, in {:.1} s\n{} runs each, --seed {}\n",
        truth.packets,
        truth.flows,
        truth.octets,
        truth.duration_ns as f64 / 1e9,
        report.design.runs,
        report.design.seed,
    );
    if report.cut_short {
        text.push_str("A signal cut it short: this is of the packets before it\n");
    }
    if let Some(live) = report.live.as_ref().filter(|live| live.lost_packets > 0) {
        let _ = writeln!(
            text,
            "{} packets are missing, the kernel had no room for them: this is no truth",
            live.lost_packets
        );
    }
    if truth.ignored_packets > 0 {
        let _ = writeln!(
            text,
            "{} packets more belong to no flow: sampled like others, in no total",
            truth.ignored_packets
        );
    }
    if truth.tcp_flows_without_syn > 0 {
        let _ = writeln!(
            text,
            "{} of {} TCP flows have no SYN: the estimated flow count misses them",
            truth.tcp_flows_without_syn, truth.tcp_flows
        );
    }
    text
}

fn missed(result: &Combination) -> String {
    let mut figures: Vec<String> = (0..5)
        .map(|class| percent(result.figure(Quantity::Missed(class)).measured()))
        .collect();
    figures.push(percent(Some(result.cost.selected_ratio)));
    figures.push(percent(Some(result.cost.exported_flows_ratio)));
    row(result.method.name(), &result.rate.to_string(), &figures)
}

fn head(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    row("method", "rate", &names)
}

fn row(method: &str, rate: &str, figures: &[String]) -> String {
    let mut text = format!("{method:<7}{rate:<9}");
    for figure in figures {
        let _ = write!(text, "{figure:>7}");
    }
    text.push('\n');
    text
}

/// A ratio in percent, with three digits; "-" without one.
pub(super) fn percent(ratio: Option<f64>) -> String {
    let Some(percent) = ratio.map(|ratio| ratio * 100.0) else {
        return "-".to_owned();
    };
    match percent.abs() {
        percent if percent >= 99.95 => format!("{percent:.0}"),
        percent if percent >= 9.995 => format!("{percent:.1}"),
        percent if percent >= 0.9995 => format!("{percent:.2}"),
        percent => format!("{percent:.3}"),
    }
}

/// A ratio in percent for a sentence: no zeros behind the point.
fn short(ratio: f64) -> String {
    let text = percent(Some(ratio));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
