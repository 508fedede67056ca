use flowprobe_ebpf::sampling::{geometric_gap, next_random};

use super::*;
use crate::sampling::gap_scale;

/// One look a second at packets that arrive at `rate(second)`, and its changes: second, from, to.
fn watch(
    controller: &mut Controller,
    seconds: std::ops::Range<u64>,
    mut load: impl FnMut(u64, u32) -> (f64, f64),
) -> Vec<(u64, u32, u32)> {
    let mut changes = Vec::new();
    for second in seconds {
        let n = controller.n();
        let (total, fixed) = load(second, n.get());
        let load = Load { n, total, fixed };
        if let Some(next) = controller.observe(Duration::from_secs(second), load) {
            changes.push((second, n.get(), next.get()));
        }
    }
    changes
}

fn controller(budget: &str) -> Controller {
    Controller::new(budget.parse().expect("a budget"), NonZeroU32::MIN)
}

fn packets(rate: impl Fn(u64) -> f64) -> impl Fn(u64, u32) -> (f64, f64) {
    move |second, n| (rate(second) / f64::from(n), 0.0)
}

fn reversals(changes: &[(u64, u32, u32)]) -> usize {
    let up = |change: &(u64, u32, u32)| change.2 > change.1;
    changes
        .windows(2)
        .filter(|pair| !up(&pair[0]) && up(&pair[1]))
        .count()
}

#[test]
fn a_flood_is_answered_at_once_and_forgotten_step_by_step() {
    let mut one = controller("auto:packets=100000");
    let flood = |second| match second {
        60..300 => 5e6,
        _ => 1e4,
    };
    let changes = watch(&mut one, 0..400, packets(flood));
    // 5,000,000 / 80,000 = 62.5: the first step above is 100, in one observation.
    assert_eq!(changes[0], (60, 1, 100));
    let steps: Vec<_> = changes[1..].iter().map(|change| change.2).collect();
    assert_eq!(steps, [50, 20, 10, 5, 2, 1]);
    assert!(changes[1].0 >= 310, "{changes:?}");
    assert!(changes[6].0 <= 371, "{changes:?}");
    assert!(
        changes[1..]
            .windows(2)
            .all(|pair| pair[1].0 - pair[0].0 >= 10)
    );
}

#[test]
fn a_ramp_is_followed_upwards_only() {
    let mut one = controller("auto:packets=100000");
    let changes = watch(&mut one, 0..1000, |second, n| {
        (second as f64 * 5000.0 / f64::from(n), 0.0)
    });
    assert!(
        changes.iter().all(|change| change.2 > change.1),
        "{changes:?}"
    );
    assert!(changes.len() <= 7, "{changes:?}");
    // 4,995,000 / 50 is just within the budget.
    assert_eq!(one.n().get(), 50);
}

#[test]
fn a_load_at_the_limit_is_raised_once() {
    for around in [0.999, 1.0, 1.001] {
        let mut one = controller("auto:packets=100000");
        let mut state = 7;
        let changes = watch(&mut one, 0..3600, |_, n| {
            let noise = next_random(&mut state) as f64 / 2f64.powi(64) * 0.2 - 0.1;
            (1e5 * around * (1.0 + noise) / f64::from(n), 0.0)
        });
        assert_eq!(changes.len(), 1, "{changes:?}");
    }
}

#[test]
fn no_square_wave_makes_it_thrash() {
    for period in (2..2000).step_by(7) {
        let mut one = controller("auto:packets=100000");
        let wave = |second| match second % period < period / 2 {
            true => 1.5e5,
            false => 1e3,
        };
        let changes = watch(&mut one, 0..3600, packets(wave));
        assert!(reversals(&changes) <= 12, "{period}: {changes:?}");
        // One step is enough here, so every change is a raise or a lowering by it.
        assert!(changes.len() <= 27, "{period}: {changes:?}");
    }
}

#[test]
fn no_noise_makes_it_thrash() {
    for seed in 0..50 {
        let mut one = controller("auto:packets=100000");
        let mut state = seed;
        // From 100 to 100,000,000 packets a second, in octaves that stay for 1 to 64 seconds.
        let (mut rate, mut until) = (0.0, 0);
        let changes = watch(&mut one, 0..3600, |second, n| {
            if second >= until {
                let random = next_random(&mut state);
                rate = 10f64.powf(2.0 + 6.0 * (random >> 32) as f64 / 2f64.powi(32));
                until = second + 1 + random % 64;
            }
            (rate / f64::from(n), 0.0)
        });
        assert!(reversals(&changes) <= 12, "{seed}: {changes:?}");
    }
}

#[test]
fn the_part_that_no_n_makes_smaller_is_left_out_of_predictions() {
    // 2,000,000 packets a second, 3 ns for a skipped one, 100 ns for a metered one, of 5 %.
    let cost = |_, n: u32| {
        let fixed = 2e6 * 3e-9;
        (fixed + 2e6 * 100e-9 / f64::from(n), fixed)
    };
    let mut one = controller("auto:cpu=5%");
    assert_eq!(watch(&mut one, 0..60, cost), [(0, 1, 10)]);
    assert!(cost(0, 10).0 <= 0.04);
}

/// Skipped packets alone cost more than the budget: the rest is thinned out until it does not matter,
/// and no further.
#[test]
fn no_packets_are_thrown_away_in_vain() {
    let mut one = controller("auto:cpu=0.3%");
    let load = |_, n| (0.005 + 0.1 / f64::from(n), 0.005);
    let changes = watch(&mut one, 0..600, load);
    assert_eq!(changes, [(0, 1, 200)]);
    assert!(one.newly_exceeded());
    assert!(!one.newly_exceeded());
}

#[test]
fn flows_that_answer_less_than_n_need_several_looks() {
    // Flows of 100 packets: a flow is seen with probability 1 − (1 − 1/n)¹⁰⁰.
    let flows = |_, n: u32| (1e5 * (1.0 - (1.0 - 1.0 / f64::from(n)).powi(100)), 0.0);
    let mut one = controller("auto:flows=10000");
    let changes = watch(&mut one, 0..600, flows);
    assert!(changes.len() <= 5, "{changes:?}");
    assert!(flows(0, one.n().get()).0 <= 10_000.0);
    assert!(
        changes.iter().all(|change| change.2 > change.1),
        "{changes:?}"
    );
}

#[test]
fn a_budget_that_cannot_be_held_is_said_once() {
    let mut one = controller("auto:packets=1");
    watch(&mut one, 0..1, packets(|_| 1e9));
    assert_eq!(one.n().get(), 1_000_000);
    assert!(!one.newly_exceeded());
    watch(&mut one, 1..2, packets(|_| 1e9));
    assert!(one.newly_exceeded());
    watch(&mut one, 2..9, packets(|_| 1e9));
    assert!(!one.newly_exceeded());
}

#[test]
fn loads_that_say_nothing_are_left_out() {
    let mut one = controller("auto:packets=1");
    let other = NonZeroU32::new(2).expect("not 0");
    for (n, total) in [
        (other, 1e9),
        (NonZeroU32::MIN, f64::NAN),
        (NonZeroU32::MIN, f64::INFINITY),
    ] {
        let load = Load {
            n,
            total,
            fixed: 0.0,
        };
        assert_eq!(one.observe(Duration::ZERO, load), None);
    }
}

/// How many of `packets` are selected one in n, by the gaps of the kernel half.
fn select(packets: u64, n: u32, state: &mut u64) -> u64 {
    if n == 1 {
        return packets;
    }
    let scale = gap_scale(1.0 / f64::from(n));
    let (mut at, mut selected) = (0, 0);
    loop {
        at += u64::from(geometric_gap(next_random(state), scale)) + 1;
        if at > packets {
            return selected;
        }
        selected += 1;
    }
}

/// A square wave of packets, metered at the n that `one` chooses from what was selected. Returns
/// (estimate − truth) and the variance that theory has for it, Σ packets·(n − 1).
fn meter(seed: u64, peek: bool) -> (f64, f64) {
    let mut one = controller("auto:packets=100");
    let mut state = seed;
    let (mut error, mut variance) = (0.0, 0.0);
    for second in 0..300 {
        let packets = if second / 25 % 2 == 0 { 1990 } else { 300 };
        let n = one.n();
        let selected = select(packets, n.get(), &mut state);
        let load = Load {
            n,
            total: selected as f64,
            fixed: 0.0,
        };
        one.observe(Duration::from_secs(second), load);
        // Who lets the n that was chosen from this sample scale this sample, is wrong.
        let scale = if peek { one.n() } else { n };
        error += selected as f64 * f64::from(scale.get()) - packets as f64;
        variance += packets as f64 * f64::from(n.get() - 1);
    }
    (error, variance)
}

#[test]
fn estimates_stay_unbiased() {
    let (mut sum, mut total_variance) = (0.0, 0.0);
    for seed in 0..100 {
        let (error, variance) = meter(seed, false);
        assert!(
            error.abs() <= 4.0 * variance.sqrt(),
            "{seed}: {error} of {}",
            variance.sqrt()
        );
        sum += error;
        total_variance += variance;
    }
    assert!(
        sum.abs() <= 3.0 * total_variance.sqrt(),
        "{sum} of {}",
        total_variance.sqrt()
    );
}

#[test]
fn a_rate_chosen_by_the_sample_that_it_scales_is_found_out() {
    let (sum, variance) = (0..100)
        .map(|seed| meter(seed, true))
        .fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert!(
        sum.abs() > 6.0 * variance.sqrt(),
        "{sum} of {}",
        variance.sqrt()
    );
}
