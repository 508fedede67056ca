//! What is sent to a collector besides flows: templates, options templates and their records.

use std::sync::Arc;

use super::{Interface, Settings, Telemetry, account::Account};
use crate::{
    ipfix::{
        Encoder, Template, element,
        message::{HEADER, MIN_OCTETS, SET_HEADER},
        options::{
            AlgorithmRate, CountSelector, ExportingReliability, FlowKeys, FlowSelector,
            HashSelector, InterfaceName, MeteringReliability, MeteringStatistics, NOfNSelector,
            OptionsRecord, ProbabilitySelector, SELECTOR, SamplerRate, SamplingRate,
            SelectionSequence, SelectionStatistics, Selector, Text, TimeSelector,
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
    observation_domain: u32,
    /// Identifies the metering and the exporting process on this machine (IE 143, 144).
    process: u32,
    sampling: Sampling,
    profile: Profile,
    interfaces: Vec<Interface>,
    telemetry: Arc<dyn Telemetry>,
}

/// What this collector was sent and not sent so far.
pub(super) struct Delivery {
    metering: MeteringStatistics,
    exporting: ExportingReliability,
}

/// Where records go: into the message at hand or, when that is full, into the next one.
pub(super) trait Stream {
    /// Why nothing more can be sent now.
    type Stop;

    /// Sends the message at hand if `add` finds no room in it, and then adds to the next one.
    fn put(&mut self, add: impl Fn(&mut Encoder) -> bool) -> Result<(), Self::Stop>;
}

impl Facts {
    pub(super) fn new(settings: &Settings, telemetry: Arc<dyn Telemetry>) -> Self {
        Self {
            observation_domain: settings.observation_domain,
            process: std::process::id(),
            sampling: settings.sampling,
            profile: settings.sampling_profile,
            interfaces: settings.interfaces.clone(),
            telemetry,
        }
    }

    pub(super) fn delivery(&self, account: &Account) -> Delivery {
        let (messages, octets, flows) = account.handed_over();
        let (not_sent, span_ms) = account.not_sent();
        let (first_ms, last_ms) = span_ms.unwrap_or_default();
        Delivery {
            metering: MeteringStatistics {
                observation_domain: self.observation_domain,
                process: self.process,
                octets,
                messages,
                flows,
            },
            exporting: ExportingReliability {
                process: self.process,
                flows: not_sent.records,
                packets: not_sent.packets,
                octets: not_sent.octets,
                first_ms,
                last_ms,
            },
        }
    }

    /// Everything that a collector needs before the first flow.
    pub(super) fn announce<S: Stream>(
        &self,
        delivery: &Delivery,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        self.templates(stream)?;
        self.options(stream)?;
        self.statistics(delivery, stream)
    }

    fn templates<S: Stream>(&self, stream: &mut S) -> Result<(), S::Stop> {
        let selector = Selector::new(self.sampling);
        for template in &element::ALL {
            stream.put(|encoder| encoder.template(template))?;
        }
        let rate: &[&Template] = match self.profile {
            Profile::Default => &[&SamplingRate::TEMPLATE, selector.template()],
            Profile::Psamp => &[selector.template()],
            Profile::Legacy => &[&AlgorithmRate::TEMPLATE],
            Profile::Sampler => &[&SamplerRate::TEMPLATE],
        };
        let others = [
            &InterfaceName::TEMPLATE,
            &SelectionSequence::TEMPLATE,
            &SelectionStatistics::TEMPLATE,
            &MeteringStatistics::TEMPLATE,
            &MeteringReliability::TEMPLATE,
            &ExportingReliability::TEMPLATE,
            &FlowKeys::TEMPLATE,
        ];
        let templates = rate.iter().copied().chain(others);
        for template in templates {
            stream.put(|encoder| encoder.template(template))?;
        }
        Ok(())
    }

    fn options<S: Stream>(&self, stream: &mut S) -> Result<(), S::Stop> {
        self.rate(stream)?;
        let sequence = SelectionSequence {
            sequence: SELECTOR,
            observation_domain: self.observation_domain,
            selector: SELECTOR,
        };
        stream.put(|encoder| encoder.options(&sequence))?;
        for interface in &self.interfaces {
            let record = InterfaceName {
                interface: interface.ifindex,
                name: Text::new(&interface.name),
                description: Text::new(&interface.description),
            };
            stream.put(|encoder| encoder.options(&record))?;
        }
        for template in &element::ALL {
            let record = FlowKeys {
                template: template.id,
                keys: template.flow_keys(),
            };
            stream.put(|encoder| encoder.options(&record))?;
        }
        Ok(())
    }

    /// The sampling rate, as the profile has it.
    fn rate<S: Stream>(&self, stream: &mut S) -> Result<(), S::Stop> {
        /// The only sampler of an observation domain.
        const SAMPLER: u8 = 1;
        let observation_domain = self.observation_domain;
        let (interval, mode) = (self.sampling.n(), self.sampling.mode());
        let selector = Selector::new(self.sampling);
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
        delivery: &Delivery,
        stream: &mut S,
    ) -> Result<(), S::Stop> {
        let metering = self.telemetry.metering();
        let (first_ms, last_ms) = metering.ignored_span_ms.unwrap_or_default();
        let selection = SelectionStatistics {
            sequence: SELECTOR,
            observed: metering.observed_packets,
            selected: metering.selected_packets,
        };
        let reliability = MeteringReliability {
            observation_domain: self.observation_domain,
            process: self.process,
            packets: metering.ignored_packets,
            octets: metering.ignored_octets,
            first_ms,
            last_ms,
        };
        stream.put(|encoder| encoder.options(&selection))?;
        stream.put(|encoder| encoder.options(&delivery.metering))?;
        stream.put(|encoder| encoder.options(&reliability))?;
        stream.put(|encoder| encoder.options(&delivery.exporting))
    }
}
