//! RFC 7011 §4: what an exporter says of itself.

use std::collections::BTreeMap;

use flowprobe_tests::ipfix::{Message, Record};

use crate::{Export, Result, many, number, over_each};

const METERING_STATISTICS: u16 = 520;
const METERING_RELIABILITY: u16 = 521;
const EXPORTING_RELIABILITY: u16 = 522;
const FLOW_KEYS: u16 = 523;

fn of(export: &Export, template: u16) -> Vec<&Record> {
    let records = export.records();
    records
        .filter(|record| record.template.id == template)
        .collect()
}

/// The scope fields' elements.
fn scopes(record: &Record) -> Vec<u16> {
    let fields = &record.template.fields[..record.template.scopes];
    fields.iter().map(|field| field.id).collect()
}

/// Octets, messages and flow records before each message.
fn sent_before(messages: &[Message], octets: &[Vec<u8>]) -> Vec<[u64; 3]> {
    let mut sum = [0; 3];
    let mut before = Vec::new();
    for (message, octets) in messages.iter().zip(octets) {
        before.push(sum);
        let flows = message.records.iter().filter(|record| !record.is_options());
        sum[0] += octets.len() as u64;
        sum[1] += 1;
        sum[2] += flows.count() as u64;
    }
    before
}

#[test]
fn rfc7011_4_1_metering_statistics_are_what_was_sent() -> Result {
    // Announcements of one message, and of several.
    let whole = over_each(&many(), &[])?;
    let parts = over_each(&many(), &["--mtu", "300"])?;
    for export in whole.into_iter().chain(parts) {
        let before = sent_before(&export.messages, &export.octets);
        let mut told = Vec::new();
        for (i, message) in export.messages.iter().enumerate() {
            for record in &message.records {
                if record.template.id == METERING_STATISTICS {
                    assert_eq!(scopes(record), [149, 143]);
                    assert_eq!(number(record, 149), u64::from(message.domain));
                    let values = [40, 41, 42].map(|id| number(record, id));
                    assert_eq!(values, before[i], "{}: message {i}", export.transport);
                    told.push(values[2]);
                }
            }
        }
        assert!(told.len() > 1 && told[0] == 0, "{told:?}");
        assert!(told.is_sorted(), "{told:?}");
        assert!(told.last() > Some(&600), "the last is at the end: {told:?}");
    }
    Ok(())
}

/// ARP and LLDP are packets that were observed and are in no flow.
#[test]
fn rfc7011_4_2_metering_reliability_counts_what_was_ignored() -> Result {
    for export in over_each(&many(), &[])? {
        let records = of(&export, METERING_RELIABILITY);
        let last = records.last().expect("one at least");
        assert_eq!(scopes(last), [149, 143]);
        let ignored = export.run.ledger().ignored;
        let packets: u64 = ignored.values().map(|tally| tally.packets).sum();
        let octets: u64 = ignored.values().map(|tally| tally.octets).sum();
        assert!(packets >= 2, "{ignored:?}");
        assert_eq!([164, 165].map(|id| number(last, id)), [packets, octets]);
        // The first observationTime is that of the first ignored packet, the second of the last.
        let times: Vec<u64> = last
            .all(323)
            .map(|octets| {
                octets
                    .iter()
                    .fold(0, |sum, octet| sum << 8 | u64::from(*octet))
            })
            .collect();
        assert!(
            times.len() == 2 && times.is_sorted() && times[0] > 0,
            "{times:?}"
        );
    }
    Ok(())
}

#[test]
fn rfc7011_4_3_exporting_reliability_is_zero_where_all_was_sent() -> Result {
    for export in over_each(&many(), &[])? {
        let records = of(&export, EXPORTING_RELIABILITY);
        assert!(!records.is_empty());
        for record in records {
            assert_eq!(scopes(record), [144]);
            assert_eq!([166, 167, 168].map(|id| number(record, id)), [0; 3]);
            assert_eq!(record.all(323).count(), 2);
        }
    }
    Ok(())
}

/// Records of one template whose keys are equal are of one flow: here each has a key of its own.
#[test]
fn rfc7011_4_4_flow_keys_tell_flows_apart() -> Result {
    for export in over_each(&many(), &[])? {
        let mut keys = BTreeMap::new();
        for record in of(&export, FLOW_KEYS) {
            assert_eq!(scopes(record), [145]);
            keys.insert(number(record, 145), number(record, 173));
        }
        let mut seen = BTreeMap::<Vec<&[u8]>, usize>::new();
        let mut flows = 0;
        for record in export.records().filter(|record| !record.is_options()) {
            let bits = keys[&u64::from(record.template.id)];
            let fields = record.fields().enumerate();
            let key = fields
                .filter(|(i, _)| bits >> i & 1 == 1)
                .map(|(_, (_, value))| value);
            *seen.entry(key.collect()).or_default() += 1;
            flows += 1;
        }
        assert_eq!(seen.len(), flows);
    }
    Ok(())
}
