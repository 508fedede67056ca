//! What the demonstration showed, for people and for programs.

use std::net::SocketAddr;

use flowprobe_tests::{flow::Flow, summary::Tally};
use serde_json::{Value, json};

use super::Shown;

/// Everything as one object.
pub(super) fn json(shown: &Shown) -> Value {
    let flows: Vec<Value> = shown.received.flows.iter().map(Flow::to_json).collect();
    json!({
        "balanced": shown.errors().is_empty(),
        "ledger": shown.finished.summary.ledger,
        "interfaces": shown.finished.summary.interfaces,
        "flows": flows,
        "cost": {
            "packets": shown.cost.packets,
            "nanoseconds": shown.cost.nanoseconds,
            "nanoseconds_per_packet": per_packet(shown),
        },
    })
}

/// Everything in lines of at most 80 columns.
pub(super) fn print(shown: &Shown) {
    println!("\nFlows, as the IPFIX collector decoded them:\n");
    println!(
        "{:<20} {:<20} {:<5} {:<4} {:>6} {:>9} ended",
        "source", "destination", "proto", "in", "pkts", "octets"
    );
    let mut flows: Vec<&Flow> = shown.received.flows.iter().collect();
    flows.sort_by_key(|flow| (flow.start_ms, flow.key));
    for flow in flows {
        let key = flow.key;
        println!(
            "{:<20} {:<20} {:<5} {:<4} {:>6} {:>9} {}",
            SocketAddr::new(key.source, key.source_port).to_string(),
            SocketAddr::new(key.destination, key.destination_port).to_string(),
            protocol(key.protocol),
            interface(shown, flow.interface),
            flow.counts.packets,
            flow.counts.octets,
            reason(flow.reason),
        );
    }

    let ledger = &shown.finished.summary.ledger;
    println!("\nLedger: every packet in exactly one term\n");
    println!("{:<34} {:>12} {:>14}", "", "packets", "octets");
    for port in &shown.finished.summary.interfaces {
        let name = format!("{} received, by its own count", port.name);
        println!("{name:<34} {:>12}", port.rx_packets);
    }
    line("seen by the program", ledger.seen);
    line("  unsampled", ledger.unsampled);
    terms("  ignored", ledger.ignored.iter());
    terms("  lost", ledger.lost.iter());
    line("  accounted", ledger.accounted);
    let accounted = Tally {
        packets: ledger.accounted.packets,
        octets: ledger.accounted_ip_octets,
    };
    line("accounted, IP layer", accounted);
    records(
        "  exported",
        ledger.exported.packets,
        ledger.exported.octets,
    );
    records("  held", ledger.held.packets, ledger.held.octets);
    let collected = shown.received.truth().total();
    records("collected", collected.packets, collected.octets);

    let errors = shown.errors();
    if errors.is_empty() {
        println!("\nIt balances, packet for packet and octet for octet.");
    }
    for error in errors {
        println!("\nIt does not balance: {error}");
    }
    println!(
        "\nCost: {} ns a packet over {} packets, as the kernel's bpf_stats measure it.\n\
         That includes the measuring itself, two readings of the clock for each\n\
         packet: `cargo xtask bench packet` tells the two apart.",
        per_packet(shown),
        shown.cost.packets
    );
}

fn per_packet(shown: &Shown) -> u64 {
    shown.cost.nanoseconds / shown.cost.packets.max(1)
}

fn line(name: &str, tally: Tally) {
    records(name, tally.packets, tally.octets);
}

fn records(name: &str, packets: u64, octets: u64) {
    println!("{name:<34} {packets:>12} {octets:>14}");
}

/// Terms with several reasons: those that are not zero, or one line of zeros.
fn terms<'a>(name: &str, tallies: impl Iterator<Item = (&'a String, &'a Tally)>) {
    let some: Vec<_> = tallies.filter(|(_, tally)| tally.packets > 0).collect();
    if some.is_empty() {
        line(name, Tally::default());
    }
    for (reason, tally) in some {
        line(&format!("{name}: {reason}"), *tally);
    }
}

fn interface(shown: &Shown, index: u32) -> &str {
    let ports = &shown.finished.summary.interfaces;
    let port = ports.iter().find(|port| port.ifindex == index);
    port.map_or("?", |port| port.name.as_str())
}

fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".into(),
        17 => "UDP".into(),
        _ => number.to_string(),
    }
}

/// flowEndReason, short.
fn reason(number: u8) -> &'static str {
    match number {
        1 => "idle",
        2 => "active",
        3 => "finished",
        4 => "forced",
        5 => "no room",
        _ => "?",
    }
}
