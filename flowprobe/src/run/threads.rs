//! The two threads that empty the table. They are apart since the drainer must never wait for
//! the sweeper's grace periods.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::steer;
use crate::{
    sampling::Sampling,
    table::{ChangeError, ChangeRequest, Changed, Drainer, Sweeper},
};

/// A thread has ended without being told to.
#[derive(Debug)]
pub(super) struct Ended(pub(super) &'static str);

/// Drainer and sweeper at work.
pub(super) struct Threads {
    drainer: Thread<Drainer>,
    sweeper: Thread<Sweeper>,
    ended: UnboundedReceiver<Ended>,
    changes: mpsc::Sender<ChangeRequest>,
}

/// A thread that goes on until it is told to stop.
struct Thread<T> {
    stop: Arc<AtomicBool>,
    handle: JoinHandle<T>,
}

impl<T> Thread<T> {
    /// Stops it; nothing comes back if it has panicked.
    fn stop(self) -> Option<T> {
        self.stop.store(true, Ordering::Release);
        self.handle.thread().unpark();
        self.handle.join().ok()
    }
}

/// Sends word when its thread ends, also by a panic.
struct Notice {
    name: &'static str,
    to: UnboundedSender<Ended>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Nobody listens any more once the threads have been told to stop.
        drop(self.to.send(Ended(self.name)));
    }
}

impl Threads {
    pub(super) fn start(
        drainer: Drainer,
        sweeper: Sweeper,
        sweep_interval: Duration,
    ) -> io::Result<Self> {
        let (to, ended) = unbounded_channel();
        let (changes, asked) = mpsc::channel();
        let drainer = spawn("drainer", &to, move |stop| drain(drainer, stop))?;
        let sweeper = spawn("sweeper", &to, move |stop| {
            sweep(sweeper, sweep_interval, &asked, stop)
        })?;
        Ok(Self {
            drainer,
            sweeper,
            ended,
            changes,
        })
    }

    /// Resolves when a thread ends by itself.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.ended.recv().await {
            Some(ended) => ended,
            // Both threads have a sender until they end, so one of them came before this.
            None => std::future::pending().await,
        }
    }

    /// Stops both; one that has panicked is missing. The sweeper first: it may wait for the drainer.
    pub(super) fn stop(self) -> (Option<Drainer>, Option<Sweeper>) {
        let sweeper = self.sweeper.stop();
        (self.drainer.stop(), sweeper)
    }
}

impl steer::Change for Threads {
    fn change(
        &self,
        class: u8,
        sampling: Sampling,
    ) -> oneshot::Receiver<Result<Changed, ChangeError>> {
        let answered = ChangeRequest::send(&self.changes, class, sampling);
        self.sweeper.handle.thread().unpark();
        answered
    }
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    to: &UnboundedSender<Ended>,
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let notice = Notice {
        name,
        to: to.clone(),
    };
    let handle = thread::Builder::new().name(name.into()).spawn(move || {
        let _notice = notice;
        work(&told)
    })?;
    Ok(Thread { stop, handle })
}

/// How long the drainer sleeps after it found something.
const BUSY: Duration = Duration::from_micros(500);
/// How long it sleeps at most. A ring takes 4 million new flows a second for 16 ms.
const QUIET: Duration = Duration::from_millis(4);

fn drain(mut drainer: Drainer, stop: &AtomicBool) -> Drainer {
    let mut pause = BUSY;
    while !stop.load(Ordering::Acquire) {
        if drainer.drain() > 0 {
            pause = BUSY;
        } else {
            pause = (pause * 2).min(QUIET);
        }
        thread::park_timeout(pause);
    }
    drainer
}

/// Steps are taken together that fall within this time: each batch costs a grace period.
const BATCH: Duration = Duration::from_millis(25);

fn sweep(
    mut sweeper: Sweeper,
    interval: Duration,
    asked: &mpsc::Receiver<ChangeRequest>,
    stop: &AtomicBool,
) -> Sweeper {
    let steps = sweeper.steps();
    let pause = (interval / steps).max(BATCH.min(interval / 4));
    let mut start = Instant::now();
    let mut next = 0;
    let mut refused = false;
    while !stop.load(Ordering::Acquire) {
        // One at a time, since each takes a while.
        if let Ok(request) = asked.try_recv() {
            request.carry_out(|class, sampling| sweeper.change(class, sampling));
            continue;
        }
        let passed = start.elapsed().as_nanos() * u128::from(steps) / interval.as_nanos().max(1);
        let due = u32::try_from(passed).map_or(steps, |passed| passed.min(steps));
        if due > next {
            if let Err(error) = sweeper.sweep(next..due) {
                if !refused {
                    tracing::error!("no grace period, so no flow can be read: {error}; retrying");
                }
                refused = true;
            } else {
                refused = false;
            }
            next = due;
        }
        if next == steps {
            next = 0;
            start = (start + interval).max(Instant::now() - interval);
        }
        thread::park_timeout(pause);
    }
    sweeper
}
