//! The result: what was asked, the truth, each figure with its theory, and the answer.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    Origin, Settings, Target,
    estimate::{Outcome, Quantity},
    live::LiveOf,
    method::{Method, Rate},
    statistics::{BoundKind, CONFIDENCE, Summary},
    theory::{Theory, theory},
    truth::Truth,
};
use crate::pcap::FileSummary;

/// Octets of an IPFIX record of an IPv4 and of an IPv6 flow (templates 256 and 257).
const RECORD_OCTETS: u64 = 85;

/// All of the result. As JSON: one object, whose names have the units.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of flowprobe.
    pub version: &'static str,
    /// What was asked.
    pub design: DesignOf,
    /// The captures.
    pub files: Vec<FileSummary>,
    /// The interface, if packets came from one.
    pub live: Option<LiveOf>,
    /// Whether a signal came before the end: the result is that of the packets before it.
    pub cut_short: bool,
    /// What was in them.
    pub truth: TruthOf,
    /// Which rate is enough.
    pub answer: Answer,
    /// One for each method and rate, in the order in which they were given.
    pub results: Vec<Combination>,
}

/// What was asked.
#[derive(Debug, Serialize)]
pub struct DesignOf {
    /// Gives the same result again.
    pub seed: u64,
    /// Samplers of each method and rate.
    pub runs: u32,
    /// How many of the largest flows, prefixes and ports are compared.
    pub top_count: usize,
    /// Bits of IPv4 prefixes.
    pub prefix_v4_bits: u8,
    /// Bits of IPv6 prefixes.
    pub prefix_v6_bits: u8,
    /// Length of the windows of method `time`.
    pub time_window_ns: u64,
}

/// What was in the captures.
#[derive(Debug, Serialize)]
pub struct TruthOf {
    /// Packets that belong to a flow.
    pub packets: u64,
    /// Their IP octets.
    pub octets: u64,
    /// Packets that belong to none. They take their turn with the samplers, as in the kernel.
    pub ignored_packets: u64,
    /// Flows.
    pub flows: usize,
    /// Flows of TCP.
    pub tcp_flows: usize,
    /// Those of them without any SYN in the captures: estimates of the flow count miss them.
    pub tcp_flows_without_syn: usize,
    /// Prefixes, those of sources and of destinations.
    pub prefixes: usize,
    /// Ports, those of sources and of destinations, by protocol.
    pub ports: usize,
    /// From the first packet to the last.
    pub duration_ns: u64,
}

/// Which rate is enough.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Of which quantity.
    pub quantity: &'static str,
    /// In words.
    pub of: String,
    /// The error that it may have.
    pub within_ratio: f64,
    /// How sure that is.
    pub confidence_ratio: f64,
    /// One for each method.
    pub methods: Vec<AnswerOf>,
}

/// The answer for one method.
#[derive(Debug, Serialize)]
pub struct AnswerOf {
    /// Method.
    pub method: Name,
    /// The highest rate that is enough, as are all lower ones; none if not even the lowest is.
    pub highest_rate: Option<Name>,
    /// N / n of it.
    pub highest_n: Option<f64>,
    /// Whether no higher rate was tried.
    pub is_last: bool,
    /// The bound of the error at that rate, or at the lowest one if that is not enough.
    pub bound_ratio: Option<f64>,
    /// How that bound was found.
    pub bound_kind: Option<BoundKind>,
}

/// What is written by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(pub String);

/// A method at a rate.
#[derive(Debug, Serialize)]
pub struct Combination {
    /// Name of the method.
    #[serde(rename = "method", serialize_with = "method_name")]
    pub method: Method,
    /// Rate.
    #[serde(rename = "rate", serialize_with = "rate_name")]
    pub rate: Rate,
    /// N / n.
    pub one_in_packets: f64,
    /// What the method costs at this rate.
    pub cost: Cost,
    /// By [`Quantity::place`].
    #[serde(serialize_with = "by_name")]
    pub figures: Vec<Figure>,
    /// The values of all runs, by quantity.
    #[serde(skip)]
    pub values: Vec<Vec<f64>>,
}

/// What a method costs: means over the runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Packets that are parsed, those of no flow too.
    pub selected_packets: f64,
    /// Of all packets.
    pub selected_ratio: f64,
    /// Flows that are kept and exported once.
    pub exported_flows: f64,
    /// Of all flows.
    pub exported_flows_ratio: f64,
    /// Octets of IPFIX records, if each flow is exported once as IPv4.
    pub exported_octets: f64,
}

/// One quantity at a method and rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// Which.
    #[serde(skip)]
    pub quantity: Quantity,
    /// Over all runs; none where there is nothing to compare.
    #[serde(flatten)]
    pub summary: Option<Summary>,
    /// Beside it.
    #[serde(flatten)]
    pub theory: Option<Theory>,
}

impl Figure {
    /// The one number: what theory says stands beside it.
    #[must_use]
    pub fn measured(&self) -> Option<f64> {
        let summary = self.summary?;
        Some(match self.quantity.is_signed() {
            true => summary.rms_ratio,
            false => summary.mean_ratio,
        })
    }
}

impl Combination {
    /// One quantity.
    #[must_use]
    pub fn figure(&self, quantity: Quantity) -> &Figure {
        &self.figures[quantity.place()]
    }

    fn new(truth: &Truth, method: Method, rate: Rate, outcomes: &[Outcome]) -> Self {
        let runs = outcomes.len().max(1) as f64;
        let mean = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>() as f64 / runs;
        let selected_packets = mean(|outcome| outcome.selected_packets);
        let exported_flows = mean(|outcome| outcome.selected_flows);
        let values: Vec<Vec<f64>> = Quantity::ALL
            .iter()
            .map(|quantity| {
                let place = quantity.place();
                outcomes.iter().map(|o| o.values[place]).collect()
            })
            .collect();
        let figures = Quantity::ALL.map(|quantity| Figure {
            quantity,
            summary: Summary::of(&values[quantity.place()], quantity.is_signed()),
            theory: theory(truth, method, rate, quantity),
        });
        Self {
            method,
            rate,
            one_in_packets: rate.scale(),
            cost: Cost {
                selected_packets,
                selected_ratio: selected_packets / truth.frames(),
                exported_flows,
                exported_flows_ratio: exported_flows / truth.flows.len() as f64,
                exported_octets: exported_flows * RECORD_OCTETS as f64,
            },
            figures: figures.to_vec(),
            values,
        }
    }
}

fn method_name<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(method.name())
}

fn rate_name<S: Serializer>(rate: &Rate, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(rate)
}

fn by_name<S: Serializer>(figures: &[Figure], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(figures.len()))?;
    for figure in figures {
        map.serialize_entry(figure.quantity.name(), figure)?;
    }
    map.end()
}

/// What a pass over the packets came to.
pub(super) struct Pass {
    pub(super) truth: Truth,
    pub(super) ignored_packets: u64,
    pub(super) duration_ns: u64,
    /// By method, then by rate: all runs.
    pub(super) outcomes: Vec<(Method, Rate, Vec<Outcome>)>,
    pub(super) origin: Origin,
}

impl Report {
    pub(super) fn new(settings: &Settings, seed: u64, pass: Pass) -> Self {
        let Pass {
            truth,
            ignored_packets,
            duration_ns,
            outcomes,
            origin,
        } = pass;
        let results: Vec<Combination> = outcomes
            .iter()
            .map(|(method, rate, outcomes)| Combination::new(&truth, *method, *rate, outcomes))
            .collect();
        let tcp = || truth.flows.iter().filter(|flow| flow.is_tcp());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            design: DesignOf {
                seed,
                runs: settings.runs,
                top_count: settings.top,
                prefix_v4_bits: settings.prefix_bits.v4,
                prefix_v6_bits: settings.prefix_bits.v6,
                time_window_ns: settings.window_ns,
            },
            files: origin.files,
            live: origin.live,
            cut_short: origin.cut_short,
            truth: TruthOf {
                packets: truth.packets,
                octets: truth.octets,
                ignored_packets,
                flows: truth.flows.len(),
                tcp_flows: tcp().count(),
                tcp_flows_without_syn: tcp().filter(|flow| flow.syns == 0).count(),
                prefixes: truth.top_prefixes.rank.len(),
                ports: truth.top_ports.rank.len(),
                duration_ns,
            },
            answer: Answer::new(settings, &results, truth.top_flows.sums.len()),
            results,
        }
    }
}

impl Answer {
    fn new(settings: &Settings, results: &[Combination], top: usize) -> Self {
        let quantity = settings.error.quantity();
        let of_method = |&method: &Method| {
            let mut answer = AnswerOf {
                method: Name(method.name().to_owned()),
                highest_rate: None,
                highest_n: None,
                is_last: true,
                bound_ratio: None,
                bound_kind: None,
            };
            // Rates go from the densest to the rarest. One that is not enough ends it: that a
            // rarer one was better is luck.
            for result in results.iter().filter(|result| result.method == method) {
                let summary = result.figure(quantity).summary;
                let bound = summary.and_then(|summary| summary.bound_ratio);
                answer.bound_kind = summary.and_then(|summary| summary.bound_kind);
                if !bound.is_some_and(|bound| bound <= settings.within) {
                    if answer.highest_rate.is_none() {
                        answer.bound_ratio = bound;
                    }
                    answer.is_last = false;
                    break;
                }
                answer.highest_rate = Some(Name(result.rate.to_string()));
                answer.highest_n = Some(result.one_in_packets);
                answer.bound_ratio = bound;
            }
            answer
        };
        Self {
            quantity: quantity.name(),
            of: settings.error.in_words(top.min(settings.top)),
            within_ratio: settings.within,
            confidence_ratio: CONFIDENCE,
            methods: settings.methods.iter().map(of_method).collect(),
        }
    }
}

impl Target {
    /// What is compared.
    #[must_use]
    pub fn quantity(self) -> Quantity {
        match self {
            Self::Packets => Quantity::Packets,
            Self::Octets => Quantity::Octets,
            Self::Top => Quantity::Top,
            Self::Prefix => Quantity::Prefix,
            Self::Port => Quantity::Port,
            Self::Flows => Quantity::Flows,
        }
    }

    fn in_words(self, top: usize) -> String {
        match self {
            Self::Packets => "the number of packets".to_owned(),
            Self::Octets => "the number of octets".to_owned(),
            Self::Top => format!("the octets of the top {top} flows"),
            Self::Prefix => "the octets of the top prefixes".to_owned(),
            Self::Port => "the octets of the top ports".to_owned(),
            Self::Flows => "the number of flows".to_owned(),
        }
    }
}
