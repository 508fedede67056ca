//! What a collector is told of what it was sent (RFC 7011 §4).

use super::*;
use crate::ipfix::message::PACKET_OVERHEAD;

/// RFC 7011 §4.1: before the very message that has the figures, also where the announcement takes
/// several messages.
#[test]
fn figures_are_those_before_their_own_message() {
    for mtu in [crate::export::MIN_MTU, 400, 1400] {
        let mut bench = Bench::new(|settings| {
            settings.mtu = mtu;
            settings.template_refresh = Duration::from_secs(10);
            settings.domains = vec![domain(7, "", "1/100"), domain(8, "other", "1/10")];
        });
        for _ in 0..3 {
            bench.send(many(200));
            bench.run(10_000);
        }
        drop(bench.finish());
        let network = bench.network.borrow();
        let longest = network.delivered.iter().map(Vec::len).max();
        assert!(longest <= Some(usize::from(mtu - PACKET_OVERHEAD)));
        let mut collected = Collected::default();
        let mut sent = [[0; 3]; 2];
        let mut told = 0;
        for message in &network.delivered {
            let before = collected.records.len();
            collected.message(message);
            let domain = u32::from_be_bytes(message[12..16].try_into().expect("a header"));
            let sent = &mut sent[domain as usize - 7];
            let records = &collected.records[before..];
            for (_, record) in records.iter().filter(|(id, _)| *id == 520) {
                let figures = [40, 41, 42].map(|element| number(record, element));
                assert_eq!(figures, *sent, "{mtu}, domain {domain}");
                told += 1;
            }
            let flows = records.iter().filter(|(id, _)| *id < 512).count();
            *sent = [
                sent[0] + message.len() as u64,
                sent[1] + 1,
                sent[2] + flows as u64,
            ];
        }
        assert!(told >= 8, "{told}");
    }
}
