//! Packet sampling: which packets are metered at all.
//!
//! Where all packets are of one class and their sampler asks for nothing in them, that is decided
//! before an octet of a packet is touched. So it is where classes are interfaces. All else is asked
//! of packets that have been parsed.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};
use flowprobe_ebpf::{
    content,
    cpu::Cpu,
    sampling::{
        MAX_CLASSES, METHOD_COUNT, METHOD_FLOW, METHOD_HASH, METHOD_N_OF_N, METHOD_RANDOM,
        METHOD_TIME, Period, Sampled, Sampler, Window, Word, geometric_gap, next_random,
    },
};

use super::{account, hook::Hook, maps};

/// Whether to meter this packet: what it is sampled as, if so. Touches no octet of the packet.
///
/// A super-frame of several `packets` is selected as a whole, or skipped.
///
/// # Safety
/// `cpu` points to the element of this CPU, which has counted the packet as seen.
#[inline(always)]
pub(super) unsafe fn select(cpu: *mut Cpu, packets: u64) -> Option<Sampled> {
    // SAFETY: the caller's. Userspace replaces `sampling` as a whole, so it is read once.
    unsafe {
        let sampler = &raw mut (*cpu).sampler;
        let word = Word((&raw const (*sampler).sampling).read_volatile());
        if word.0 != (*sampler).current {
            let (seen, unsampled) = ((*cpu).seen.packets, (*cpu).unsampled.packets);
            turn(sampler, word.0, seen - packets, unsampled);
        }
        pick(sampler, word)
    }
}

/// The same where each interface has a sampler of its own.
///
/// # Safety
/// As [`select`].
#[inline(always)]
pub(super) unsafe fn select_by_interface<H: Hook>(
    ctx: H,
    cpu: *mut Cpu,
    packets: u64,
) -> Option<Sampled> {
    // SAFETY: the caller's.
    unsafe {
        match select_of_interface(ctx, (*cpu).partition, packets) {
            UNSELECTED => None,
            sampled => Some(Sampled(sampled as u32)),
        }
    }
}

/// What functions return that are no part of another, in the place of `None`.
const UNSELECTED: u64 = u64::MAX;

/// See [`select_by_interface`].
///
/// # Safety
/// `partition` is that of this CPU.
#[inline(never)]
unsafe fn select_of_interface<H: Hook>(ctx: H, partition: u32, packets: u64) -> u64 {
    // SAFETY: the caller's; points to a rule that nobody writes any more.
    unsafe {
        let ifindex = ctx.ifindex();
        let class = class(|rule| (*rule).is_of_interface(ifindex));
        ask(partition, class, packets)
    }
}

/// Whether to meter the packet in the scratch memory: what it is sampled as, if so.
///
/// # Safety
/// `cpu` points to the element of this CPU, whose scratch memory holds a packet.
#[inline(always)]
pub(super) unsafe fn select_parsed<H: Hook>(ctx: H, cpu: *mut Cpu) -> Option<Sampled> {
    // SAFETY: the caller's.
    unsafe {
        match select_of_packet(ctx, cpu) {
            UNSELECTED => None,
            sampled => Some(Sampled(sampled as u32)),
        }
    }
}

/// See [`select_parsed`].
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn select_of_packet<H: Hook>(ctx: H, cpu: *mut Cpu) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let ifindex = ctx.ifindex();
        let parsed = &(*account::scratch(cpu)).parsed;
        let class = class(|rule| (*rule).is_of(ifindex, &parsed.packet));
        let packets = parsed.packet.packets();
        let partition = (*cpu).partition;
        let Some(sampler) = maps::sampler(partition, class) else {
            return UNSELECTED;
        };
        let word = Word((&raw const (*sampler).sampling).read_volatile());
        if word.method() != METHOD_HASH && word.method() != METHOD_FLOW {
            return ask(partition, class, packets);
        }
        let (observed, skipped) = ((*sampler).observed, (*sampler).skipped);
        if word.0 != (*sampler).current {
            turn(sampler, word.0, observed, skipped);
        }
        (*sampler).observed = observed + packets;
        let hash = if word.method() == METHOD_FLOW {
            content::flow(&parsed.packet, maps::sample_key())
        } else {
            content_hash(ctx, cpu)
        };
        if u64::from(hash) > parameter(sampler, word) {
            (*sampler).skipped = skipped + packets;
            return UNSELECTED;
        }
        u64::from((*sampler).sampled.0)
    }
}

/// The hash of the content of the packet in the scratch memory.
///
/// # Safety
/// As [`select_parsed`].
#[inline(never)]
unsafe fn content_hash<H: Hook>(ctx: H, cpu: *mut Cpu) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let scratch = account::scratch(cpu);
        let frame = ctx.head(scratch);
        content::packet(&frame, &(*scratch).parsed, maps::sample_key())
    }
}

/// The first class whose rule is met; 0 if none is.
#[inline(always)]
fn class(is_met: impl Fn(*const flowprobe_ebpf::class::Rule) -> bool) -> u32 {
    let mut class = 1;
    while class < MAX_CLASSES {
        if class >= maps::classes() {
            break;
        }
        if maps::rule(class).is_some_and(|rule| is_met(rule)) {
            return class;
        }
        class += 1;
    }
    0
}

/// Asks the sampler of a class about a packet, where it need not know the packet.
///
/// # Safety
/// `partition` is that of this CPU.
#[inline(always)]
unsafe fn ask(partition: u32, class: u32, packets: u64) -> u64 {
    let Some(sampler) = maps::sampler(partition, class) else {
        return UNSELECTED;
    };
    // SAFETY: the caller's.
    unsafe {
        let word = Word((&raw const (*sampler).sampling).read_volatile());
        let (observed, skipped) = ((*sampler).observed, (*sampler).skipped);
        if word.0 != (*sampler).current {
            turn(sampler, word.0, observed, skipped);
        }
        (*sampler).observed = observed + packets;
        match pick(sampler, word) {
            Some(sampled) => u64::from(sampled.0),
            None => {
                (*sampler).skipped = skipped + packets;
                UNSELECTED
            }
        }
    }
}

/// Begins an epoch; see [`Sampler::turn`].
///
/// # Safety
/// `sampler` points to a sampler of this CPU.
#[inline(never)]
unsafe fn turn(sampler: *mut Sampler, word: u64, observed: u64, skipped: u64) {
    // SAFETY: the caller's.
    unsafe {
        let parameter = parameter(sampler, Word(word));
        (*sampler).turn(Word(word), parameter, observed, skipped);
    }
}

/// The parameter of the epoch of `word`, which was read before. Userspace has written it before that
/// word, and writes it again an epoch and a grace period later.
///
/// # Safety
/// As [`turn`].
#[inline(always)]
unsafe fn parameter(sampler: *mut Sampler, word: Word) -> u64 {
    // SAFETY: the caller's. Volatile, so that it is not read before the word.
    unsafe { (&raw const (*sampler).parameters[Sampler::half(word)]).read_volatile() }
}

/// Selects the packet or does not, by count, chance or time.
///
/// # Safety
/// As [`turn`]; `word` is the one that the sampler goes by.
#[inline(always)]
unsafe fn pick(sampler: *mut Sampler, word: Word) -> Option<Sampled> {
    // SAFETY: the caller's.
    unsafe {
        if (*sampler).skip_left != 0 {
            (*sampler).skip_left -= 1;
            return None;
        }
        match word.method() {
            METHOD_COUNT => (*sampler).skip_left = word.n() - 1,
            METHOD_RANDOM => {
                let random = next_random(&mut (*sampler).random);
                (*sampler).skip_left = geometric_gap(random, parameter(sampler, word));
            }
            METHOD_N_OF_N | METHOD_TIME if !chosen(sampler, word.0) => return None,
            _ => {}
        }
        Some((*sampler).sampled)
    }
}

/// Whether the packet is selected by a method that may skip a packet for which nothing was left to
/// skip. Out of line, so that it takes no registers from the others.
///
/// # Safety
/// As [`pick`].
#[inline(never)]
unsafe fn chosen(sampler: *mut Sampler, word: u64) -> bool {
    let word = Word(word);
    // SAFETY: the caller's.
    unsafe {
        let parameter = parameter(sampler, word);
        if word.method() == METHOD_TIME {
            return in_time(sampler, Period::from_word(parameter));
        }
        let mut window = Window::from_word((*sampler).progress);
        let (size, population) = (parameter as u32, (parameter >> 32) as u32);
        let drawn = window.draw(size, population, &mut (*sampler).random);
        (*sampler).progress = window.to_word();
        (*sampler).skip_left = drawn.skip;
        drawn.selected
    }
}

/// Whether it is time to select packets. To read the clock costs more than all the rest of a packet
/// that is skipped, so while there are whole ticks to go it is not read.
///
/// # Safety
/// As [`pick`].
#[inline(always)]
unsafe fn in_time(sampler: *mut Sampler, period: Period) -> bool {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let jiffies = bpf_jiffies64();
        if jiffies < (*sampler).progress {
            return false;
        }
        let off_ns = period.off_for_ns(bpf_ktime_get_ns() + maps::phase_ns());
        if off_ns == 0 {
            return true;
        }
        let tick_ns = maps::tick_ns();
        if tick_ns != 0 {
            (*sampler).progress = jiffies + off_ns / u64::from(tick_ns);
        }
        false
    }
}
