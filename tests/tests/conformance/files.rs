//! RFC 5655: files, each of which stands by itself.

use std::{collections::BTreeMap, fs};

use flowprobe_tests::{
    flow::Truth,
    judges::Directory,
    netns::Netns,
    packets::{Packet, truth},
};

use crate::{Result, assert_sequences, decoded, flows, many, meter};

/// The messages of a file, of which nothing is in between or behind (RFC 5655 §7).
fn split(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let [_, _, high, low, ..] = *file {
        let length = u16::from_be_bytes([high, low]);
        let (message, after) = file.split_at(length.into());
        messages.push(message.to_vec());
        file = after;
    }
    assert_eq!(file, [0; 0]);
    messages
}

#[test]
fn rfc5655_each_file_is_a_session_of_whole_messages() -> Result {
    let namespace = Netns::new("files")?;
    let directory = Directory::new(&format!("flowprobe-{}-rfc5655", std::process::id()))?;
    let url = format!("file://{}", directory.path().display());
    meter(&namespace, &url, &many(), &["--rotate-octets", "20000"])?;
    let mut all = Vec::new();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory.path())? {
        let path = entry?.path();
        files.insert(path.clone(), fs::read(&path)?);
    }
    assert!(files.len() > 1, "{:?}", files.keys());
    for (path, file) in &files {
        assert_eq!(path.extension(), Some("ipfix".as_ref()), "{path:?}");
        // A decoder for each: templates are in every file.
        let messages = decoded(&split(file))?;
        assert_sequences(&messages);
        all.extend(flows(&messages)?);
    }
    let packets: Vec<Packet> = many().into_iter().map(|(_, packet)| packet).collect();
    truth(&packets, 1).assert_equals(&Truth::of(&all));
    Ok(())
}
