//! Groups with spools, over TCP.

use super::{
    sessions::{Collector, gaps_and_flows, nobody, send_slowly, tcp},
    *,
};
use crate::ipfix_file::tests::Scratch;

/// Settings of a group whose members have these addresses.
fn group(mode: &str, addresses: [SocketAddr; 2], scratch: &Scratch) -> Settings {
    let mut settings = tcp(addresses[0], Some(scratch.path().to_owned()));
    settings.collectors.clear();
    let [one, two] = addresses;
    let group = format!("{mode} hold-down=1 tcp://{one} tcp://{two}");
    settings.groups = vec![group.parse().expect("a group")];
    settings
}

/// Nobody is there: the flows go to one spool, and in the end to the one that comes, once.
#[test]
fn a_group_that_fails_over_has_one_spool() {
    let scratch = Scratch::new();
    let addresses = [nobody(), nobody()];
    let settings = group("failover", addresses, &scratch);
    let exporter = start(&settings);
    send_slowly(&exporter, 3000);
    let report = &exporter.reports()[0];
    assert!(report.spooled.records >= 2600, "{report:?}");
    assert_eq!(report.total(), Volume::of(&many(3000)));
    let [one, two] = addresses.map(|address| address.port());
    let name = format!("failover+tcp-127.0.0.1-{one}+tcp-127.0.0.1-{two}");
    assert_eq!(scratch.names(), [name]);
    let collector = Collector::listen(&addresses[1].to_string());
    let patience = Instant::now() + Duration::from_secs(20);
    while exporter.reports()[0].sent.records < 2600 {
        assert!(Instant::now() < patience, "{:?}", exporter.reports());
        thread::sleep(Duration::from_millis(10));
    }
    send_slowly(&exporter, 100);
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one queue");
    assert_eq!(gaps_and_flows(&collector.sessions()), (0, 3100));
    assert_eq!(report.sent.records, 3100, "{report:?}");
    assert_eq!((report.spooled.records, report.dropped.len()), (0, 0));
}

/// Each member has a spool for its part; in a group in which each gets all, for all of it.
#[test]
fn members_with_queues_of_their_own_have_spools_of_their_own() {
    for mode in ["balance", "all"] {
        let scratch = Scratch::new();
        let addresses = [nobody(), nobody()];
        let settings = group(mode, addresses, &scratch);
        let exporter = start(&settings);
        send_slowly(&exporter, 2000);
        let reports = exporter.finish();
        assert_eq!(scratch.names().len(), 2, "{:?}", scratch.names());
        let mut sum = Volume::default();
        for report in &reports {
            assert_eq!(report.dropped, []);
            assert!(report.spooled.records > 500, "{report:?}");
            sum += report.spooled;
        }
        let each = many(2000);
        let all = if mode == "all" { 2 } else { 1 };
        assert_eq!(sum.records, 2000 * all);
        // The next run sends each what it has missed.
        let collectors = addresses.map(|address| Collector::listen(&address.to_string()));
        let exporter = start(&settings);
        let patience = Instant::now() + Duration::from_secs(20);
        let recovered = |exporter: &Exporter| {
            let reports = exporter.reports();
            reports
                .iter()
                .map(|report| report.recovered.records)
                .sum::<u64>()
        };
        while recovered(&exporter) < sum.records {
            assert!(Instant::now() < patience, "{:?}", exporter.reports());
            thread::sleep(Duration::from_millis(10));
        }
        drop(exporter.finish());
        let arrived = collectors.map(|collector| gaps_and_flows(&collector.sessions()));
        assert_eq!(arrived[0].0 + arrived[1].0, 0);
        assert_eq!(arrived[0].1 + arrived[1].1, each.len() * all as usize);
    }
}
