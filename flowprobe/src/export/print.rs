//! Prints flows on standard output: JSON lines for programs, a table for people.

mod table;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use self::table::Table;
use super::{
    Bell, Domain, Now, Output,
    account::{Cargo, Outlet},
};
use crate::{ipfix::element, record::FlowRecord};

/// Records formatted and written at once.
const CHUNK: usize = 256;
/// Longest sleep without flows.
const IDLE: Duration = Duration::from_secs(1);

/// Prints flows to `W`.
pub(super) struct Printer<W> {
    to: W,
    outlet: Arc<Outlet>,
    format: Format,
    /// observationDomainId of each class.
    domains: Vec<u32>,
}

enum Format {
    Json,
    Table(Table),
}

impl Printer<io::Stdout> {
    pub(super) fn stdout(output: Output, outlet: Arc<Outlet>, domains: &[Domain]) -> Self {
        let domains: Vec<_> = domains.iter().map(|domain| domain.id).collect();
        Self {
            to: io::stdout(),
            outlet,
            format: match output {
                Output::Json => Format::Json,
                Output::Table => Format::Table(Table::for_terminal(&domains)),
            },
            domains,
        }
    }
}

impl<W: Write> Printer<W> {
    /// Prints until the exporter ends or nobody reads.
    pub(super) fn run(mut self, bell: &Bell) {
        let mut heard = 0;
        loop {
            let finish_by = bell.finish_by();
            match self.print() {
                Ok(0) if finish_by.is_some() => return,
                Ok(0) => heard = bell.wait(heard, Now::read().at + IDLE),
                Ok(_) if finish_by.is_some_and(|by| Now::read().at >= by) => return,
                Ok(_) => {}
                Err(error) => return self.end(&error),
            }
        }
    }

    /// Prints the next records that wait, and returns how many.
    fn print(&mut self) -> io::Result<usize> {
        let Some((class, records)) = self.next() else {
            return Ok(0);
        };
        let domain = self.domains[class];
        let mut text = Vec::new();
        for (i, record) in records.iter().enumerate() {
            let next = records.get(i + 1);
            let before = i.checked_sub(1).and_then(|i| records.get(i));
            match &mut self.format {
                // It is in the line of the other half.
                Format::Json
                    if before.is_some_and(|half| half.forward_of(Some(record)).is_some()) => {}
                Format::Json => {
                    element::show(record, next, domain, &mut text);
                    text.push(b'\n');
                }
                Format::Table(table) => table.row(record, domain, &mut text),
            }
        }
        self.to.write_all(&text)?;
        self.to.flush()?;
        let mut cargo = Cargo::of(class, false);
        records.iter().for_each(|record| cargo.add(record));
        let mut account = self.outlet.account();
        account.settle_sent(&cargo, Now::read());
        account.count_message(class, text.len());
        Ok(records.len())
    }

    /// The records that wait for longest, and their class.
    fn next(&self) -> Option<(usize, Vec<FlowRecord>)> {
        let mut account = self.outlet.account();
        // Each record says its rate: who reads them need not be told.
        while let Some((class, _)) = account.change() {
            account.settle_change(class);
        }
        let oldest = account.runs(CHUNK).min_by_key(|run| run.since)?;
        let mut waiting = account.waiting(oldest.class).copied();
        let mut records: Vec<_> = waiting.by_ref().take(oldest.records).collect();
        if let (Some(last), Some(next)) = (records.last(), waiting.next())
            && last.forward_of(Some(&next)).is_some()
        {
            records.push(next);
        }
        drop(waiting);
        Some((oldest.class, records))
    }

    /// Nobody reads any more: the rest, and what comes, is dropped.
    fn end(&self, error: &io::Error) {
        let broken = error.kind() == io::ErrorKind::BrokenPipe;
        if !broken {
            tracing::warn!(%error, "cannot print flows");
        }
        let reason = if broken {
            "broken_pipe"
        } else {
            "write_failed"
        };
        self.outlet.account().close(reason, Now::read());
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Instant};

    use super::*;
    use crate::{ipfix::tests::sample::many, record::Volume};

    /// Takes so many octets, and then nobody reads any more.
    struct Pipe {
        read: Arc<Mutex<Vec<u8>>>,
        left: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.left = self
                .left
                .checked_sub(octets.len())
                .ok_or(io::ErrorKind::BrokenPipe)?;
            self.read.lock().expect("lock").extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Prints `count` records into a pipe for `left` octets, to the end.
    fn printed(count: u32, left: usize) -> (String, Arc<Outlet>) {
        let outlet = Arc::new(Outlet::new(
            "stdout".to_owned(),
            usize::MAX,
            &[crate::sampling::Sampling::All],
        ));
        let read = Arc::<Mutex<Vec<u8>>>::default();
        outlet.account().push(&Arc::new(many(count)), Now::read());
        let bell = Bell::default();
        bell.finish(Instant::now() + Duration::from_secs(60));
        let printer = Printer {
            to: Pipe {
                read: Arc::clone(&read),
                left,
            },
            outlet: Arc::clone(&outlet),
            format: Format::Json,
            domains: vec![7],
        };
        printer.run(&bell);
        let text = read.lock().expect("lock").clone();
        (String::from_utf8(text).expect("text"), outlet)
    }

    #[test]
    fn json_is_one_object_a_line() {
        let (text, outlet) = printed(1000, usize::MAX);
        let keys = ["sourceIPv4Address", "sourceIPv6Address"];
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(keys.iter().any(|key| object[key].is_string()));
            assert_eq!(object["observationDomainId"], 7);
        }
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(outlet.report().sent, Volume::of(&many(1000)));
    }

    #[test]
    fn a_broken_pipe_ends_printing_and_is_counted() {
        let (text, outlet) = printed(1000, 300_000);
        let lines = text.lines().count();
        assert!(lines > 0 && lines < 1000);
        outlet.account().push(&Arc::new(many(5)), Now::read());
        let report = outlet.report();
        let records = many(1000);
        assert_eq!(report.sent, Volume::of(&records[..lines]));
        let mut lost = Volume::of(&records[lines..]);
        lost += Volume::of(&many(5));
        assert_eq!(report.dropped, [("broken_pipe", lost)]);
    }
}
