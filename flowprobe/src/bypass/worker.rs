//! The thread of one receive queue.

use std::{
    fmt, hint,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    mailbox::Mailbox,
    meter::{Counted, Meter},
    shard::{Message, Out},
    source::Source,
};
use crate::{clock::monotonic_ns, sampling::Rates, table::local::BURST};

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Sleeps the shorter the more packets come: a timer costs sender and worker less than to be
    /// woken for each burst.
    #[default]
    Adaptive,
    /// Is woken by the kernel.
    Wakeup,
    /// Never sleeps.
    Busy,
}

/// A word for none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workers poll in one of the ways adaptive, wakeup, busy")]
pub struct UnknownPoll;

impl FromStr for Poll {
    type Err = UnknownPoll;

    fn from_str(text: &str) -> Result<Self, UnknownPoll> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "wakeup" => Ok(Self::Wakeup),
            "busy" => Ok(Self::Busy),
            _ => Err(UnknownPoll),
        }
    }
}

impl fmt::Display for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adaptive => "adaptive",
            Self::Wakeup => "wakeup",
            Self::Busy => "busy",
        })
    }
}

/// The shortest sleep of [`Poll::Adaptive`], and the longest. In the longest, 16,384 packets of a
/// ring come at 16 million a second.
const SLEEP: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];
/// How long [`Poll::Wakeup`] waits at most: flows come due meanwhile, and other workers' flows
/// arrive.
const WAKEUP: Duration = Duration::from_millis(5);

/// A packet is stamped with a clock that may be a tick old, of 100 in a second at least, and takes
/// some time to arrive: the table's clock is behind by so much.
const SLACK_NS: u64 = 20_000_000;

/// How often what was counted is told.
const TELL_NS: u64 = 50_000_000;

/// Flows of one worker that may wait for the thread which makes records of them: 200 MiB. While there
/// are more the worker reads no packets, and what the queue's ring does not hold is lost, and counted.
const BACKLOG: usize = 1 << 20;

/// What a worker is told, and what it tells.
#[derive(Debug, Default)]
pub struct Desk {
    /// To end, once nothing comes any more.
    stop: AtomicBool,
    /// The last [`Order`], and the last one that it has carried out.
    asked: AtomicU64,
    done: AtomicU64,
    counted: Mutex<Counted>,
}

impl Desk {
    fn counted_now(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it had counted a moment ago; all of it once it has ended.
    #[must_use]
    pub fn counted(&self) -> Counted {
        *self.counted_now()
    }

    /// Tells it to end once its source is empty.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Gives it another order, when it has carried out the one before.
    pub fn ask(&self, order: Order) {
        let last = self.asked.load(Ordering::Relaxed);
        let next = (last | 1) + 1 + order as u64;
        self.asked.store(next, Ordering::Release);
    }

    /// Whether it has carried out what it was asked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.asked.load(Ordering::Relaxed)
    }
}

/// What a worker can be asked for. Its lowest bit is that of the number of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Order {
    /// To take all packets that have come.
    Catch = 0,
    /// To let all flows go that were selected at a rate which is past.
    LetOldGo = 1,
}

/// Boxes of a worker.
#[derive(Clone, Debug)]
pub struct Boxes {
    /// From the worker before it.
    pub inbox: Arc<Mailbox<Message>>,
    /// Of the worker after it.
    pub next: Arc<Mailbox<Message>>,
    /// Flows that are whole.
    pub out: Arc<Mailbox<Out>>,
}

/// A queue, its packets and its flows.
#[derive(Debug)]
pub struct Worker<S> {
    source: S,
    /// What counts them.
    pub meter: Meter,
    boxes: Boxes,
    desk: Arc<Desk>,
    rates: Arc<Rates>,
    poll: Poll,
    read: Vec<Message>,
    /// Which order is to be carried out, and the packets that are still to be taken before: those that
    /// had come.
    before: Option<(u64, usize)>,
    told_ns: u64,
    sleep: Duration,
}

impl<S: Source> Worker<S> {
    /// One that has not begun.
    #[must_use]
    pub fn new(
        source: S,
        meter: Meter,
        boxes: Boxes,
        desk: Arc<Desk>,
        rates: Arc<Rates>,
        poll: Poll,
    ) -> Self {
        Self {
            source,
            meter,
            boxes,
            desk,
            rates,
            poll,
            read: Vec::new(),
            before: None,
            told_ns: 0,
            sleep: SLEEP[0],
        }
    }

    /// Works until it is told to stop, and then until nothing comes any more.
    pub fn run(&mut self) {
        loop {
            // Before the source is looked at: what is empty after that stays so.
            let stop = self.desk.stop.load(Ordering::Acquire);
            let now_ns = monotonic_ns();
            self.source.beat(now_ns);
            // Once for all that follows: what waits is taken out meanwhile.
            let is_held_up = self.boxes.out.len() >= BACKLOG;
            let taken = if is_held_up { 0 } else { self.take_burst() };
            self.meter.shard.settle();
            self.pass_on();
            self.meter.shard.advance(now_ns.saturating_sub(SLACK_NS));
            self.answer((!is_held_up).then_some(taken));
            self.pass_on();
            if now_ns >= self.told_ns + TELL_NS {
                self.tell(now_ns);
            }
            if stop && taken == 0 && !is_held_up {
                break;
            }
            self.wait(taken);
        }
        self.tell(monotonic_ns());
    }

    fn take_burst(&mut self) -> usize {
        let meter = &mut self.meter;
        let taken = self.source.receive(BURST, |received| meter.take(&received));
        #[cfg(debug_assertions)]
        if taken > 0 {
            super::drill::begin();
        }
        taken
    }

    /// Takes what the worker before has passed on, and passes on in turn.
    fn pass_on(&mut self) {
        self.boxes.inbox.take(&mut self.read);
        for message in self.read.drain(..) {
            self.meter.shard.receive(message);
        }
        self.boxes.next.post(&mut self.meter.shard.next);
        self.boxes.out.post(&mut self.meter.shard.out);
    }

    /// Does what it is asked; `taken` are the packets of this round, if it has looked for any.
    fn answer(&mut self, taken: Option<usize>) {
        let asked = self.desk.asked.load(Ordering::Acquire);
        if self.desk.done.load(Ordering::Relaxed) == asked {
            return;
        }
        if asked & 1 == Order::LetOldGo as u64 {
            let rates = &self.rates;
            self.meter
                .shard
                .let_go_all(|key| rates.is_past(key.sampled()));
        } else if !self.has_caught(asked, taken) {
            return;
        }
        self.desk.done.store(asked, Ordering::Release);
    }

    /// Whether all packets have been taken that had come when this was asked first: there were no
    /// more since, or so many as can wait at all.
    fn has_caught(&mut self, asked: u64, taken: Option<usize>) -> bool {
        let before = match self.before {
            Some((order, before)) if order == asked => before,
            // One that nobody waits for any more does not count for the next.
            _ => {
                self.before = Some((asked, self.source.capacity()));
                return false;
            }
        };
        match taken {
            None => return false,
            Some(taken) if taken > 0 && before > taken => {
                self.before = Some((asked, before - taken));
                return false;
            }
            Some(_) => {}
        }
        self.before = None;
        true
    }

    fn tell(&mut self, now_ns: u64) {
        self.told_ns = now_ns;
        *self.desk.counted_now() = self.meter.counted(self.source.losses());
    }

    fn wait(&mut self, taken: usize) {
        if taken == BURST || !self.boxes.inbox.is_empty() {
            self.sleep = SLEEP[0];
            return;
        }
        match self.poll {
            Poll::Busy => hint::spin_loop(),
            Poll::Wakeup if taken > 0 => {}
            Poll::Wakeup => self.source.wait(WAKEUP),
            Poll::Adaptive => {
                self.sleep = match taken {
                    0 => (self.sleep * 2).min(SLEEP[1]),
                    _ => (self.sleep / 2).max(SLEEP[0]),
                };
                thread::sleep(self.sleep);
            }
        }
    }
}
