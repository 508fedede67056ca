//! RFC 7011 §3.4 and §8: templates over UDP and in sessions.

use std::collections::{BTreeMap, BTreeSet};

use flowprobe_tests::{ipfix::Message, packets::Ip};

use crate::{
    Result, assert_sequences, decoded,
    live::{Came, Live, Options},
    many, over_each,
};

/// Sampling rate, its selector and selection sequence with statistics, three kinds of statistics of
/// processes, flow keys.
const OPTIONS: [u16; 8] = [512, 513, 517, 518, 520, 521, 522, 523];

/// How often each template was sent.
fn times(messages: &[Message]) -> BTreeMap<u16, usize> {
    let mut times = BTreeMap::new();
    for template in messages.iter().flat_map(|message| &message.templates) {
        *times.entry(template.id).or_default() += 1;
    }
    times
}

/// How often each kind of options was told, of those that every run has.
fn told(messages: &[Message]) -> BTreeMap<u16, usize> {
    let records = messages.iter().flat_map(|message| &message.records);
    let mut told = BTreeMap::from(OPTIONS.map(|id| (id, 0)));
    for record in records.filter(|record| record.is_options()) {
        *told.entry(record.template.id).or_default() += 1;
    }
    told
}

/// Flow keys (RFC 7011 §4.4) come with each announcement.
fn announcements(messages: &[Message]) -> usize {
    let records = messages.iter().flat_map(|message| &message.records);
    records
        .filter(|record| record.number(145) == Some(256))
        .count()
}

/// A run that announces everything anew five times a second, until it did so three times.
fn refreshed() -> Result<Came> {
    let live = Live::start(Options {
        probe: &["--template-refresh", "0.2"],
        ..Options::default()
    })?;
    live.wait_until(|udp, tcp| announcements(udp) > 3 && announcements(tcp) > 3)?;
    live.stop()
}

#[test]
fn rfc7011_3_4_1_template_ids_are_above_255_and_unique() -> Result {
    for export in over_each(&many(), &[])? {
        let templates = export.messages.iter().flat_map(|m| &m.templates);
        let ids: Vec<u16> = templates.map(|template| template.id).collect();
        assert!(ids.iter().all(|id| *id > 255));
        let unique: BTreeSet<_> = ids.iter().collect();
        // Templates and options templates share the numbers.
        assert_eq!(unique.len(), ids.len());
        assert!(ids.contains(&256) && ids.contains(&512));
    }
    Ok(())
}

/// RFC 7011 §8.2: a template comes before its data. All that a collector needs to read the first
/// flow comes before that, whatever the size of messages.
#[test]
fn rfc7011_8_templates_and_options_come_before_the_first_flow() -> Result {
    for options in [&[][..], &["--mtu", "512"]] {
        for export in over_each(&many(), options)? {
            let messages = &export.messages;
            let is_flow = |m: &Message| m.records.iter().any(|record| !record.is_options());
            let first = messages.iter().position(is_flow).expect("flows");
            // The decoder wants each template in front of its own data; here it is all of them.
            let late = messages[first + 1..].iter().map(|m| m.templates.len());
            assert_eq!(late.sum::<usize>(), 0, "{}", export.transport);
            let told = messages[..=first].iter().flat_map(|m| &m.records);
            let told: Vec<u16> = told
                .take_while(|record| record.is_options())
                .map(|record| record.template.id)
                .collect();
            // A capture's statistics of selection (518) are there at its end.
            for id in OPTIONS.into_iter().filter(|id| *id != 518) {
                assert!(told.contains(&id), "{id} is not in {told:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn rfc7011_8_4_over_udp_templates_are_sent_again_at_the_interval() -> Result {
    let messages = refreshed()?.udp()?;
    let times = times(&messages);
    assert!(
        times.len() > 8 && times.values().all(|times| *times > 2),
        "{times:?}"
    );
    let told = told(&messages);
    assert!(told.values().all(|times| *times > 2), "{told:?}");
    // The same ones: the decoder fails where an id changes its meaning, or is withdrawn.
    assert_sequences(&messages);
    Ok(())
}

#[test]
fn rfc7011_8_1_templates_are_sent_once_in_a_tcp_session() -> Result {
    let messages = refreshed()?.tcp();
    let times = times(&messages);
    assert!(
        times.len() > 8 && times.values().all(|times| *times == 1),
        "{times:?}"
    );
    // Options are said again all the same: they are data.
    let told = told(&messages);
    assert!(told.values().all(|times| *times > 2), "{told:?}");
    assert_sequences(&messages);
    Ok(())
}

/// A rate changes to another method, whose report has another template.
fn changed() -> Result<Came> {
    let live = Live::start(Options {
        control: true,
        ..Options::default()
    })?;
    live.wait_until(|udp, tcp| announcements(udp) > 0 && announcements(tcp) > 0)?;
    live.ctl(&["sample", "random:1/2"])?;
    let packets: Vec<_> = (0..50)
        .map(|port| Ip::new("10.0.0.1", "10.0.0.2").udp(port, 53, 9))
        .collect();
    live.send(&packets)?;
    live.stop()
}

#[test]
fn rfc7011_8_1_a_template_that_ends_is_withdrawn_in_a_session() -> Result {
    let messages = changed()?.tcp();
    let place = |of: &dyn Fn(&Message) -> bool| messages.iter().position(of);
    let withdrawn = place(&|message| message.withdrawn == [513]).expect("513 is withdrawn");
    let next = place(&|m| m.templates.iter().any(|template| template.id == 519));
    assert!(
        next >= Some(withdrawn),
        "519 follows: {next:?}, {withdrawn}"
    );
    let all: Vec<u16> = messages.iter().flat_map(|m| m.withdrawn.clone()).collect();
    assert_eq!(all, [513], "nothing else");
    assert_sequences(&messages);
    Ok(())
}

#[test]
fn rfc7011_8_4_nothing_is_withdrawn_over_udp() -> Result {
    let came = changed()?;
    // Withdrawals are an error to this decoder, and so is a number that means something else.
    let messages = decoded(&came.datagrams)?;
    let times = times(&messages);
    assert!(
        times.contains_key(&513) && times.contains_key(&519),
        "{times:?}"
    );
    assert_sequences(&messages);
    Ok(())
}
