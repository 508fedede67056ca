//! Sending a spool: a session that has all of it, from the oldest record that has not arrived.

use std::{collections::VecDeque, fs::File};

use super::{Position, Settled, Spool, SpoolError, remove, segment::path_of};
use crate::{
    ipfix_file::{Filled, Framer, ReadError, Reframe, sum},
    record::Volume,
};

/// A message that may not arrive.
#[derive(Debug)]
struct Sent {
    flows: Volume,
    /// Up to where all is dealt with once it has arrived.
    to: Position,
}

/// A session.
#[derive(Debug)]
pub(super) struct Drain {
    framer: Framer,
    /// The file that is read, and its number.
    reading: Option<(u64, Reframe<File>)>,
    /// Number of the file that was read last, or is.
    number: u64,
    /// What the message at hand is up to.
    to: Position,
    in_flight: VecDeque<Sent>,
    /// Messages that have arrived.
    acknowledged: u64,
}

impl Drain {
    /// Files up to this one are being sent.
    pub(super) fn last_number(&self) -> u64 {
        self.number
    }
}

impl Spool {
    /// A session begins, of messages of at most `max_octets`. All that has not arrived is sent,
    /// also what was on its way in an earlier one.
    pub(in crate::export) fn begin(&mut self, max_octets: u16) {
        self.drain = Some(Drain {
            framer: Framer::new(max_octets, true),
            reading: None,
            number: 0,
            to: self.settled,
            in_flight: VecDeque::new(),
            acknowledged: 0,
        });
    }

    /// The session has ended, in order or not.
    pub(in crate::export) fn end(&mut self) {
        self.drain = None;
    }

    /// The message to send next, the same one until it is [taken](Self::taken); `None` if all is
    /// sent, or no session has begun. It is empty when all has arrived, too: [`Self::is_empty`].
    ///
    /// # Errors
    /// The operating system refuses.
    pub(in crate::export) fn message(
        &mut self,
        export_time_s: u32,
    ) -> Result<Option<&[u8]>, SpoolError> {
        self.fill()?;
        let filled = self.drain.as_mut().filter(|drain| !drain.framer.is_empty());
        Ok(filled.map(|drain| drain.framer.message(export_time_s)))
    }

    /// Data records in the message to send next.
    pub(in crate::export) fn data_records(&self) -> u32 {
        let drain = self.drain.as_ref();
        drain.map_or(0, |drain| drain.framer.data_records())
    }

    /// Whether messages of the session may still arrive.
    pub(in crate::export) fn is_on_the_way(&self) -> bool {
        let drain = self.drain.as_ref();
        drain.is_some_and(|drain| !drain.in_flight.is_empty())
    }

    /// The message was taken. It may still not arrive.
    pub(in crate::export) fn taken(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.in_flight.push_back(Sent {
                flows: drain.framer.volume(),
                to: drain.to,
            });
            drain.framer.commit();
        }
    }

    /// So many messages of the session have arrived, in all. Files that have arrived go.
    ///
    /// # Errors
    /// The operating system refuses.
    pub(in crate::export) fn acknowledged(&mut self, messages: u64) -> Result<Settled, SpoolError> {
        let mut settled = Settled::default();
        let mut to = self.settled;
        if let Some(drain) = &mut self.drain {
            while drain.acknowledged < messages
                && let Some(sent) = drain.in_flight.pop_front()
            {
                drain.acknowledged += 1;
                settled.sent = sum(settled.sent, sent.flows);
                // Templates of a session come before what was settled in the one before.
                to = to.max(sent.to);
                let mut segments = self.segments.iter_mut();
                if let Some(segment) = segments.find(|segment| segment.number == sent.to.number) {
                    segment.flows -= sent.flows;
                }
            }
        }
        self.settle(to);
        settled.dropped = self.remove_done()?;
        Ok(settled)
    }

    /// Removes files that are dealt with. What has not arrived of them never will.
    fn remove_done(&mut self) -> Result<Volume, SpoolError> {
        let mut dropped = Volume::default();
        while let Some(first) = self.segments.front()
            && first.is_done(self.settled)
        {
            dropped = sum(dropped, first.flows);
            remove(&self.directory, first.number)?;
            self.segments.pop_front();
        }
        Ok(dropped)
    }

    /// Fills the message at hand, if it is empty.
    fn fill(&mut self) -> Result<(), SpoolError> {
        loop {
            let Some(drain) = &mut self.drain else {
                return Ok(());
            };
            if !drain.framer.is_empty() {
                return Ok(());
            }
            let Some((number, reframe)) = &mut drain.reading else {
                if self.next_file()? {
                    continue;
                }
                return Ok(());
            };
            let number = *number;
            let filled = match reframe.fill(&mut drain.framer) {
                Err(damaged @ ReadError::Damaged { .. }) => {
                    tracing::error!("{damaged}: what comes behind in this file is lost");
                    Filled::End
                }
                filled => filled?,
            };
            let data_records = reframe.data_records();
            drain.to = Position {
                number,
                data_records,
            };
            if filled == Filled::Full {
                continue;
            }
            drain.reading = None;
            let mut segments = self.segments.iter_mut();
            if let Some(segment) = segments.find(|segment| segment.number == number) {
                segment.data_records = data_records; // less than it had, if it was damaged
            }
            if drain.framer.is_empty() {
                // Its end has nothing that can be sent: it is dealt with when the rest is.
                match drain.in_flight.back_mut() {
                    Some(last) => last.to = last.to.max(drain.to),
                    None => {
                        let to = drain.to;
                        self.settle(to);
                    }
                }
            }
        }
    }

    /// Opens the next file; false if there is none.
    fn next_file(&mut self) -> Result<bool, SpoolError> {
        let read = self.drain.as_ref().map_or(0, Drain::last_number);
        let next = |spool: &Self| {
            let mut numbers = spool.segments.iter().map(|segment| segment.number);
            numbers.find(|number| *number > read)
        };
        let number = match next(self) {
            None => {
                self.complete()?;
                next(self)
            }
            number => number,
        };
        let (Some(number), Some(drain)) = (number, &mut self.drain) else {
            return Ok(false);
        };
        let skip = match self.settled.number == number {
            true => self.settled.data_records,
            false => 0,
        };
        let reframe = Reframe::open(&path_of(&self.directory, number))?.from(skip);
        drain.reading = Some((number, reframe));
        drain.number = number;
        Ok(true)
    }
}
