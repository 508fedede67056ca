//! What each sampler selects, of packets that are nothing but numbers.

use super::*;

const PACKETS: u64 = 20_000;
const FLOWS: u32 = 40;

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

fn seen(index: u64) -> Seen {
    Seen {
        flow: (derived(1, index, 2) % u64::from(FLOWS)) as u32,
        octets: 100,
        at_ns: index * 1_000_003,
        content: derived(1, index, 3),
        syn: false,
    }
}

fn samples(method: Method, of: &str, runs: u32, seed: u64) -> Vec<Sampler> {
    let mut bank = Bank::new(&Design {
        methods: vec![method],
        rates: vec![rate(of)],
        runs,
        seed,
        window_ns: 10_000_000,
    });
    for index in 0..PACKETS {
        bank.see(&seen(index));
    }
    bank.finish()
}

/// Packets that a plan selects of the first `packets`.
fn selected(method: Method, of: &str, seed: u64, packets: u64) -> Vec<u64> {
    let (mut plan, mut next) = Plan::new(method, rate(of), seed).expect("it counts packets");
    let mut selected = Vec::new();
    while next < packets {
        selected.push(next);
        next = plan.next(next);
    }
    selected
}

#[test]
fn systematic_sampling_is_n_in_a_row_of_each_n() {
    for (of, n, all) in [("7", 1, 7), ("3/10", 3, 10), ("4/4", 4, 4)] {
        for seed in 0..50 {
            let selected = selected(Method::Count, of, seed, 1000);
            let is = |i: u64| selected.binary_search(&i).is_ok();
            for start in 0..1000 - all {
                assert_eq!((start..start + all).filter(|&i| is(i)).count(), n, "{of}");
            }
            for i in 0..1000 - all {
                assert_eq!(is(i), is(i + all), "{of} {seed}");
            }
        }
    }
}

#[test]
fn phases_are_all_there() {
    let mut first = [0_u32; 10];
    for seed in 0..2000 {
        first[selected(Method::Count, "10", derived(1, seed, 0), 10)[0] as usize] += 1;
    }
    // χ² with 9 degrees of freedom: 27.9 is exceeded by one in a thousand.
    let chi: f64 = first
        .iter()
        .map(|&c| (f64::from(c) - 200.0).powi(2) / 200.0)
        .sum();
    assert!(chi < 27.9, "{chi} {first:?}");
}

#[test]
fn n_of_each_window_are_drawn_and_all_places_alike() {
    let mut places = [0_u32; 8];
    for seed in 0..100 {
        let selected = selected(Method::NofN, "3/8", derived(2, seed, 0), 800);
        assert_eq!(selected.len(), 300);
        assert!(selected.is_sorted_by(|a, b| a < b));
        for window in selected.chunks(3) {
            assert!(window.iter().all(|i| i / 8 == window[0] / 8));
        }
        for i in selected {
            places[(i % 8) as usize] += 1;
        }
    }
    // χ² with 7 degrees of freedom, less since places exclude each other: 24.3 for 0.1 %.
    let chi: f64 = places
        .iter()
        .map(|&c| (f64::from(c) - 3750.0).powi(2) / 3750.0)
        .sum();
    assert!(chi < 24.3, "{chi} {places:?}");
}

/// χ² of gaps against the geometric distribution of 1/n, over 30 classes of like probability.
fn chi_square_of_gaps(gaps: &[u64], n: f64) -> f64 {
    const CLASSES: usize = 30;
    let mut counts = [0_u64; CLASSES];
    let mut expected = [0.0; CLASSES];
    let (stay, all) = (1.0 - 1.0 / n, gaps.len() as f64);
    let class = |gap: u64| {
        let below = 1.0 - stay.powf(gap as f64);
        ((below * CLASSES as f64) as usize).min(CLASSES - 1)
    };
    for gap in 0..(n * 60.0) as u64 {
        expected[class(gap)] += all * stay.powf(gap as f64) / n;
    }
    for &gap in gaps {
        counts[class(gap)] += 1;
    }
    let each = counts
        .iter()
        .zip(expected)
        .filter(|(_, expected)| *expected > 5.0);
    each.map(|(&count, expected)| (count as f64 - expected).powi(2) / expected)
        .sum()
}

/// 29 degrees of freedom: one in a thousand exceeds this.
const CHI_29: f64 = 58.3;

fn gaps(of: &str, seed: u64) -> Vec<u64> {
    let selected = selected(Method::Random, of, seed, 4_000_000);
    selected.windows(2).map(|two| two[1] - two[0] - 1).collect()
}

#[test]
fn random_gaps_are_geometric() {
    for (of, n) in [("100", 100.0), ("3/200", 200.0 / 3.0)] {
        let chi = chi_square_of_gaps(&gaps(of, 5), n);
        assert!(chi < CHI_29, "{of}: {chi}");
    }
}

#[test]
fn gaps_of_another_rate_or_kind_are_not() {
    assert!(chi_square_of_gaps(&gaps("90", 5), 100.0) > CHI_29);
    let equal: Vec<u64> = (0..40_000).map(|_| 99).collect();
    assert!(chi_square_of_gaps(&equal, 100.0) > CHI_29);
    let uniform: Vec<u64> = (0..40_000).map(|i| i % 199).collect();
    assert!(chi_square_of_gaps(&uniform, 100.0) > CHI_29);
}

/// Seeds whose number of selected packets is outside the 95 % interval of binomial selection.
fn outside(fractions: &[f64], share: f64) -> usize {
    let half = 1.96 * (share * (1.0 - share) / PACKETS as f64).sqrt();
    let outside = fractions.iter().filter(|&&is| (is - share).abs() > half);
    outside.count()
}

fn fractions(method: Method, of: &str) -> Vec<f64> {
    let samplers = samples(method, of, 100, 9);
    let selected = samplers.iter().map(|sampler| sampler.sample.packets);
    selected
        .map(|packets| packets as f64 / PACKETS as f64)
        .collect()
}

/// Of 100 seeds five are outside on average; twelve or more are once in 230 times, and the seed is
/// fixed.
const MOST_OUTSIDE: usize = 12;

#[test]
fn fractions_are_within_their_interval() {
    for method in [
        Method::Random,
        Method::Hash,
        Method::Count,
        Method::NofN,
        Method::Time,
    ] {
        for of in ["10", "3/100"] {
            let outside = outside(&fractions(method, of), rate(of).share());
            assert!(outside <= MOST_OUTSIDE, "{method:?} {of}: {outside}");
        }
    }
}

/// One that selects a twentieth more is found out by the same check.
#[test]
fn a_biased_sampler_is_found_out() {
    let biased: Vec<f64> = fractions(Method::Random, "10")
        .iter()
        .map(|f| f * 1.05)
        .collect();
    assert!(outside(&biased, 0.1) > MOST_OUTSIDE);
}

#[test]
fn flows_are_hit_by_their_share() {
    for method in [
        Method::Count,
        Method::Random,
        Method::NofN,
        Method::Time,
        Method::Hash,
    ] {
        let samplers = samples(method, "20", 100, 11);
        let mut hits = [0_u64; FLOWS as usize];
        for sampler in &samplers {
            for cell in &sampler.sample.cells {
                assert_eq!(cell.octets, u64::from(cell.packets) * 100);
                hits[cell.flow as usize] += u64::from(cell.packets);
            }
        }
        let mut all = [0_u64; FLOWS as usize];
        for index in 0..PACKETS {
            all[seen(index).flow as usize] += 1;
        }
        for (flow, (hits, all)) in hits.iter().zip(all).enumerate() {
            // 100 samplers of a twentieth: five times the packets, within 5 deviations.
            let expected = 5.0 * all as f64;
            let off = (*hits as f64 - expected).abs() / (expected * 0.95).sqrt();
            assert!(off < 5.0, "{method:?} flow {flow}: {hits} of {all}");
        }
    }
}

#[test]
fn equal_content_is_selected_together_and_differently_in_each_run() {
    let mut bank = Bank::new(&Design {
        methods: vec![Method::Hash],
        rates: vec![rate("2")],
        runs: 64,
        seed: 1,
        window_ns: 1,
    });
    for index in 0..10 {
        bank.see(&Seen {
            content: 42,
            ..seen(index)
        });
    }
    let packets: Vec<_> = bank.finish().iter().map(|s| s.sample.packets).collect();
    assert!(packets.iter().all(|&packets| packets == 0 || packets == 10));
    let selected = packets.iter().filter(|&&packets| packets == 10).count();
    assert!((16..48).contains(&selected), "{selected}");
}

#[test]
fn a_sparser_rate_of_a_run_is_within_a_denser_one() {
    let mut bank = Bank::new(&Design {
        methods: vec![Method::Hash],
        rates: vec![rate("2"), rate("10")],
        runs: 1,
        seed: 1,
        window_ns: 1,
    });
    for index in 0..PACKETS {
        bank.see(&seen(index));
    }
    let samplers = bank.finish();
    let [dense, sparse] = &samplers[..] else {
        panic!("two");
    };
    assert!(sparse.sample.packets * 4 < dense.sample.packets);
}

#[test]
fn gaps_longer_than_the_wheel_are_kept() {
    let of = (Wheel::SLOTS * 3 + 1).to_string();
    let samplers = samples(Method::Count, &of, 20, 1);
    for sampler in &samplers {
        assert!((3..=4).contains(&sampler.sample.packets), "{sampler:?}");
    }
}

/// χ² of how often the packets of 20 equal flows are selected by a twentieth, over 100 seeds, in
/// the order that `flow` says.
fn chi_square_of_flows(method: Method, flow: impl Fn(u64) -> u64) -> f64 {
    const EACH: f64 = PACKETS as f64 / 20.0;
    let mut bank = Bank::new(&Design {
        methods: vec![method],
        rates: vec![rate("20")],
        runs: 100,
        seed: 13,
        window_ns: 1_000_000,
    });
    for index in 0..PACKETS {
        bank.see(&Seen {
            flow: flow(index) as u32,
            ..seen(index)
        });
    }
    let mut square = 0.0;
    for sampler in bank.finish() {
        let hits = |flow| {
            let cells = sampler.sample.cells.iter();
            let hits = cells
                .filter(|cell| cell.flow == flow)
                .map(|cell| cell.packets);
            f64::from(hits.sum::<u32>())
        };
        let of_flow = |flow| (hits(flow) - EACH * 0.05).powi(2) / (EACH * 0.05 * 0.95);
        square += (0..20).map(of_flow).sum::<f64>();
    }
    square
}

/// Whichever way flows are mixed, each is hit by its share; but systematic sampling by a twentieth of
/// 20 flows that take turns sees one of them only.
#[test]
fn flows_are_hit_alike_in_any_order() {
    // Of 2,000 degrees of freedom, 5 standard deviations above the mean.
    const MOST: f64 = 2000.0 + 5.0 * 63.2;
    let in_turn = |index: u64| index % 20;
    let one_by_one = |index: u64| index * 20 / PACKETS;
    for method in [Method::Random, Method::NofN, Method::Hash] {
        for square in [
            chi_square_of_flows(method, in_turn),
            chi_square_of_flows(method, one_by_one),
        ] {
            assert!(square < MOST, "{method:?}: {square}");
        }
    }
    assert!(chi_square_of_flows(Method::Count, one_by_one) < MOST);
    assert!(chi_square_of_flows(Method::Count, in_turn) > 10.0 * MOST);
}
