use std::io;

use proptest::prelude::*;

use super::*;

/// Gives one octet at a time.
struct Slowly<'a>(&'a [u8]);

impl Read for Slowly<'_> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let count = octets.len().min(1);
        Read::read(&mut self.0, &mut octets[..count])
    }
}

/// A file of the classic format with these packets.
fn classic(packets: &[&[u8]]) -> Vec<u8> {
    let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 1];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for packet in packets {
        let len = packet.len() as u32;
        let words = [7, 9, len, len + 5];
        file.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
        file.extend(*packet);
    }
    file
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() as u32 + 12).to_be_bytes();
    file.extend(kind.to_be_bytes());
    file.extend(len);
    file.extend(body);
    file.extend(len);
}

/// A file of blocks, of all three kinds that have packets.
fn blocks() -> Vec<u8> {
    let mut file = Vec::new();
    let section = [&[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0][..], &[0xff; 8]].concat();
    block(&mut file, SECTION_TYPE, &section);
    // Ethernet, all kept, in nanoseconds.
    let options = [0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0];
    block(
        &mut file,
        1,
        &[&[0, 1, 0, 0, 0, 0, 0, 0][..], &options].concat(),
    );
    let packet = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 9, 1, 2, 3, 4];
    block(&mut file, 6, &[&[0; 4][..], &packet].concat());
    block(&mut file, 2, &[&[0; 4][..], &packet].concat());
    block(&mut file, 3, &[0, 0, 0, 4, 1, 2, 3, 4]);
    file
}

const SECTION_TYPE: u32 = pcapng::SECTION;

/// Octets kept, octets on the wire, time.
type Seen = (Vec<u8>, usize, Option<u64>);

/// Reads packet by packet; or, with `each`, all that have been read at once.
fn read_so(each: bool, input: impl Read) -> (Vec<Seen>, Option<Problem>) {
    let mut seen = Vec::new();
    let mut see = |packet: &Captured<'_>| {
        seen.push((packet.octets.to_vec(), packet.len(), packet.at_ns));
    };
    let problem = (|| {
        let mut capture = Capture::open("x", input)?;
        loop {
            if each {
                capture.each(&mut see);
            }
            let Some(packet) = capture.next(|| ())? else {
                return Ok::<_, CaptureError>(());
            };
            see(&packet);
        }
    })();
    (seen, problem.err().map(|error| error.problem))
}

/// Reads it in both ways, which must tell the same.
fn read<R: Read>(input: impl Fn() -> R) -> (Vec<Seen>, Option<Problem>) {
    let (seen, problem) = read_so(false, input());
    let (at_once, why) = read_so(true, input());
    assert_eq!(at_once, seen);
    let told = |problem: &Option<Problem>| problem.as_ref().map(ToString::to_string);
    assert_eq!(told(&why), told(&problem));
    (seen, problem)
}

#[test]
fn reads_may_be_as_short_as_they_like() {
    let at_ns = Some(7_000_009_000);
    let file = classic(&[&[1; 60], &[], &[2; 9]]);
    let expected = vec![
        (vec![1; 60], 65, at_ns),
        (Vec::new(), 5, at_ns),
        (vec![2; 9], 14, at_ns),
    ];
    for (seen, problem) in [read(|| &file[..]), read(|| Slowly(&file))] {
        assert_eq!(seen, expected);
        assert!(problem.is_none());
    }
    let blocks = blocks();
    let packet = |len, at_ns| (vec![1, 2, 3, 4], len, at_ns);
    let expected = vec![packet(9, Some(7)), packet(9, Some(7)), packet(4, None)];
    for (seen, problem) in [read(|| &blocks[..]), read(|| Slowly(&blocks))] {
        assert_eq!(seen, expected);
        assert!(problem.is_none());
    }
}

#[test]
fn usual_packets_are_given_without_another_read() {
    // Of these blocks the second packet's is of a kind that nobody writes any more.
    for (file, expected) in [(classic(&[&[1; 60], &[2; 9]]), 2), (blocks(), 1)] {
        let mut capture = Capture::open("x", &file[..]).expect("a capture");
        let first = capture.next(|| ()).expect("no damage").is_some();
        assert!(first);
        let mut given = 0;
        capture.each(|_| given += 1);
        assert_eq!(given + 1, expected);
    }
}

#[test]
fn packets_and_blocks_may_be_longer_than_what_is_read_at_once() {
    let long = vec![3; MAX_PACKET as usize];
    let file = classic(&[&long, &[4; 60], &long]);
    let (seen, problem) = read(|| &file[..]);
    assert!(problem.is_none());
    let lengths: Vec<_> = seen.iter().map(|(octets, ..)| octets.len()).collect();
    assert_eq!(lengths, [long.len(), 60, long.len()]);
    assert_eq!(seen[2].0, long);

    let mut file = blocks();
    block(&mut file, 0x0bad, &vec![0; 1_000_000]);
    block(&mut file, 3, &[0, 0, 0, 4, 5, 6, 7, 8]);
    let (seen, problem) = read(|| &file[..]);
    assert!(problem.is_none());
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[3].0, [5, 6, 7, 8]);
}

#[test]
fn errors_of_the_input_say_where() {
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
            match Read::read(&mut self.0, octets) {
                Ok(0) => Err(io::Error::other("gone")),
                read => read,
            }
        }
    }
    let file = classic(&[&[1; 60]]);
    let (seen, problem) = read(|| Broken(&file));
    assert_eq!(seen.len(), 1);
    let problem = problem.expect("an error").to_string();
    assert_eq!(problem, "cannot read on at octet 100: gone");
}

#[test]
fn any_octet_may_be_wrong() {
    let mut blocks = blocks();
    let packet = [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 9, 1, 2, 3, 4];
    for _ in 0..3 {
        block(&mut blocks, 6, &[&[0; 4][..], &packet].concat());
    }
    for file in [blocks, classic(&[&[1; 6], &[2; 9], &[3; 5]])] {
        for at in 0..file.len() {
            for change in [1, 4, 0x80, 0xff] {
                let mut file = file.clone();
                file[at] ^= change;
                read(|| &file[..]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_is_damaged_ends_in_an_error_or_in_order(
        ng: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = if ng { blocks() } else { classic(&[&[1; 60], &[2; 9]]) };
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(cut.index(file.len() + 1));
        let (seen, problem) = read(|| &file[..]);
        prop_assert!(seen.len() <= 3);
        for (octets, ..) in &seen {
            prop_assert!(octets.len() <= file.len());
        }
        if let Some(problem) = problem {
            prop_assert!(!problem.to_string().is_empty());
        }
    }

    #[test]
    fn whatever_begins_like_a_capture_ends(octets in prop::collection::vec(any::<u8>(), 0..300), ng: bool) {
        let head = if ng { blocks()[..28].to_vec() } else { classic(&[]) };
        let file = [head, octets].concat();
        read(|| &file[..]);
    }
}
