//! Prints flows on standard output: JSON lines for programs, a table for people.

mod table;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use self::table::Table;
use super::{Bell, Now, Output, account::Outlet};
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
}

enum Format {
    Json,
    Table(Table),
}

impl Printer<io::Stdout> {
    pub(super) fn stdout(output: Output, outlet: Arc<Outlet>) -> Self {
        Self {
            to: io::stdout(),
            outlet,
            format: match output {
                Output::Json => Format::Json,
                Output::Table => Format::Table(Table::for_terminal()),
            },
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
        let records: Vec<FlowRecord> = {
            let account = self.outlet.account();
            account.waiting().take(CHUNK).copied().collect()
        };
        if records.is_empty() {
            return Ok(0);
        }
        let mut text = Vec::new();
        for record in &records {
            match &mut self.format {
                Format::Json => {
                    element::show(record, &mut text);
                    text.push(b'\n');
                }
                Format::Table(table) => table.row(record, &mut text),
            }
        }
        self.to.write_all(&text)?;
        self.to.flush()?;
        let mut account = self.outlet.account();
        account.settle_sent(records.len());
        account.count_message(text.len());
        Ok(records.len())
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
