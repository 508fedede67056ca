//! The interfaces whose packets are taken.

use super::{BypassSettings, RunError, Settings};
use crate::{
    attach::{Attached, FactsError, Interface, InterfaceStats, Promiscuous, bypass},
    bypass::{cpus, crew::Recruit, meter::Meter, shard::Shard, source::Tapped},
    load::{
        LoadError,
        handover::{Handover, Queues, Share, Skipped},
        random_words,
    },
    run::InterfaceSummary,
    table::{LocalTable, fragments::Fragments},
    xsk::Queue,
};

/// Refuses an interface whose packets this machine needs, unless they are to be taken.
pub(super) fn refuse(interface: &Interface, settings: &BypassSettings) -> Result<(), RunError> {
    if settings.take_packets {
        return Ok(());
    }
    Ok(bypass::refuse(interface)?)
}

/// An interface whose queues are open.
pub(super) struct Opened {
    interface: Interface,
    queues: Vec<Tapped>,
    share: Share,
    zero_copy: bool,
    /// To be said once all is open.
    memory: String,
}

/// An interface whose packets are taken. Dropping it detaches.
pub(super) struct Port {
    interface: Interface,
    attached: Attached,
    share: Share,
    zero_copy: bool,
    _promisc: Option<Promiscuous>,
    before: InterfaceStats,
    gone: bool,
}

/// Opens all queues of all interfaces, or none.
pub(super) fn open(
    handover: &Handover,
    interfaces: &[Interface],
    settings: &BypassSettings,
) -> Result<Vec<Opened>, RunError> {
    let one = |interface: &Interface| {
        // Where nobody needs the packets, what is skipped needs not climb the stack either.
        let skipped = match bypass::uses(interface)?.is_empty() {
            true => Skipped::Drop,
            false => Skipped::Pass,
        };
        let share = handover.share(interface, Queues::of(interface)?.now, skipped)?;
        let mut opened = Opened {
            interface: interface.clone(),
            queues: Vec::new(),
            share,
            zero_copy: false,
            memory: String::new(),
        };
        for number in 0..opened.share.queues() {
            let queue = Queue::open(interface, number, &settings.queue)?;
            opened.share.give(number, &queue)?;
            opened.zero_copy = queue.is_zero_copy();
            opened.memory = memory(&queue);
            let pulse = opened.share.pulse(number);
            pulse.beat();
            let capacity = settings.queue.ring as usize;
            opened.queues.push(Tapped::new(queue, pulse, capacity));
        }
        Ok(opened)
    };
    interfaces.iter().map(one).collect()
}

fn copies(zero_copy: bool) -> &'static str {
    if zero_copy { "zero copy" } else { "copy" }
}

fn memory(queue: &Queue) -> String {
    let more = match queue.takes_several_buffers() {
        true => "",
        false => "; frames longer than a buffer are dropped, and counted",
    };
    let mib = queue.umem_octets().div_ceil(1 << 20);
    format!("buffers of {mib} MiB each, in {}{more}", queue.pages())
}

/// The workers of all queues.
pub(super) fn recruits(
    opened: &mut [Opened],
    settings: &Settings,
) -> Result<Vec<Recruit<Tapped>>, RunError> {
    let allowed = cpus::allowed().map_err(RunError::Start)?;
    let names = opened.iter().flat_map(|port| {
        let name = &port.interface.name;
        (0..port.queues.len() as u32).map(|number| (name.clone(), number))
    });
    let names: Vec<_> = names.collect();
    let cpus = cpus::of_queues(&names, &allowed);
    let of = names.len() as u32;
    let secret = random_words().map_err(LoadError::Random)?;
    let queues = opened.iter_mut().flat_map(|port| {
        let ifindex = port.interface.index;
        port.queues.drain(..).map(move |queue| (ifindex, queue))
    });
    let recruit = |((number, (ifindex, source)), cpu)| {
        let table = LocalTable::new(settings.max_flows, settings.timeouts.into(), secret);
        let shard = Shard::new(number, of, table);
        let fragments = Fragments::new(secret);
        Recruit {
            source,
            meter: Meter::new(settings.tunnels, fragments, ifindex, shard),
            cpu,
        }
    };
    Ok((0..).zip(queues).zip(cpus).map(recruit).collect())
}

/// Attaches to every interface, or to none.
pub(super) fn attach(
    opened: Vec<Opened>,
    handover: &Handover,
    settings: &Settings,
) -> Result<Vec<Port>, RunError> {
    let one = |opened: Opened| {
        let interface = opened.interface;
        let promisc = settings
            .promisc
            .then(|| Promiscuous::new(&interface.name, interface.index))
            .transpose()?;
        let before = interface.statistics()?;
        let attached = handover.attach(&interface, settings.xdp_mode)?;
        tracing::info!(
            interface = interface.name,
            "attached, {}{}{}; {} queues, AF_XDP by {}, {}",
            attached.mode,
            if attached.frags { ", frags" } else { "" },
            crate::run::summary::tags_from(attached.vlan_metadata),
            opened.share.queues(),
            copies(opened.zero_copy),
            opened.memory,
        );
        Ok(Port {
            interface,
            attached,
            share: opened.share,
            zero_copy: opened.zero_copy,
            _promisc: promisc,
            before,
            gone: false,
        })
    };
    opened.into_iter().map(one).collect()
}

impl Port {
    /// Says it once when the interface goes away.
    pub(super) fn look(&mut self) {
        if self.gone {
            return;
        }
        if let Err(error @ FactsError::Gone(_)) = self.interface.link() {
            tracing::warn!("{error}: it is not watched any more");
            self.gone = true;
        }
    }

    /// Detaches; returns what the interface received meanwhile, and what its sockets need as long as
    /// they are read.
    pub(super) fn detach(self) -> (InterfaceSummary, Share) {
        let Self {
            interface,
            attached,
            share,
            before,
            ..
        } = self;
        let after = interface.statistics().unwrap_or_else(|error| {
            tracing::warn!("{error}: its counters are missing from the summary");
            before
        });
        let summary = InterfaceSummary {
            name: interface.name.clone(),
            ifindex: interface.index,
            mode: format!("{}, AF_XDP by {}", attached.mode, copies(self.zero_copy)),
            egress: false,
            frags: attached.frags,
            vlan_metadata: attached.vlan_metadata,
            counters: after.since(&before),
        };
        drop(attached);
        (summary, share)
    }
}
