//! Options templates and their records: what a collector must know besides the flows.
//!
//! As for flow records, one row per information element drives template and encoding.

use flowprobe_ebpf::content;

use super::{
    element::Value,
    template::{Field, Scope, Template},
};
use crate::sampling::{Sampling, hash_range};

/// A record of an options template.
pub trait OptionsRecord {
    /// Its template.
    const TEMPLATE: Template;

    /// Writes the record into `to`, which is as long as the template says.
    fn encode(&self, to: &mut [u8]);
}

/// What options records are added to.
pub trait TakesOptions {
    /// Adds one; false if the message is full.
    fn options<R: OptionsRecord>(&mut self, record: &R) -> bool;
}

/// Text in a field of fixed length, filled with zeros: a field of variable length in an
/// options template stops some collectors from reading any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// As much of `text` as fits, cut between characters (RFC 7011 §6.1.6: UTF-8).
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut octets = [0; N];
        let kept = &text.as_bytes()[..text.floor_char_boundary(N)];
        octets[..kept.len()].copy_from_slice(kept);
        Self(octets)
    }
}

impl<const N: usize> Value for Text<N> {
    const LENGTH: u16 = N as u16;

    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.0);
    }
}

impl Value for f64 {
    const LENGTH: u16 = 8;

    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_be_bytes());
    }
}

impl Value for bool {
    const LENGTH: u16 = 1;

    fn put(self, to: &mut [u8]) {
        // RFC 7011 §6.1.5: 1 is true, 2 is false.
        to.copy_from_slice(&[if self { 1 } else { 2 }]);
    }
}

/// The scope in NetFlow v9, of options that have a form in that.
macro_rules! v9_scope {
    () => {
        None
    };
    ($scope:ident) => {
        Some(Scope::$scope)
    };
}

macro_rules! options {
    ($(
        $(#[$doc:meta])*
        $record:ident $id:literal, $scopes:literal scope $(, v9 $v9:ident)? {
            $($(#[$field_doc:meta])* $field:ident: $name:ident $number:literal $kind:ty,)+
        }
    )+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $record {
            $($(#[$field_doc])* pub $field: $kind,)+
        }

        impl OptionsRecord for $record {
            const TEMPLATE: Template = Template {
                id: $id,
                scopes: $scopes,
                v9: v9_scope!($($v9)?),
                fields: &[$(Field {
                    name: stringify!($name),
                    enterprise: 0,
                    number: $number,
                    length: <$kind as Value>::LENGTH,
                    key: false,
                },)+],
            };

            fn encode(&self, to: &mut [u8]) {
                let mut rest = to;
                $(
                    let (field, after) = rest.split_at_mut(<$kind as Value>::LENGTH as usize);
                    self.$field.put(field);
                    rest = after;
                )+
                debug_assert!(rest.is_empty());
            }
        }
    )+};
}

options! {
    /// The sampling rate, in the form that every collector reads: 34 alone. With 35, 302 or 305
    /// beside it some collectors read nothing, or another rate.
    SamplingRate 512, 1 scope, v9 System {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// One packet in this many is metered; 1 without sampling.
        interval: samplingInterval 34 u32,
    }

    /// The sampling rate as NetFlow v9 has it, with its algorithm.
    AlgorithmRate 514, 1 scope, v9 System {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// One packet in this many is metered.
        interval: samplingInterval 34 u32,
        /// 1 deterministic, 2 random.
        algorithm: samplingAlgorithm 35 u8,
    }

    /// The sampling rate as that of a sampler.
    SamplerRate 516, 1 scope, v9 System {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// Sampler.
        sampler: samplerId 48 u8,
        /// 1 deterministic, 2 random.
        mode: samplerMode 49 u8,
        /// One packet in this many is metered.
        interval: samplerRandomInterval 50 u32,
    }

    /// Selector report of systematic count-based sampling (RFC 5476 §6.5.2.1).
    CountSelector 513, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// 1.
        algorithm: selectorAlgorithm 304 u16,
        /// Packets selected in a row.
        interval: samplingPacketInterval 305 u32,
        /// Packets skipped between them.
        space: samplingPacketSpace 306 u32,
    }

    /// Selector report of uniform probabilistic sampling (RFC 5476 §6.5.2.4).
    ProbabilitySelector 519, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// 4.
        algorithm: selectorAlgorithm 304 u16,
        /// Probability of each packet.
        probability: samplingProbability 311 f64,
        /// What people call it.
        name: selectorName 335 Text<24>,
    }

    /// Selector report of random n-out-of-N sampling (RFC 5476 §6.5.2.3).
    NOfNSelector 524, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// 3.
        algorithm: selectorAlgorithm 304 u16,
        /// Packets selected.
        size: samplingSize 309 u32,
        /// Of so many.
        population: samplingPopulation 310 u32,
        /// What people call it.
        name: selectorName 335 Text<24>,
    }

    /// Selector report of systematic time-based sampling (RFC 5476 §6.5.2.2).
    TimeSelector 525, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// 2.
        algorithm: selectorAlgorithm 304 u16,
        /// Microseconds in which packets are selected.
        interval: samplingTimeInterval 307 u32,
        /// Microseconds between them.
        space: samplingTimeSpace 308 u32,
        /// What people call it.
        name: selectorName 335 Text<24>,
    }

    /// Selector report of hash-based filtering (RFC 5476 §6.5.2.6).
    ///
    /// hashInitialiserValue (334) is left out, as that section allows "for security
    /// considerations": who knows it can make packets that are always selected, or never.
    HashSelector 526, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// Hash function: 6 is BOB.
        algorithm: selectorAlgorithm 304 u16,
        /// First octet of the IP payload that is hashed.
        payload_offset: hashIPPayloadOffset 327 u64,
        /// How many octets of it.
        payload_octets: hashIPPayloadSize 328 u64,
        /// Smallest value of the hash.
        output_min: hashOutputRangeMin 329 u64,
        /// Largest value.
        output_max: hashOutputRangeMax 330 u64,
        /// Smallest value that is selected.
        selected_min: hashSelectedRangeMin 331 u64,
        /// Largest value that is selected.
        selected_max: hashSelectedRangeMax 332 u64,
        /// Whether reports have the value.
        digest: hashDigestOutput 333 bool,
        /// What people call it.
        name: selectorName 335 Text<24>,
    }

    /// Selector report of hash-based flow filtering (RFC 7014): whole flows, by the hash of their
    /// keys. The initialiser is left out as in [`HashSelector`].
    FlowSelector 527, 1 scope {
        /// Selector.
        selector: selectorId 302 u64,
        /// Hash function: 6 is BOB.
        algorithm: flowSelectorAlgorithm 390 u16,
        /// Smallest value of the hash.
        output_min: hashOutputRangeMin 329 u64,
        /// Largest value.
        output_max: hashOutputRangeMax 330 u64,
        /// Smallest value that is selected.
        selected_min: hashSelectedRangeMin 331 u64,
        /// Largest value that is selected.
        selected_max: hashSelectedRangeMax 332 u64,
        /// What people call it.
        name: selectorName 335 Text<24>,
    }

    /// Name of an observation domain, with room for the longest filter.
    DomainName 528, 1 scope {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// Name.
        name: observationDomainName 300 Text<112>,
    }

    /// Interface name and description.
    InterfaceName 515, 1 scope, v9 Interface {
        /// Index, as in flow records.
        interface: ingressInterface 10 u32,
        /// Name.
        name: interfaceName 82 Text<16>,
        /// Description.
        description: interfaceDescription 83 Text<32>,
    }

    /// Selection sequence report (RFC 5476 §6.5.1).
    SelectionSequence 517, 1 scope {
        /// Selection sequence.
        sequence: selectionSequenceId 301 u64,
        /// Where it observes.
        observation_domain: observationDomainId 149 u32,
        /// Its only selector.
        selector: selectorId 302 u64,
    }

    /// Selection sequence statistics (RFC 5476 §6.5.3).
    SelectionStatistics 518, 1 scope {
        /// Selection sequence.
        sequence: selectionSequenceId 301 u64,
        /// Packets that the selector was asked about.
        observed: selectorIdTotalPktsObserved 318 u64,
        /// Packets that it selected.
        selected: selectorIdTotalPktsSelected 319 u64,
    }

    /// Metering Process statistics (RFC 7011 §4.1): what this collector was sent before this
    /// message.
    MeteringStatistics 520, 2 scope, v9 System {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// Metering process.
        process: meteringProcessId 143 u32,
        /// Octets of messages.
        octets: exportedOctetTotalCount 40 u64,
        /// Messages.
        messages: exportedMessageTotalCount 41 u64,
        /// Flow records.
        flows: exportedFlowRecordTotalCount 42 u64,
    }

    /// Metering Process reliability statistics (RFC 7011 §4.2). The times are 0 while nothing
    /// was ignored.
    MeteringReliability 521, 2 scope {
        /// Observation domain.
        observation_domain: observationDomainId 149 u32,
        /// Metering process.
        process: meteringProcessId 143 u32,
        /// Packets that were observed, selected and not processed.
        packets: ignoredPacketTotalCount 164 u64,
        /// Their octets.
        octets: ignoredOctetTotalCount 165 u64,
        /// When the first was ignored.
        first_ms: observationTimeMilliseconds 323 u64,
        /// When the last was ignored.
        last_ms: observationTimeMilliseconds 323 u64,
    }

    /// Exporting Process reliability statistics (RFC 7011 §4.3): what this collector was not
    /// sent. The times are 0 while there is nothing.
    ExportingReliability 522, 1 scope {
        /// Exporting process.
        process: exportingProcessId 144 u32,
        /// Flow records.
        flows: notSentFlowTotalCount 166 u64,
        /// Packets in them.
        packets: notSentPacketTotalCount 167 u64,
        /// Octets in them.
        octets: notSentOctetTotalCount 168 u64,
        /// When the first was dropped.
        first_ms: observationTimeMilliseconds 323 u64,
        /// When the last was dropped.
        last_ms: observationTimeMilliseconds 323 u64,
    }

    /// Flow keys (RFC 7011 §4.4).
    FlowKeys 523, 1 scope {
        /// Template of flow records.
        template: templateId 145 u16,
        /// Bit i: field i is part of the key.
        keys: flowKeyIndicator 173 u64,
    }
}

/// The only selector of an observation domain at a time.
pub const SELECTOR: u64 = 1;

impl HashSelector {
    /// selectorAlgorithm (IE 304) of the hash function BOB, from IANA's registry psamp-parameters.
    const BOB: u16 = 6;

    /// Packets whose hash of `payload_octets` of the IP payload from `payload_offset` on is in
    /// `selected`, of all values in `output`; each range is its smallest and its largest value.
    #[must_use]
    pub fn new(
        payload_offset: u64,
        payload_octets: u64,
        output: [u64; 2],
        selected: [u64; 2],
        name: &str,
    ) -> Self {
        Self {
            selector: SELECTOR,
            algorithm: Self::BOB,
            payload_offset,
            payload_octets,
            output_min: output[0],
            output_max: output[1],
            selected_min: selected[0],
            selected_max: selected[1],
            // Flow records have no packet digest (IE 326).
            digest: false,
            name: Text::new(name),
        }
    }
}

impl FlowSelector {
    /// flowSelectorAlgorithm (IE 390) of the hash function BOB, from IANA's registry ipfix.
    const BOB: u16 = 6;

    /// Flows whose hash is in `selected`, of all values in `output`; each range is its smallest
    /// and its largest value.
    #[must_use]
    pub fn new(output: [u64; 2], selected: [u64; 2], name: &str) -> Self {
        Self {
            selector: SELECTOR,
            algorithm: Self::BOB,
            output_min: output[0],
            output_max: output[1],
            selected_min: selected[0],
            selected_max: selected[1],
            name: Text::new(name),
        }
    }
}

/// All values of a hash of 32 bits.
const HASHES: [u64; 2] = [0, u32::MAX as u64];

/// Selector report of a sampling method.
///
/// Each has a template number of its own: over UDP a number must not get another meaning within
/// the lifetime of its template (RFC 7011 §8.4), and the method of a domain may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selector {
    /// Systematic count-based.
    Count(CountSelector),
    /// Uniform probabilistic.
    Probability(ProbabilitySelector),
    /// Random n-out-of-N.
    NOfN(NOfNSelector),
    /// Systematic time-based.
    Time(TimeSelector),
    /// Hash-based, of packets.
    Hash(HashSelector),
    /// Hash-based, of flows.
    Flow(FlowSelector),
}

impl Selector {
    // selectorAlgorithm (IE 304), from IANA's registry psamp-parameters.
    const COUNT_BASED: u16 = 1;
    const TIME_BASED: u16 = 2;
    const N_OUT_OF_N: u16 = 3;
    const UNIFORM_PROBABILISTIC: u16 = 4;

    /// The report of `sampling`.
    ///
    /// Without sampling it is count-based with nothing skipped, 305 = 1 and 306 = 0: that is
    /// true, and a collector that insists on a selector has one in every run.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        let (selector, name) = (SELECTOR, Text::new(&sampling.to_string()));
        match sampling {
            Sampling::All | Sampling::Count(_) => Self::Count(CountSelector {
                selector,
                algorithm: Self::COUNT_BASED,
                interval: 1,
                space: sampling.n() - 1,
            }),
            Sampling::Hash(n) => Self::Hash(HashSelector::new(
                0,
                content::PAYLOAD.into(),
                HASHES,
                [0, hash_range(n).into()],
                &sampling.to_string(),
            )),
            Sampling::Flow(n) => Self::Flow(FlowSelector::new(
                HASHES,
                [0, hash_range(n).into()],
                &sampling.to_string(),
            )),
            Sampling::Random(n) => Self::Probability(ProbabilitySelector {
                selector,
                algorithm: Self::UNIFORM_PROBABILISTIC,
                probability: 1.0 / f64::from(n.get()),
                name,
            }),
            Sampling::NOfN { size, population } => Self::NOfN(NOfNSelector {
                selector,
                algorithm: Self::N_OUT_OF_N,
                size: size.get(),
                population: population.get(),
                name,
            }),
            Sampling::Time { on_us, off_us } => Self::Time(TimeSelector {
                selector,
                algorithm: Self::TIME_BASED,
                interval: on_us.get(),
                space: off_us.get(),
                name,
            }),
        }
    }

    /// Its template.
    #[must_use]
    pub fn template(&self) -> &'static Template {
        match self {
            Self::Count(_) => &CountSelector::TEMPLATE,
            Self::Probability(_) => &ProbabilitySelector::TEMPLATE,
            Self::NOfN(_) => &NOfNSelector::TEMPLATE,
            Self::Time(_) => &TimeSelector::TEMPLATE,
            Self::Hash(_) => &HashSelector::TEMPLATE,
            Self::Flow(_) => &FlowSelector::TEMPLATE,
        }
    }

    /// Adds it to a message; false if there is no room.
    pub fn put<T: TakesOptions>(&self, encoder: &mut T) -> bool {
        match self {
            Self::Count(report) => encoder.options(report),
            Self::Probability(report) => encoder.options(report),
            Self::NOfN(report) => encoder.options(report),
            Self::Time(report) => encoder.options(report),
            Self::Hash(report) => encoder.options(report),
            Self::Flow(report) => encoder.options(report),
        }
    }
}
