//! The threads of collectors and spools, around the queues that they take flows out of.
//!
//! A collector has a queue, and so has each one of a group in which all get every flow, or each a
//! part. One in which they stand in for each other has one queue. A spool belongs to a queue.

use std::{sync::Arc, time::Duration};

use super::{
    Bell, Collector, Domain, ExportError, Exporter, Format, Group, Mode, Now, Settings,
    SpoolSettings, Telemetry, Transport,
    account::Outlet,
    announce::Facts,
    balance::Balance,
    content,
    encoder::Encoder,
    encoders,
    link::Link,
    members::Members,
    new_outlet,
    sender::Sender,
    spool::{
        Spool,
        intake::{Intake, Shared},
    },
};

/// Octets of the largest message on disk.
const SPOOL_MESSAGE: u16 = 16_384;

/// A queue, and who takes flows out of it.
struct Queue<'a> {
    outlet: Arc<Outlet>,
    /// In the order of preference.
    collectors: &'a [Collector],
    hold_down: Duration,
    /// What its spool is called, in the directory of spools.
    spool: String,
}

impl Exporter {
    pub(super) fn start_senders(
        &mut self,
        settings: &Settings,
        telemetry: Arc<dyn Telemetry>,
    ) -> Result<(), ExportError> {
        let facts = Arc::new(Facts::new(settings, telemetry));
        for collector in &settings.collectors {
            self.start_alone(collector, &facts, settings)?;
        }
        for group in &settings.groups {
            match group.mode {
                Mode::All => {
                    for collector in &group.collectors {
                        self.start_alone(collector, &facts, settings)?;
                    }
                }
                Mode::Failover => {
                    let queue = Queue {
                        outlet: self.outlet(group.to_string(), settings),
                        collectors: &group.collectors,
                        hold_down: group.hold_down,
                        spool: directory_name(Some(group.mode), &group.collectors),
                    };
                    self.start_queue(&queue, &facts, settings)?;
                }
                Mode::Balance => self.start_balance(group, &facts, settings)?,
            }
        }
        Ok(())
    }

    /// A collector that gets every record.
    fn start_alone(
        &mut self,
        collector: &Collector,
        facts: &Arc<Facts>,
        settings: &Settings,
    ) -> Result<(), ExportError> {
        let collectors = std::slice::from_ref(collector);
        let queue = Queue {
            outlet: self.outlet(collector.to_string(), settings),
            collectors,
            hold_down: Duration::ZERO,
            spool: directory_name(None, collectors),
        };
        self.start_queue(&queue, facts, settings).map(drop)
    }

    fn start_balance(
        &mut self,
        group: &Group,
        facts: &Arc<Facts>,
        settings: &Settings,
    ) -> Result<(), ExportError> {
        let mut queues = Vec::new();
        for collector in group.collectors.chunks(1) {
            let outlet = new_outlet(collector[0].to_string(), settings);
            let outlet = Arc::new(outlet.share_of(group.to_string()));
            self.outlets.push(Arc::clone(&outlet));
            let queue = Queue {
                outlet: Arc::clone(&outlet),
                collectors: collector,
                hold_down: group.hold_down,
                spool: directory_name(Some(group.mode), collector),
            };
            let members = self.start_queue(&queue, facts, settings)?;
            queues.push((outlet, members));
        }
        self.balanced.push(Balance::new(queues));
        Ok(())
    }

    /// Starts all who take flows out of a queue.
    fn start_queue(
        &mut self,
        queue: &Queue<'_>,
        facts: &Arc<Facts>,
        settings: &Settings,
    ) -> Result<Arc<Members>, ExportError> {
        let ways = settings.ways();
        let mut ready = Vec::new();
        for collector in queue.collectors {
            let link = ways.to(collector).map_err(|why| ExportError::Link {
                collector: collector.to_string(),
                why,
            })?;
            let octets = ways.message_octets(collector);
            ready.push((collector, link, (encoders(collector, settings)?, octets)));
        }
        // What is on disk can be sent to any of them, and whether it arrives is known.
        let mut links = ready.iter();
        let keeps = links.all(|(collector, link, _)| link.is_reliable() && collector.has_host());
        let spool = settings.spool.as_ref().filter(|_| keeps);
        let members = Members::new(queue.collectors.len(), spool.is_some(), queue.hold_down);
        let shared = match spool {
            Some(spool) => Some(self.start_spool(queue, spool, &members, facts, settings)?),
            None => None,
        };
        for (number, (collector, link, encoders)) in ready.into_iter().enumerate() {
            let (outlet, facts) = (Arc::clone(&queue.outlet), Arc::clone(facts));
            let settings = &paced(collector, settings);
            let sender = Sender::new(link, encoders, outlet, facts, settings, Now::read());
            let mut sender = sender.seated(collector.to_string(), members.seat(number));
            if let Some(shared) = &shared {
                sender = sender.spooling(Arc::clone(shared));
            }
            self.start_sender("export", sender)?;
        }
        Ok(members)
    }

    /// Starts what fills the spool of a queue.
    fn start_spool(
        &mut self,
        queue: &Queue<'_>,
        spool: &SpoolSettings,
        members: &Arc<Members>,
        facts: &Arc<Facts>,
        settings: &Settings,
    ) -> Result<Arc<Shared>, ExportError> {
        let spool = Spool::open_in(&spool.directory, &queue.spool, spool.octets);
        let spool = spool.map_err(|why| ExportError::Spool {
            collector: queue.outlet.destination().to_owned(),
            why,
        })?;
        let name = spool.directory().display().to_string();
        let shared = Shared::new(spool, Arc::clone(members), Arc::clone(&queue.outlet));
        // All collectors of a queue are sent the same from there.
        let content = content(&queue.collectors[0], settings)?;
        if let Some(missing) = content.uncounted() {
            return Err(ExportError::Uncounted {
                collector: queue.collectors[0].to_string(),
                missing,
            });
        }
        let encoder = |domain: &Domain| {
            let encoder = Encoder::new(Format::Ipfix, domain.id, SPOOL_MESSAGE, &content);
            encoder.unwrap_or_else(|_| unreachable!("SPOOL_MESSAGE holds any record"))
        };
        let encoders = settings.domains.iter().map(encoder).collect();
        let encoders = (encoders, SPOOL_MESSAGE);
        let unpaced = unpaced(settings);
        let (outlet, facts) = (Arc::clone(&queue.outlet), Arc::clone(facts));
        let intake = Intake::new(Arc::clone(&shared));
        let sender = Sender::new(intake, encoders, outlet, facts, &unpaced, Now::read());
        self.start_sender("spool", sender.seated(name, members.spool_seat()))?;
        Ok(shared)
    }

    fn start_sender<L: Link + Send + 'static>(
        &mut self,
        thread: &str,
        sender: Sender<L>,
    ) -> Result<(), ExportError> {
        let bell = Arc::clone(&self.bell);
        self.spawn(thread, move || drive(sender, &bell))
    }
}

/// The settings for a collector. A rate spares the receive buffer of another process, and a file has
/// none.
fn paced(collector: &Collector, settings: &Settings) -> Settings {
    match collector.transport() {
        Transport::File => unpaced(settings),
        _ => settings.clone(),
    }
}

fn unpaced(settings: &Settings) -> Settings {
    Settings {
        export_rate: 0,
        ..settings.clone()
    }
}

/// A name for a directory that no other queue has.
fn directory_name(mode: Option<Mode>, collectors: &[Collector]) -> String {
    let mode = mode.map(|mode| mode.name().to_owned());
    let collector = |collector: &Collector| {
        let scheme = collector.transport().scheme();
        let host = collector.host().replace(['/', '%'], "_");
        let template = collector.template();
        let template = template.map_or_else(String::new, |name| format!("-{name}"));
        format!("{scheme}-{host}-{}{template}", collector.port())
    };
    let parts: Vec<_> = mode
        .into_iter()
        .chain(collectors.iter().map(collector))
        .collect();
    parts.join("+")
}

/// The thread of a collector or a spool: one step after the other, until all are done.
fn drive<L: Link>(mut sender: Sender<L>, bell: &Bell) {
    let mut heard = 0;
    while let Some(next) = sender.step(Now::read(), bell.finish_by()) {
        heard = bell.wait(heard, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::tests::settings;

    #[test]
    fn files_are_written_as_fast_as_they_can_be() {
        let settings = Settings {
            export_rate: 7,
            ..settings(&[])
        };
        let rate = |url: &str| {
            let collector = url.parse().expect(url);
            paced(&collector, &settings).export_rate
        };
        assert_eq!(rate("file:///x"), 0);
        for url in ["udp://h:1", "tcp://h:1", "unix:///x"] {
            assert_eq!(rate(url), 7, "{url}");
        }
    }

    #[test]
    fn queues_have_directories_of_their_own() {
        let name = |mode, urls: &[&str]| {
            let collectors = urls.iter().map(|url| url.parse().expect(url));
            directory_name(mode, &collectors.collect::<Vec<_>>())
        };
        let names = [
            name(None, &["tcp://h:1"]),
            name(None, &["tcp://h:1?template=a"]),
            name(None, &["tls://h:1"]),
            name(Some(Mode::Failover), &["tcp://h:1", "tcp://[fe80::1%eth0]"]),
            name(Some(Mode::Balance), &["tcp://h:1"]),
        ];
        let expected = [
            "tcp-h-1",
            "tcp-h-1-a",
            "tls-h-1",
            "failover+tcp-h-1+tcp-fe80::1_eth0-4739",
            "balance+tcp-h-1",
        ];
        assert_eq!(names, expected);
    }
}
