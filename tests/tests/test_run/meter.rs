//! The program in the kernel, and the half of userspace that takes flows out.

use std::{
    io,
    sync::{Arc, Mutex},
};

use aya::programs::{ProgramError, TestRun, TestRunOptions};
use flowprobe::{
    attach::{LinkLayer, Way},
    clock::Clock,
    ledger::Ledger,
    load::{Kernel, OBJECT, Options},
    record::{FlowRecord, Volume},
    sampling::{Rates, Sampling},
    table::{
        Drainer, Emitter, GracePeriod, Overflow, Shared, Sweeper, Timeouts,
        emit::{Exported, Sink},
        held::held,
        shared::Totals,
    },
};
use flowprobe_ebpf::Tunnels;

/// Nobody else runs the program: a run has ended when its system call has.
struct NoGrace;

impl GracePeriod for NoGrace {
    fn wait(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Records(Mutex<Vec<FlowRecord>>, Mutex<Vec<Changed>>);

/// A change of rate, as it goes to export among the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) class: u8,
    pub(crate) epoch: u32,
    /// Records that went before it.
    pub(crate) behind: usize,
}

impl Sink for Records {
    fn take(&self, records: Vec<FlowRecord>) {
        self.0.lock().unwrap().extend(records);
    }

    fn change(&self, class: u8, epoch: u32, _: Sampling) {
        let behind = self.0.lock().unwrap().len();
        self.1.lock().unwrap().push(Changed {
            class,
            epoch,
            behind,
        });
    }
}

/// The program, run by hand.
pub(crate) struct Meter {
    kernel: Kernel,
    overflow: Arc<Overflow>,
    exported: Arc<Exported>,
    records: Arc<Records>,
    drainer: Drainer,
    sweeper: Sweeper,
}

/// One partition, a bucket of eight flows in each table, and a ring of 4,096 parts.
pub(crate) const SMALL: Options<'static> = Options {
    max_flows: 8,
    partitions: 1,
    ring_parts: 4096,
    sampling: Sampling::All,
    classes: &[],
    sample_key: 0,
    shadow: None,
    tunnels: Tunnels::OUTER,
    dedup: None,
};

/// Index of the loopback interface, which test runs come in on.
pub(crate) const IFINDEX: u32 = 1;

/// Runs everything that follows on one CPU.
pub(crate) fn pin_to_cpu(cpu: usize) {
    // SAFETY: plain system calls on a zeroed set that outlives them.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(rc, 0, "no CPU {cpu}: this test needs it");
}

fn rates(options: &Options<'_>) -> Rates {
    let others = options.classes.iter().map(|class| class.sampling);
    let all: Vec<_> = std::iter::once(options.sampling).chain(others).collect();
    Rates::new(&all, options.shadow)
}

impl Meter {
    /// Loads the program; packets run on CPU 0.
    pub(crate) fn new(options: &Options<'_>) -> Self {
        pin_to_cpu(0);
        let kernel = Kernel::load(OBJECT, options).expect("the kernel takes the program");
        let shared = Arc::clone(kernel.shared());
        let overflow = Arc::new(Overflow::new(shared.geometry(), 1 << 20));
        let exported = Arc::new(Exported::default());
        let records = Arc::new(Records::default());
        let emitter = Emitter::new(
            Arc::new(Clock::default()),
            Arc::clone(&exported),
            Arc::clone(&records) as Arc<dyn Sink>,
            Arc::new(rates(options)),
        );
        let drainer = Drainer::new(
            Arc::clone(&shared),
            Arc::clone(&overflow),
            emitter.another(),
        );
        let day = std::time::Duration::from_secs(86_400);
        let never = Timeouts {
            idle: day,
            active: day,
            linger: day,
        };
        let sweeper = Sweeper::new(
            shared,
            Arc::clone(&overflow),
            never.into(),
            Box::new(NoGrace),
            emitter,
        );
        Self {
            kernel,
            overflow,
            exported,
            records,
            drainer,
            sweeper,
        }
    }

    pub(crate) fn phase_ns(&self) -> u64 {
        self.kernel.phase_ns()
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.kernel.shared()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.shared().totals()
    }

    /// Runs a frame through the program.
    pub(crate) fn run(&mut self, frame: &[u8]) {
        self.run_many(frame, false, 1);
    }

    /// Runs a frame through an entry of traffic control, as a buffer that is `segments` packets with
    /// payloads of `size` octets, where these are not 0.
    ///
    /// False where the kernel makes no buffer of such a frame: it refuses some that are too short for
    /// what they say they are.
    pub(crate) fn run_tc(&mut self, way: Way, frame: &[u8], segments: u32, size: u32) -> bool {
        // Ethernet, and the header of IPv6.
        const SHORT: usize = 14 + 40;
        // linux/bpf.h: struct __sk_buff.
        const GSO_SEGS: usize = 164;
        const GSO_SIZE: usize = 176;
        let mut context = [0; 192];
        context[GSO_SEGS..][..4].copy_from_slice(&segments.to_ne_bytes());
        context[GSO_SIZE..][..4].copy_from_slice(&size.to_ne_bytes());
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let program = self
            .kernel
            .tc(way, LinkLayer::Ethernet)
            .expect("the program");
        let result = match program.test_run(options) {
            Err(ProgramError::SyscallError(refused))
                if refused.io_error.raw_os_error() == Some(libc::EINVAL) && frame.len() < SHORT =>
            {
                return false;
            }
            result => result.expect("BPF_PROG_TEST_RUN"),
        };
        // TC_ACT_UNSPEC: whoever comes next decides.
        assert_eq!(
            result.return_value.cast_signed(),
            -1,
            "a packet's fate was changed"
        );
        assert_eq!(out, frame, "a packet was changed");
        true
    }

    /// Runs a frame through either program, `repeat` times.
    pub(crate) fn run_many(&mut self, frame: &[u8], frags: bool, repeat: u32) {
        // The frame as the program left it.
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::new()
        };
        let program = self.kernel.program(frags).expect("the program");
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        const XDP_PASS: u32 = 2;
        assert_eq!(result.return_value, XDP_PASS, "a packet's fate was changed");
        assert_eq!(out, frame, "a packet was changed");
    }

    /// Samples a class in another way.
    pub(crate) fn change(&mut self, class: u8, sampling: Sampling) -> u32 {
        self.drain();
        self.sweeper.change(class, sampling).expect("a class").epoch
    }

    /// The changes so far.
    pub(crate) fn changes(&self) -> Vec<Changed> {
        self.records.1.lock().unwrap().clone()
    }

    /// Empties the rings.
    pub(crate) fn drain(&mut self) {
        while self.drainer.drain() > 0 {}
    }

    /// Takes out every flow.
    pub(crate) fn flush(&mut self) -> Vec<FlowRecord> {
        self.drain();
        self.sweeper.flush();
        self.taken()
    }

    /// Records that have come out since the last time.
    pub(crate) fn taken(&mut self) -> Vec<FlowRecord> {
        std::mem::take(&mut self.records.0.lock().unwrap())
    }

    /// Asserts that the ledger balances, and returns what is still held.
    #[track_caller]
    pub(crate) fn assert_balanced(&self) -> Volume {
        let held = held(self.shared(), &self.overflow);
        let ledger = Ledger::new(&self.totals(), self.exported.volume(), held, Vec::new());
        assert!(ledger.balanced, "{ledger}");
        held
    }
}
