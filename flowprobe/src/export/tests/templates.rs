//! What each collector's records have in them, by the template that its URL asks for.

use std::fs;

use netflow_parser::{NetflowPacket, NetflowParser, variable_versions::v9::FlowSetBody};

use super::{sessions::nobody, *};
use crate::ipfix_file::tests::Scratch;

/// `--fields`, and what it has of IPv4 and IPv6.
const GENERAL: &str = "octetDeltaCount,ipVersion";
const OF_GENERAL: [u16; 2] = [1, 60];
/// The template `narrow`.
const NARROW: &str = "narrow=packetDeltaCount,sourceIPv4Address,sourceIPv6Address,flowEndMilliseconds,octetDeltaCount";
const OF_NARROW: [[u16; 4]; 2] = [[2, 8, 153, 1], [2, 27, 153, 1]];

fn content() -> Content {
    Content {
        fields: Some(GENERAL.parse().expect("fields")),
        templates: vec![NARROW.parse().expect("a template")],
        ..Content::default()
    }
}

fn collector(url: &str) -> Collector {
    let collector: Collector = url.parse().expect(url);
    collector.or_format(Format::Ipfix).expect(url)
}

fn assert_fields(collected: &Collected, count: usize, v4: &[u16], v6: &[u16]) {
    assert_eq!(collected.flows(), count);
    for (id, fields) in collected.records.iter().filter(|(id, _)| *id < 300) {
        let numbers: Vec<_> = fields.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, if *id == 256 { v4 } else { v6 });
    }
}

fn assert_narrow(collected: &Collected, count: usize) {
    let [v4, v6] = OF_NARROW;
    assert_fields(collected, count, &v4, &v6);
}

fn assert_general(collected: &Collected, count: usize) {
    assert_fields(collected, count, &OF_GENERAL, &OF_GENERAL);
}

/// What is in a file: messages, one behind the other.
fn in_file(path: &std::path::Path) -> Collected {
    let octets = fs::read(path).expect("a file");
    let mut rest = &octets[..];
    let mut collected = Collected::default();
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        collected.message(&rest[..length]);
        rest = &rest[length..];
    }
    collected
}

#[test]
fn each_collector_has_the_template_that_it_asks_for() {
    let scratch = Scratch::new();
    let sockets = [(); 4].map(|()| listen("127.0.0.1:0"));
    let ports = sockets
        .each_ref()
        .map(|socket| socket.local_addr().expect("bound").port());
    let url = |i: usize, rest: &str| collector(&format!("udp://127.0.0.1:{}{rest}", ports[i]));
    let mut settings = settings(&[]);
    settings.content = content();
    settings.collectors = vec![
        url(0, ""),
        url(1, "?template=narrow"),
        collector(&format!(
            "file://{}/flows.ipfix?template=narrow",
            scratch.path().display()
        )),
    ];
    settings.groups = vec![Group {
        mode: Mode::All,
        hold_down: Group::HOLD_DOWN,
        collectors: vec![url(2, ""), url(3, "?template=narrow")],
    }];
    let exporter = start(&settings);
    exporter.send(many(100));
    let collected = sockets.map(|socket| {
        let mut collected = Collected::default();
        receive(&socket, &mut collected, |c| c.flows() == 100);
        collected
    });
    let reports = exporter.finish();
    for i in [0, 2] {
        assert_general(&collected[i], 100);
        assert_narrow(&collected[i + 1], 100);
    }
    assert_narrow(&in_file(&scratch.path().join("flows.ipfix")), 100);
    let named = format!("udp://127.0.0.1:{}?template=narrow", ports[1]);
    assert_eq!(reports[1].destination, named);
}

/// A share of the flows each, and one that stands in for the other.
#[test]
fn members_of_a_group_have_templates_of_their_own() {
    let [one, other] = [(); 2].map(|()| listen("127.0.0.1:0"));
    let address = |socket: &UdpSocket| socket.local_addr().expect("bound");
    let group = |mode, collectors: [String; 2]| Group {
        mode,
        hold_down: Group::HOLD_DOWN,
        collectors: collectors.map(|url| collector(&url)).to_vec(),
    };
    let mut settings = settings(&[]);
    settings.content = content();
    settings.groups = vec![group(
        Mode::Balance,
        [
            format!("udp://{}", address(&one)),
            format!("udp://{}?template=narrow", address(&other)),
        ],
    )];
    let exporter = start(&settings);
    exporter.send(many(1000));
    let [one, other] = [one, other].map(|socket| {
        thread::spawn(move || {
            let mut collected = Collected::default();
            receive(&socket, &mut collected, statistics(2));
            collected
        })
    });
    let reports = exporter.finish();
    let [one, other] = [one, other].map(|reader| reader.join().expect("reader"));
    let [first, second] = [0, 1].map(|i: usize| reports[i].sent.records as usize);
    assert_general(&one, first);
    assert_narrow(&other, second);
    assert!(first > 0 && second > 0 && first + second == 1000);
    // With failover the first one is dead.
    let socket = listen("127.0.0.1:0");
    settings.groups = vec![group(
        Mode::Failover,
        [
            format!("tcp://{}", nobody()),
            format!("udp://{}?template=narrow", address(&socket)),
        ],
    )];
    let exporter = start(&settings);
    exporter.send(many(100));
    let mut collected = Collected::default();
    receive(&socket, &mut collected, |c| c.flows() == 100);
    assert_narrow(&collected, 100);
    drop(exporter.finish());
}

#[test]
fn a_spool_has_the_template_of_its_collector() {
    let scratch = Scratch::new();
    let mut settings = settings(&[]);
    settings.content = content();
    settings.collectors = vec![collector(&format!("tcp://{}?template=narrow", nobody()))];
    settings.spool = Some(SpoolSettings {
        directory: scratch.path().to_owned(),
        octets: MIN_SPOOL,
    });
    let exporter = start(&settings);
    exporter.send(many(100));
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    assert_eq!(report.spooled.records, 100, "{report:?}");
    let [directory] = <[_; 1]>::try_from(scratch.names()).expect("one collector");
    let spool = fs::read_dir(scratch.path().join(directory)).expect("a directory");
    let paths = spool.map(|entry| entry.expect("an entry").path());
    let is_segment = |path: &PathBuf| path.to_string_lossy().contains(".ipfix");
    let segments: Vec<_> = paths.filter(is_segment).collect();
    let [segment] = <[_; 1]>::try_from(segments).expect("one file");
    assert_narrow(&in_file(&segment), 100);
}

/// What comes off the disk is counted by its records.
#[test]
fn a_spool_needs_both_counts() {
    let scratch = Scratch::new();
    let mut settings = settings(&[]);
    settings.content = content();
    settings.collectors = vec![collector(&format!("tcp://{}", nobody()))];
    settings.spool = Some(SpoolSettings {
        directory: scratch.path().to_owned(),
        octets: MIN_SPOOL,
    });
    let error = Exporter::start(&settings, Arc::new(Nothing)).expect_err("refused");
    let missing = "give packetDeltaCount among its fields too, or leave out --spool";
    assert!(error.to_string().contains(missing), "{error}");
}

/// The names are those of IPFIX; the times have the form of v9.
#[test]
fn a_collector_of_v9_has_its_template_too() {
    let socket = listen("127.0.0.1:0");
    let url = format!(
        "udp://{}?format=v9&template=narrow",
        socket.local_addr().expect("bound")
    );
    let mut settings = settings(&[]);
    settings.content = content();
    settings.collectors = vec![collector(&url)];
    let exporter = start(&settings);
    exporter.send(many(10));
    let mut parser = NetflowParser::default();
    let mut shapes = Vec::new();
    let mut flows = 0;
    let mut buffer = [0; 65_536];
    while flows < 10 {
        let (octets, _) = socket.recv_from(&mut buffer).expect("a message in time");
        for packet in parser.parse_bytes(&buffer[..octets]).packets {
            let NetflowPacket::V9(message) = packet else {
                panic!("{packet:?}");
            };
            for flowset in message.flowsets {
                match flowset.body {
                    FlowSetBody::Template(templates) => {
                        shapes.extend(templates.templates.into_iter().map(|template| {
                            let fields = template.fields.into_iter();
                            let numbers = fields.map(|field| field.field_type_number);
                            (template.template_id, numbers.collect::<Vec<_>>())
                        }));
                    }
                    FlowSetBody::Data(data) => flows += data.fields.len(),
                    _ => {}
                }
            }
        }
    }
    drop(exporter.finish());
    let of = |id| {
        shapes
            .iter()
            .find(|(of, _)| *of == id)
            .map(|(_, shape)| &shape[..])
    };
    assert_eq!(of(256), Some(&[2, 8, 21, 1][..]));
    assert_eq!(of(257), Some(&[2, 27, 21, 1][..]));
}
