//! The results, for people and as JSON.

use std::{fmt::Write as _, fs};

use serde_json::{Map, Value, json};

use crate::{
    measure::{Cell, Choose, Measured, Row, Samples, median, min},
    subject::Subject,
};

/// All cells of all programs.
#[derive(Default)]
pub(crate) struct Report {
    /// Samples of the empty program in each cell. The number of flows is nothing to it; the weather
    /// of the cell is.
    empty: Vec<(Cell, Samples)>,
    programs: Vec<(String, Vec<Row>)>,
}

/// What the program's cost is held to, over the empty program.
const BUDGET_NS: f64 = 14.0;
/// The same for a packet that sampling skips.
const SKIP_BUDGET_NS: f64 = 4.0;
/// How many times less than the per-CPU hash, in cache.
const GAIN: f64 = 5.0;
/// The same where memory sets the pace, and for new flows.
const FAR_GAIN: f64 = 2.0;

impl Report {
    pub(crate) fn new(subjects: &[Subject]) -> Self {
        let programs = subjects.iter().map(|s| (s.name.clone(), Vec::new()));
        Self {
            empty: Vec::new(),
            programs: programs.collect(),
        }
    }

    /// Adds a cell of the subjects that the report was made for.
    pub(crate) fn add(&mut self, measured: Measured) {
        self.empty.push((measured.cell, measured.empty));
        for ((_, rows), row) in self.programs.iter_mut().zip(measured.rows) {
            rows.push(row);
        }
    }

    /// One JSON object. The times under `programs` include the dispatcher, as `empty` does; a
    /// cell that does not count is null and says why under `not_counted`.
    pub(crate) fn json(&self, rounds: u32) -> Value {
        let mut not_counted = Vec::new();
        for (name, row) in self.rows() {
            if let Some(fault) = &row.fault {
                not_counted.push(json!({
                    "program": name, "flows": row.cell.to_string(), "reason": fault,
                }));
            }
        }
        json!({
            "unit": "ns per packet, dispatcher included: subtract `empty` for the program alone",
            "rounds": rounds,
            "kernel": kernel(),
            "empty": number(self.empty(min)),
            "empty_by_cell": self.empty.iter().map(|(cell, samples)| {
                (cell.to_string(), number(samples.of(min)))
            }).collect::<Map<_, _>>(),
            "programs": self.table(|row| number(row.counted(Row::min))),
            "median": {
                "empty": number(self.empty(median)),
                "programs": self.table(|row| number(row.counted(Row::median))),
            },
            "max_flows": self.table(|row| json!(row.max_flows)),
            "evicted_share": self.table(|row| json!(row.evicted_share)),
            "keys": self.table(|row| json!(row.keys)),
            "not_counted": not_counted,
        })
    }

    /// A value for each program and cell.
    fn table(&self, value: impl Fn(&Row) -> Value) -> Value {
        let programs = self.programs.iter().map(|(name, rows)| {
            let cells = rows.iter().map(|row| (row.cell.to_string(), value(row)));
            (name.clone(), Value::Object(cells.collect()))
        });
        Value::Object(programs.collect::<Map<_, _>>())
    }

    fn rows(&self) -> impl Iterator<Item = (&str, &Row)> {
        let programs = self.programs.iter();
        programs.flat_map(|(name, rows)| rows.iter().map(move |row| (name.as_str(), row)))
    }

    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let empty = (self.empty(min), self.empty(median));
        let _ = writeln!(
            text,
            "{:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8} {:>9}",
            "ns per packet",
            "flows",
            "min",
            "median",
            "net min",
            "net med",
            "max-flows",
            "evicted",
            "keys"
        );
        let _ = writeln!(
            text,
            "{:<24} {:>8} {:>8} {:>8}",
            "empty",
            "",
            cell(empty.0),
            cell(empty.1)
        );
        for (name, row) in self.rows() {
            let _ = write!(
                text,
                "{name:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8} {:>9}",
                row.cell,
                cell(row.min()),
                cell(row.median()),
                cell(self.net(row.cell, row.min(), min)),
                cell(self.net(row.cell, row.median(), median)),
                row.max_flows.map_or("-".into(), |n| n.to_string()),
                row.evicted_share
                    .map_or("-".into(), |share| format!("{:.2}%", share * 100.0)),
                row.keys.map_or("-".into(), |n| n.to_string()),
            );
            if let Some(fault) = &row.fault {
                let _ = write!(text, "  DOES NOT COUNT: {fault}");
            }
            text.push('\n');
        }
        text
    }

    /// How the minima stand to what flowprobe is held to; empty where it was not measured.
    pub(crate) fn targets(&self) -> String {
        let mut text = String::new();
        for cell in [Cell::Flows(1), Cell::Flows(4096)] {
            self.at_most(&mut text, "flowprobe", cell, BUDGET_NS);
            self.less_than_hash(&mut text, cell, GAIN);
        }
        for cell in [Cell::Flows(1 << 20), Cell::New] {
            self.less_than_hash(&mut text, cell, FAR_GAIN);
        }
        self.at_most(
            &mut text,
            "flowprobe_sampled_100",
            Cell::Flows(1),
            SKIP_BUDGET_NS,
        );
        text
    }

    fn at_most(&self, text: &mut String, name: &str, cell: Cell, budget: f64) {
        if let Some(net) = self.net_of(name, cell) {
            let mark = mark(net <= budget);
            let _ = writeln!(
                text,
                "{mark} {name}, {cell}: {net:.1} ns, wanted at most {budget}"
            );
        }
    }

    fn less_than_hash(&self, text: &mut String, cell: Cell, gain: f64) {
        let own = self.net_of("flowprobe", cell);
        let hash = self.net_of("percpu_hash", cell);
        if let (Some(own), Some(hash)) = (own, hash) {
            let mark = mark(own * gain <= hash);
            let _ = writeln!(
                text,
                "{mark} flowprobe, {cell}: {own:.1} ns, percpu_hash {hash:.1}: {:.1} times less, wanted {gain}",
                hash / own
            );
        }
    }

    /// Smallest cost over the empty program, if the cell was measured and counts.
    fn net_of(&self, name: &str, cell: Cell) -> Option<f64> {
        let mut rows = self.rows();
        let (_, row) = rows.find(|(n, row)| *n == name && row.cell == cell)?;
        self.net(cell, row.counted(Row::min), min)
    }

    /// Cost over that of the empty program in the same cell.
    fn net(&self, cell: Cell, gross: Option<f64>, of: Choose) -> Option<f64> {
        let (_, empty) = self.empty.iter().find(|(of, _)| *of == cell)?;
        Some(gross? - empty.of(of)?)
    }

    /// The mean over the cells.
    fn empty(&self, of: Choose) -> Option<f64> {
        let cells: Option<Vec<_>> = self.empty.iter().map(|(_, cell)| cell.of(of)).collect();
        let cells = cells.filter(|cells| !cells.is_empty())?;
        Some(cells.iter().sum::<f64>() / cells.len() as f64)
    }
}

impl Row {
    /// The value, if the cell counts.
    fn counted(&self, value: impl Fn(&Self) -> Option<f64>) -> Option<f64> {
        if self.fault.is_some() {
            None
        } else {
            value(self)
        }
    }
}

fn mark(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED " }
}

fn cell(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{:.1}", tenths(value)))
}

/// Rounded to one decimal, and never -0.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0 + 0.0
}

/// The same; null where there is none.
fn number(value: Option<f64>) -> Value {
    json!(value.map(tenths))
}

fn kernel() -> Value {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    json!(release.ok().map(|release| release.trim().to_owned()))
}
