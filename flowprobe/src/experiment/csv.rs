//! The result as CSV, one table a file. Ratios: 0.01 is 1 %; a field without a value is empty.

use std::fmt::{Display, Write as _};

use serde::Serialize;

use super::{
    estimate::Quantity,
    report::{Combination, Report},
};

/// Quantities, one a line.
pub(super) fn results(report: &Report) -> String {
    let mut text = String::from(
        "method,rate,one_in_packets,quantity,runs,mean_ratio,mean_low_ratio,mean_high_ratio,\
         rms_ratio,p95_abs_ratio,bound_ratio,bound_kind,theory_ratio,theory_kind\n",
    );
    for result in &report.results {
        for figure in &result.figures {
            let (summary, theory) = (figure.summary, figure.theory);
            let fields = [
                figure.quantity.name().to_owned(),
                summary.map_or(0, |s| s.runs).to_string(),
                field(summary.map(|s| s.mean_ratio)),
                field(summary.and_then(|s| s.mean_low_ratio)),
                field(summary.and_then(|s| s.mean_high_ratio)),
                field(summary.map(|s| s.rms_ratio)),
                field(summary.map(|s| s.p95_abs_ratio)),
                field(summary.and_then(|s| s.bound_ratio)),
                name(summary.and_then(|s| s.bound_kind)),
                field(theory.map(|t| t.theory_ratio)),
                name(theory.map(|t| t.theory_kind)),
            ];
            line(&mut text, result, &fields);
        }
    }
    text
}

/// What each method costs at each rate.
pub(super) fn cost(report: &Report) -> String {
    let mut text = String::from(
        "method,rate,one_in_packets,selected_packets,selected_ratio,exported_flows,\
         exported_flows_ratio,exported_octets\n",
    );
    for result in &report.results {
        let cost = &result.cost;
        let fields = [
            cost.selected_packets.to_string(),
            cost.selected_ratio.to_string(),
            cost.exported_flows.to_string(),
            cost.exported_flows_ratio.to_string(),
            cost.exported_octets.to_string(),
        ];
        line(&mut text, result, &fields);
    }
    text
}

/// The values of each run.
pub(super) fn runs(report: &Report) -> String {
    let mut text = String::from("method,rate,one_in_packets,run");
    for quantity in Quantity::ALL {
        // Writing to a string cannot fail.
        let _ = write!(text, ",{}_ratio", quantity.name());
    }
    text.push('\n');
    for result in &report.results {
        for run in 0..report.design.runs as usize {
            let mut fields = vec![run.to_string()];
            let values = result.values.iter().map(|values| values.get(run));
            fields.extend(values.map(|value| field(value.filter(|v| v.is_finite()))));
            line(&mut text, result, &fields);
        }
    }
    text
}

/// A line: what it is about, as all tables begin, and then `fields`.
fn line(text: &mut String, result: &Combination, fields: &[String]) {
    let (method, rate) = (result.method.name(), result.rate);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{method},{rate},{},{}",
        result.one_in_packets,
        fields.join(",")
    );
}

fn field(value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// A kind by its name in JSON.
fn name(kind: Option<impl Serialize>) -> String {
    let name = kind.and_then(|kind| serde_json::to_value(kind).ok());
    name.and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}
