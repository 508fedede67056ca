//! Which plots there are.

use super::{
    estimate::Quantity,
    report::{Combination, Figure, Report},
    svg::{Plot, Point, Scale, Series},
    truth::SIZE_CLASSES,
};

/// Plots over the rate: identifier, title, label of the values, quantity.
const OVER_RATE: [(&str, &str, &str, Quantity); 9] = [
    (
        "packets",
        "Error of all packets",
        "error, %",
        Quantity::Packets,
    ),
    (
        "octets",
        "Error of all octets",
        "error, %",
        Quantity::Octets,
    ),
    (
        "top",
        "Error of the top flows",
        "wrong part of their octets, %",
        Quantity::Top,
    ),
    (
        "prefix",
        "Error of the top prefixes",
        "wrong part of their octets, %",
        Quantity::Prefix,
    ),
    (
        "port",
        "Error of the top ports",
        "wrong part of their octets, %",
        Quantity::Port,
    ),
    (
        "flows",
        "Error of the estimated flow count",
        "error, %",
        Quantity::Flows,
    ),
    (
        "sizes",
        "Distance of the flow sizes",
        "Kolmogorov–Smirnov distance, %",
        Quantity::Sizes,
    ),
    ("seen", "Flows seen", "of all flows, %", Quantity::Seen),
    (
        "recall",
        "Top flows found",
        "of the top flows, %",
        Quantity::Recall,
    ),
];

/// All of them: over the rate, and for each method what it misses by size.
pub(super) fn plots(report: &Report) -> Vec<Plot> {
    let over_rate = OVER_RATE.iter().map(|plot| over_rate(report, plot));
    let missed = methods(report).map(|name| missed(report, name));
    over_rate.chain(missed).collect()
}

fn methods(report: &Report) -> impl Iterator<Item = &str> {
    report
        .answer
        .methods
        .iter()
        .map(|answer| answer.method.0.as_str())
}

fn of<'a>(report: &'a Report, method: &'a str) -> impl Iterator<Item = &'a Combination> {
    let results = report.results.iter();
    results.filter(move |result| result.method.name() == method)
}

fn over_rate(
    report: &Report,
    (id, title, y_label, quantity): &(&str, &str, &str, Quantity),
) -> Plot {
    let is_error = !matches!(
        quantity,
        Quantity::Sizes | Quantity::Seen | Quantity::Recall
    );
    let series: Vec<Series> = methods(report)
        .map(|method| {
            let at = |result: &Combination| result.one_in_packets.log10();
            let points = of(report, method)
                .filter_map(|result| point(at(result), result.figure(*quantity), is_error));
            let theory = of(report, method).filter_map(|result| {
                let theory = result.figure(*quantity).theory?;
                Some((at(result), theory.theory_ratio * 100.0))
            });
            Series {
                name: method.to_owned(),
                points: points.collect(),
                theory: theory.collect(),
            }
        })
        .collect();
    let bars = match is_error {
        true => "Bars reach up to what 95 % of samplings keep, with 95 % confidence.",
        false => "Bars are the 95 % interval of the mean.",
    };
    let limit = (*quantity == report_quantity(report)).then(|| {
        let within = report.answer.within_ratio * 100.0;
        (within, format!("{within} %"))
    });
    Plot {
        id: format!("plot-{id}"),
        title: (*title).to_owned(),
        description: format!(
            "{title} in percent over the sampling rate. {bars} {}",
            in_words(&series)
        ),
        x_label: "1 packet in n, n on a logarithmic scale".to_owned(),
        y_label: (*y_label).to_owned(),
        ticks: ticks(report),
        scale: if is_error {
            Scale::Decades
        } else {
            Scale::Percent
        },
        series,
        limit,
    }
}

fn report_quantity(report: &Report) -> Quantity {
    let name = report.answer.quantity;
    let found = Quantity::ALL.into_iter().find(|q| q.name() == name);
    found.unwrap_or(Quantity::Top)
}

/// The rates, each once.
fn ticks(report: &Report) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for result in &report.results {
        let x = result.one_in_packets.log10();
        if ticks.iter().all(|(other, _)| *other != x) {
            ticks.push((x, number(result.one_in_packets)));
        }
    }
    ticks
}

fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn point(x: f64, figure: &Figure, is_error: bool) -> Option<Point> {
    let summary = figure.summary?;
    let y = figure.measured()? * 100.0;
    let (low, high) = match is_error {
        true => (y, summary.bound_ratio.map_or(y, |bound| bound * 100.0)),
        false => (
            summary.mean_low_ratio.map_or(y, |low| low * 100.0),
            summary.mean_high_ratio.map_or(y, |high| high * 100.0),
        ),
    };
    Some(Point { x, y, low, high })
}

fn missed(report: &Report, method: &str) -> Plot {
    let series: Vec<Series> = of(report, method)
        .map(|result| {
            let figure = |class| result.figure(Quantity::Missed(class));
            let classes = 0..SIZE_CLASSES.len();
            let points = classes
                .clone()
                .filter_map(|class| point(class as f64, figure(class), false));
            let theory = classes.filter_map(|class| {
                Some((class as f64, figure(class).theory?.theory_ratio * 100.0))
            });
            Series {
                name: result.rate.to_string(),
                points: points.collect(),
                theory: theory.collect(),
            }
        })
        .collect();
    let names = ["1", "2–9", "10–99", "100–999", "1000+"];
    let ticks = names.iter().enumerate();
    Plot {
        id: format!("plot-missed-{method}"),
        title: format!("Flows missed by {method}"),
        description: format!(
            "Percent of flows of which {method} selected no packet, by their packets, for each \
             rate. Bars are the 95 % interval of the mean. {}",
            in_words(&series)
        ),
        x_label: "packets of the flow".to_owned(),
        y_label: "missed, %".to_owned(),
        ticks: ticks
            .map(|(class, name)| (class as f64, (*name).to_owned()))
            .collect(),
        scale: Scale::Percent,
        series,
        limit: None,
    }
}

/// The first and last value of each line.
fn in_words(series: &[Series]) -> String {
    let each = series.iter().filter_map(|series| {
        let (first, last) = (series.points.first()?, series.points.last()?);
        Some(format!(
            "{}: from {:.3} % to {:.3} %.",
            series.name, first.y, last.y
        ))
    });
    each.collect::<Vec<_>>().join(" ")
}
