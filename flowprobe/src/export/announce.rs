//! What is sent to a collector besides flows: templates, options templates and their records.

use std::{sync::Arc, time::Instant};

use super::{
    Domain, Interfaces, Settings, Telemetry,
    account::{Account, Front, Outlet},
    encoder::Encoder,
};
use crate::{
    ipfix::{
        Template,
        message::{HEADER, MIN_OCTETS, SET_HEADER},
        options::{
            AlgorithmRate, CountSelector, DomainName, ExportingReliability, FlowKeys, FlowSelector,
            HashSelector, InterfaceName, MeteringReliability, MeteringStatistics, NOfNSelector,
            OptionsRecord, ProbabilitySelector, SELECTOR, SamplerRate, SamplingRate,
            SelectionSequence, SelectionStatistics, Selector, TakesOptions as _, Text,
            TimeSelector,
        },
    },
    sampling::{Profile, Sampling},
};

/// The templates of all selector reports.
const SELECTORS: [Template; 6] = [
    CountSelector::TEMPLATE,
    ProbabilitySelector::TEMPLATE,
    NOfNSelector::TEMPLATE,
    TimeSelector::TEMPLATE,
    HashSelector::TEMPLATE,
    FlowSelector::TEMPLATE,
];

/// Octets of a sampling rate and its selector report, which share a message.
const SAMPLING_OCTETS: usize = {
    let mut selector = 0;
    let mut i = 0;
    while i < SELECTORS.len() {
        let length = SELECTORS[i].record_length();
        selector = if length > selector { length } else { selector };
        i += 1;
    }
    SET_HEADER + SamplingRate::TEMPLATE.record_length() + SET_HEADER + selector
};

const _: () = assert!(HEADER + SAMPLING_OCTETS <= MIN_OCTETS);

/// The options that do not depend on the collector.
pub(super) struct Facts {
    /// Identifies the metering and the exporting process on this machine (IE 143, 144).
    process: u32,
    profile: Profile,
    interfaces: Arc<Interfaces>,
    telemetry: Arc<dyn Telemetry>,
}

/// A domain, and what is still to be said of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) class: usize,
    observation_domain: u32,
    /// Empty where it has none.
    name: String,
    /// Templates that this session knows.
    pub(super) templates: bool,
    /// The version of the interfaces' names.
    pub(super) interfaces: u64,
    /// When to tell all of it again.
    pub(super) again_at: Instant,
}

impl Told {
    /// That all is still to be said.
    pub(super) fn of(domains: &[Domain], now: Instant) -> Vec<Self> {
        let told = |(class, domain): (usize, &Domain)| Self {
            class,
            observation_domain: domain.id,
            name: domain.name.clone(),
            templates: false,
            interfaces: 0,
            again_at: now,
        };
        domains.iter().enumerate().map(told).collect()
    }

    /// Who listens knows nothing, or may have forgotten it.
    pub(super) fn forget(&mut self, now: Instant) {
        self.templates = false;
        self.again_at = now;
    }
}

/// Each rate has a selection sequence (IE 301) of its own, so that its statistics are never of two
/// rates.
/// The selection sequence of an epoch: unique in the domain (RFC 5477, IE 301), counted from 1 as
/// selectors are.
fn sequence(epoch: u32) -> u64 {
    u64::from(epoch) + 1
}

/// Where records go: into the message at hand or, when that is full, into the next one.
pub(super) trait Stream {
    /// Why nothing more can be sent now.
    type Stop;

    /// The templates of flow records.
    fn flow_templates(&self) -> Vec<Template>;

    /// Whether templates are said once in a session, and can be withdrawn.
    fn has_sessions(&self) -> bool;

    /// Whose account has what was sent so far.
    fn outlet(&self) -> &Arc<Outlet>;

    /// Sends the message at hand if `add` finds no room in it, and then adds to the next one.
    fn put(&mut self, add: impl Fn(&mut Encoder) -> bool) -> Result<(), Self::Stop>;
}

impl Facts {
    pub(super) fn new(settings: &Settings, telemetry: Arc<dyn Telemetry>) -> Self {
        Self {
            process: std::process::id(),
            profile: settings.sampling_profile,
            interfaces: Arc::clone(&settings.interfaces),
            telemetry,
        }
    }

    /// What was sent so far. RFC 7011 §4.1: in the scope of the domain, so the sum of them is the
    /// process's.
    fn sent(&self, told: &Told, account: &Account) -> MeteringStatistics {
        let (messages, octets, flows) = account.handed_over(told.class);
        MeteringStatistics {
            observation_domain: told.observation_domain,
            process: self.process,
            octets,
            messages,
            flows,
        }
    }

    /// What never will be. RFC 7011 §4.3: in the scope of the exporting process, which has all
    /// domains.
    fn not_sent(&self, account: &Account) -> ExportingReliability {
        let (not_sent, span_ms) = account.not_sent();
        let (first_ms, last_ms) = span_ms.unwrap_or_default();
        ExportingReliability {
            process: self.process,
            flows: not_sent.records,
            packets: not_sent.packets,
            octets: not_sent.octets,
            first_ms,
            last_ms,
        }
    }

    /// Everything that a collector needs before the first flow of a domain. Returns the version of
    /// the interfaces' names that it knows then.
    pub(super) fn announce<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        stream: &mut S,
    ) -> Result<u64, S::Stop> {
        if !told.templates {
            self.templates(told, front, stream)?;
        }
        let interfaces = self.options(told, front, stream)?;
        self.statistics(told, front, stream)?;
        Ok(interfaces)
    }

    /// What a collector needs between the last flow of one rate and the first flow of the next:
    /// the last statistics of the old selection sequence, then the new one.
    ///
    /// A new method's report has another template, which comes first (RFC 7011 §8.2). That of the
    /// old method is withdrawn where there are sessions (§8.1); else it is not sent any more, and
    /// its number has no other meaning later (§8.4).
    pub(super) fn change<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        sampling: Sampling,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        self.selection(told, front, stream)?;
        let old = self.rate_templates(front.sampling);
        let new = self.rate_templates(sampling);
        if stream.has_sessions() {
            for template in old.iter().filter(|template| !new.contains(template)) {
                stream.put(|encoder| encoder.withdraw(template))?;
            }
        }
        for template in &new {
            if !stream.has_sessions() || !old.contains(template) {
                stream.put(|encoder| encoder.template(template))?;
            }
        }
        self.rate(told, sampling, stream)?;
        self.selection_sequence(told, sequence(front.epoch + 1), stream)
    }

    fn templates<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        for template in stream.flow_templates() {
            stream.put(|encoder| encoder.template(&template))?;
        }
        let others = [
            &InterfaceName::TEMPLATE,
            &SelectionSequence::TEMPLATE,
            &SelectionStatistics::TEMPLATE,
            &MeteringStatistics::TEMPLATE,
            &MeteringReliability::TEMPLATE,
            &FlowKeys::TEMPLATE,
        ];
        let rate = self.rate_templates(front.sampling);
        let name = (!told.name.is_empty()).then_some(&DomainName::TEMPLATE);
        let exporting = is_first(told).then_some(&ExportingReliability::TEMPLATE);
        let templates = rate.into_iter().chain(others).chain(exporting).chain(name);
        for template in templates {
            stream.put(|encoder| encoder.template(template))?;
        }
        Ok(())
    }

    /// The templates in which the profile has a rate.
    fn rate_templates(&self, sampling: Sampling) -> Vec<&'static Template> {
        let selector = Selector::new(sampling).template();
        match self.profile {
            Profile::Default => vec![&SamplingRate::TEMPLATE, selector],
            Profile::Psamp => vec![selector],
            Profile::Legacy => vec![&AlgorithmRate::TEMPLATE],
            Profile::Sampler => vec![&SamplerRate::TEMPLATE],
        }
    }

    fn options<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        stream: &mut S,
    ) -> Result<u64, S::Stop> {
        self.rate(told, front.sampling, stream)?;
        self.selection_sequence(told, sequence(front.epoch), stream)?;
        if !told.name.is_empty() {
            let record = DomainName {
                observation_domain: told.observation_domain,
                name: Text::new(&told.name),
            };
            stream.put(|encoder| encoder.options(&record))?;
        }
        let interfaces = self.interfaces(0, stream)?;
        for template in stream.flow_templates() {
            let record = FlowKeys {
                template: template.id,
                keys: template.flow_keys(),
            };
            stream.put(|encoder| encoder.options(&record))?;
        }
        Ok(interfaces)
    }

    /// Of the names of interfaces as they are now.
    pub(super) fn interfaces_version(&self) -> u64 {
        self.interfaces.version()
    }

    /// The names of interfaces that have come since a version, or have been renamed; returns the
    /// version that is told then.
    pub(super) fn interfaces<S: Stream>(&self, since: u64, stream: &mut S) -> Result<u64, S::Stop> {
        let (version, interfaces) = self.interfaces.since(since);
        for interface in interfaces {
            let record = InterfaceName {
                interface: interface.ifindex,
                name: Text::new(&interface.name),
                description: Text::new(&interface.description),
            };
            stream.put(|encoder| encoder.options(&record))?;
        }
        Ok(version)
    }

    fn selection_sequence<S: Stream>(
        &self,
        told: &Told,
        sequence: u64,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        let record = SelectionSequence {
            sequence,
            observation_domain: told.observation_domain,
            selector: SELECTOR,
        };
        stream.put(|encoder| encoder.options(&record))
    }

    /// A sampling rate, as the profile has it.
    fn rate<S: Stream>(
        &self,
        told: &Told,
        sampling: Sampling,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        /// The only sampler of an observation domain.
        const SAMPLER: u8 = 1;
        let observation_domain = told.observation_domain;
        let (interval, mode) = (sampling.n(), sampling.mode());
        let selector = Selector::new(sampling);
        match self.profile {
            Profile::Default => {
                let rate = SamplingRate {
                    observation_domain,
                    interval,
                };
                // A collector keeps the rate that it read last, and some read a selector report
                // wrongly if it comes alone: both in one message, the plain rate first.
                stream.put(|encoder| {
                    encoder.remaining() >= SAMPLING_OCTETS
                        && encoder.options(&rate)
                        && selector.put(encoder)
                })
            }
            Profile::Psamp => stream.put(|encoder| selector.put(encoder)),
            Profile::Legacy => {
                let rate = AlgorithmRate {
                    observation_domain,
                    interval,
                    algorithm: mode,
                };
                stream.put(|encoder| encoder.options(&rate))
            }
            Profile::Sampler => {
                let rate = SamplerRate {
                    observation_domain,
                    sampler: SAMPLER,
                    mode,
                    interval,
                };
                stream.put(|encoder| encoder.options(&rate))
            }
        }
    }

    /// The options that change with time.
    pub(super) fn statistics<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        let metering = self.telemetry.metering(told.class);
        let (first_ms, last_ms) = metering.ignored_span_ms.unwrap_or_default();
        let reliability = MeteringReliability {
            observation_domain: told.observation_domain,
            process: self.process,
            packets: metering.ignored_packets,
            octets: metering.ignored_octets,
            first_ms,
            last_ms,
        };
        self.selection(told, front, stream)?;
        // Asked for when the record is encoded: RFC 7011 §4.1 counts what was sent before, and a
        // message that was full has just been.
        let outlet = Arc::clone(stream.outlet());
        stream.put(|encoder| encoder.options(&self.sent(told, &outlet.account())))?;
        stream.put(|encoder| encoder.options(&reliability))?;
        if is_first(told) {
            stream.put(|encoder| encoder.options(&self.not_sent(&outlet.account())))?;
        }
        Ok(())
    }

    /// The statistics of the selection sequence that the collector knows, which may have ended
    /// meanwhile (RFC 5476 §6.5.3). Nothing is said of a sequence that nobody remembers.
    fn selection<S: Stream>(
        &self,
        told: &Told,
        front: Front,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        let Some(selection) = self.telemetry.selection(told.class, front.epoch) else {
            return Ok(());
        };
        let statistics = SelectionStatistics {
            sequence: sequence(front.epoch),
            observed: selection.observed,
            selected: selection.selected,
        };
        stream.put(|encoder| encoder.options(&statistics))
    }
}

/// Whether it is the domain that speaks for the exporting process: what concerns all domains is
/// said once.
fn is_first(told: &Told) -> bool {
    told.class == 0
}
