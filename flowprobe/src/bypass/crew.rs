//! All threads of metering in userspace: a worker for each queue, the one that makes records, and one
//! that changes rates, which takes a while.

#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    cpus,
    emission::{Emission, Marks},
    mailbox::Mailbox,
    meter::{Counted, Meter},
    shard::{Message, Out, Shard},
    source::Source,
    worker::{Boxes, Desk, Order, Poll, Worker},
};
use crate::{
    clock::monotonic_ns,
    record::Volume,
    sampling::{Rates, Sampling, Selection},
    table::{
        ChangeError, ChangeRequest, Changed, Emitter, Shared,
        grace::{GracePeriod, Rcu},
    },
};

/// How long workers may take to let old flows go, and these to get out.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const CHANGE_STEP: Duration = Duration::from_millis(1);
/// How long a worker may take for what its queue still holds, in the end. One that hangs takes
/// for ever.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no crew.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread: {0}")]
pub struct CrewError(#[from] io::Error);

/// What begins an epoch where packets are selected.
pub trait Select: Send + 'static {
    /// Selects packets of a class in another way from now on, as its epoch `epoch`; says what was
    /// selected in the one before, of which no packet comes any more.
    ///
    /// # Errors
    /// It is not sure that none comes.
    fn change(&mut self, class: u8, epoch: u32, sampling: Sampling) -> io::Result<Selection>;
}

/// The program in the kernel.
pub struct Program {
    /// Memory shared with it.
    pub shared: Arc<Shared>,
    /// Waits until none runs that goes by what was said before.
    pub grace: Rcu,
}

impl Select for Program {
    fn change(&mut self, class: u8, epoch: u32, sampling: Sampling) -> io::Result<Selection> {
        self.shared.change(class, epoch, sampling);
        self.grace.wait()?;
        Ok(self.shared.selection(class, epoch - 1))
    }
}

/// A worker to be.
pub struct Recruit<S> {
    /// Its packets.
    pub source: S,
    /// What counts them. Its shard has the number of its place among all.
    pub meter: Meter,
    /// Where it runs.
    pub cpu: Option<usize>,
}

/// Sends word when its thread ends, also by a panic.
struct Notice {
    name: &'static str,
    to: UnboundedSender<&'static str>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Nobody listens any more once the threads have been told to stop.
        let _ = self.to.send(self.name);
    }
}

/// Desks for so many workers.
#[must_use]
pub fn desks(workers: usize) -> Vec<Arc<Desk>> {
    (0..workers).map(|_| Arc::default()).collect()
}

/// All threads at work.
pub struct Crew<S> {
    workers: Vec<JoinHandle<Worker<S>>>,
    desks: Vec<Arc<Desk>>,
    inboxes: Vec<Arc<Mailbox<Message>>>,
    emission: JoinHandle<Emission>,
    marks: Arc<Marks>,
    changes: mpsc::Sender<ChangeRequest>,
    changing: JoinHandle<()>,
    ended: UnboundedReceiver<&'static str>,
}

/// What is left of a crew.
#[derive(Debug, Default)]
pub struct Remains {
    /// What each worker counted.
    pub counted: Vec<Counted>,
    /// What is still in the tables of workers that have ended in order: nothing, if no thread broke off.
    pub held: Volume,
    /// A thread that broke off.
    pub broken: Option<&'static str>,
}

const WORKER: &str = "worker of a queue";
const EMISSION: &str = "thread that makes records";
const CHANGES: &str = "thread that changes rates";

impl<S: Source> Crew<S> {
    /// Starts all threads, each worker with its desk (see [`desks`]). `select` is told of new rates.
    ///
    /// # Errors
    /// The system refuses a thread; none is left then.
    pub fn start(
        recruits: Vec<Recruit<S>>,
        desks: Vec<Arc<Desk>>,
        poll: Poll,
        emitter: &Emitter,
        rates: &Arc<Rates>,
        select: impl Select,
    ) -> Result<Self, CrewError> {
        let (to, ended) = unbounded_channel();
        let of = recruits.len();
        let inboxes: Vec<Arc<Mailbox<Message>>> = recruits.iter().map(|_| Arc::default()).collect();
        let outs: Vec<Arc<Mailbox<Out>>> = recruits.iter().map(|_| Arc::default()).collect();
        let marks = Arc::new(Marks::default());
        let mut workers = Vec::new();
        for (n, recruit) in recruits.into_iter().enumerate() {
            let boxes = Boxes {
                inbox: Arc::clone(&inboxes[n]),
                next: Arc::clone(&inboxes[(n + 1) % of]),
                out: Arc::clone(&outs[n]),
            };
            let desk = Arc::clone(&desks[n]);
            let Recruit { source, meter, cpu } = recruit;
            let mut worker = Worker::new(source, meter, boxes, desk, Arc::clone(rates), poll);
            let started = spawn(&format!("queue {n}"), WORKER, &to, move || {
                if let Some(cpu) = cpu
                    && let Err(error) = cpus::pin(cpu)
                {
                    tracing::warn!("a worker cannot be kept on CPU {cpu}: {error}");
                }
                worker.run();
                worker
            });
            // Those that have begun end by themselves.
            workers.push(started.inspect_err(|_| desks.iter().for_each(|desk| desk.stop()))?);
        }
        let stop = |_: &io::Error| {
            desks.iter().for_each(|desk| desk.stop());
            marks.stop();
        };
        let mut emission = Emission::new(emitter.another(), outs, Arc::clone(&marks));
        let emission = spawn("emission", EMISSION, &to, move || {
            emission.run();
            emission
        })
        .inspect_err(stop)?;
        let (changes, asked) = mpsc::channel();
        let mut changer = Changer {
            select,
            emitter: emitter.another(),
            desks: desks.clone(),
            first: inboxes.first().map(Arc::clone).unwrap_or_default(),
            marks: Arc::clone(&marks),
            mark: 0,
        };
        let changing =
            spawn("changes", CHANGES, &to, move || changer.run(&asked)).inspect_err(stop)?;
        Ok(Self {
            workers,
            desks,
            inboxes,
            emission,
            marks,
            changes,
            changing,
            ended,
        })
    }

    /// Resolves when a thread ends by itself, to what it was.
    pub async fn ended(&mut self) -> &'static str {
        match self.ended.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Samples a class in another way. The answer comes when all flows of the rate before have left
    /// the tables.
    #[must_use]
    pub fn change(
        &self,
        class: u8,
        sampling: Sampling,
    ) -> oneshot::Receiver<Result<Changed, ChangeError>> {
        ChangeRequest::send(&self.changes, class, sampling)
    }

    /// Ends all threads, once no packet comes any more, and takes out all flows. With the sources go
    /// their queues.
    #[must_use]
    pub fn stop(self) -> Remains {
        let mut remains = Remains::default();
        let broken = &mut remains.broken;
        drop(self.changes);
        if self.changing.join().is_err() {
            *broken = Some(CHANGES);
        }
        self.desks.iter().for_each(|desk| desk.stop());
        let until = Instant::now() + STOP_LIMIT;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < until {
            thread::sleep(CHANGE_STEP);
        }
        let mut shards = Vec::new();
        for worker in self.workers {
            // One that hangs is left behind: the process ends soon.
            match worker.is_finished().then(|| worker.join()) {
                Some(Ok(worker)) => shards.push(worker.meter.shard),
                _ => *broken = Some(WORKER),
            }
        }
        self.marks.stop();
        match self.emission.join() {
            Ok(emission) => {
                let mut ending = Ending {
                    shards,
                    inboxes: self.inboxes,
                    emission,
                };
                ending.empty();
                for shard in &ending.shards {
                    remains.held += shard.table().held();
                }
                ending.emission.finish();
            }
            Err(_) => *broken = Some(EMISSION),
        }
        remains.counted = self.desks.iter().map(|desk| desk.counted()).collect();
        remains
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    what: &'static str,
    to: &UnboundedSender<&'static str>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let notice = Notice {
        name: what,
        to: to.clone(),
    };
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _notice = notice;
        work()
    })
}

/// Tables without workers, which are emptied.
struct Ending {
    shards: Vec<Shard>,
    inboxes: Vec<Arc<Mailbox<Message>>>,
    emission: Emission,
}

impl Ending {
    /// Takes out all flows: one table after the other, and all that goes round.
    fn empty(&mut self) {
        // Before what the tables send now.
        self.emission.look();
        if self.shards.len() < self.inboxes.len() {
            // A ring with a gap: what is known goes out as it is.
            let mut messages = Vec::new();
            for inbox in &self.inboxes {
                let mut some = Vec::new();
                inbox.take(&mut some);
                messages.append(&mut some);
            }
            for shard in &mut self.shards {
                shard.stand_alone();
                shard.flush();
            }
            for part in messages.iter().filter_map(Message::part) {
                self.emission.emit(part, monotonic_ns());
            }
            self.emit_all();
            return;
        }
        self.go_round();
        for n in 0..self.shards.len() {
            self.shards[n].flush();
            self.go_round();
        }
    }

    /// Until nothing is on its way.
    fn go_round(&mut self) {
        let of = self.shards.len();
        let mut read = Vec::new();
        loop {
            for (n, shard) in self.shards.iter_mut().enumerate() {
                self.inboxes[(n + 1) % of].post(&mut shard.next);
            }
            self.emit_all();
            if self.inboxes.iter().all(|inbox| inbox.is_empty()) {
                return;
            }
            for (n, shard) in self.shards.iter_mut().enumerate() {
                self.inboxes[n].take(&mut read);
                for message in read.drain(..) {
                    shard.receive(message);
                }
            }
        }
    }

    fn emit_all(&mut self) {
        let now_ns = monotonic_ns();
        for shard in &mut self.shards {
            for out in shard.out.drain(..) {
                if let Out::Flow(part) = out {
                    self.emission.emit(&part, now_ns);
                }
            }
        }
    }
}

/// Changes rates, one after the other.
struct Changer<T> {
    select: T,
    emitter: Emitter,
    desks: Vec<Arc<Desk>>,
    /// Where marks begin.
    first: Arc<Mailbox<Message>>,
    marks: Arc<Marks>,
    /// The last one.
    mark: u64,
}

impl<T: Select> Changer<T> {
    fn run(&mut self, asked: &mpsc::Receiver<ChangeRequest>) {
        while let Ok(request) = asked.recv() {
            request.carry_out(|class, sampling| self.change(class, sampling));
        }
    }

    /// All flows of the old epoch leave before the first record of the new one goes to export, so that
    /// a collector which applies the last rate that it was told is never wrong.
    fn change(&mut self, class: u8, sampling: Sampling) -> Result<Changed, ChangeError> {
        let begun = self.emitter.begin(class, sampling);
        let epoch = begun.ok_or(ChangeError::Class(class))?;
        let since_ns = monotonic_ns();
        let before = self.emitter.records();
        let taken_out = self.take_out_old(class, epoch, sampling);
        self.emitter.conclude(sampling);
        taken_out?;
        Ok(Changed {
            epoch,
            since_ns,
            flows: self.emitter.records() - before,
        })
    }

    fn take_out_old(
        &mut self,
        class: u8,
        epoch: u32,
        sampling: Sampling,
    ) -> Result<(), ChangeError> {
        let selection = self.select.change(class, epoch, sampling)?;
        self.emitter.rates().end(class, epoch - 1, selection);
        let until = Instant::now() + CHANGE_LIMIT;
        // No old packet is to come into a table when its flow has left the others.
        for order in [Order::Catch, Order::LetOldGo] {
            self.desks.iter().for_each(|desk| desk.ask(order));
            wait(until, || self.desks.iter().all(|desk| desk.is_done()))?;
        }
        self.mark += 1;
        self.first
            .send(Shard::mark(self.mark, self.desks.len() as u32));
        wait(until, || self.marks.has_reached(self.mark))
    }
}

fn wait(until: Instant, done: impl Fn() -> bool) -> Result<(), ChangeError> {
    while !done() {
        if Instant::now() > until {
            return Err(ChangeError::Workers(CHANGE_LIMIT));
        }
        thread::sleep(CHANGE_STEP);
    }
    Ok(())
}
