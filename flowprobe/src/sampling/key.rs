//! The key of hash-based selection.

use std::{fs, io, str::FromStr};

use flowprobe_ebpf::content::Bob;

/// Shortest key: an attacker who guesses it knows which packets are never seen.
const MIN_OCTETS: usize = 8;

/// The initialiser of the hashes that select packets and flows, made of a key. All sensors with the
/// same key select the same packets. The hash has an initialiser of 32 bits and is no cryptography:
/// it keeps senders who do not know the key from choosing packets that are not selected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SampleKey(u32);

/// Why a key is none.
#[derive(Debug, thiserror::Error)]
pub enum SampleKeyError {
    /// Easily guessed.
    #[error("a key has at least {MIN_OCTETS} octets: make one with `openssl rand -hex 16`")]
    Short,
    /// No file.
    #[error("cannot read the key from {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl SampleKey {
    /// A key of these octets.
    ///
    /// # Errors
    /// They are few.
    pub fn new(octets: &[u8]) -> Result<Self, SampleKeyError> {
        if octets.len() < MIN_OCTETS {
            return Err(SampleKeyError::Short);
        }
        // Filled up with zeros; the length goes in, so that they make a difference.
        let mut hash = Bob::new(octets.len() as u32);
        for twelve in octets.chunks(12) {
            let mut filled = [0; 12];
            filled[..twelve.len()].copy_from_slice(twelve);
            let (words, _) = filled.as_chunks::<4>();
            hash.take([words[0], words[1], words[2]].map(u32::from_le_bytes));
        }
        Ok(Self(hash.finish()))
    }

    /// What the kernel half hashes with.
    #[must_use]
    pub fn initialiser(self) -> u32 {
        self.0
    }
}

impl std::fmt::Debug for SampleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SampleKey(…)")
    }
}

impl FromStr for SampleKey {
    type Err = SampleKeyError;

    /// The key itself, or `@` and the name of a file that holds it, without white space around it.
    fn from_str(text: &str) -> Result<Self, SampleKeyError> {
        let Some(path) = text.strip_prefix('@') else {
            return Self::new(text.as_bytes());
        };
        let key = fs::read(path).map_err(|source| SampleKeyError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::new(key.trim_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_octet_of_a_key_counts() {
        let key = |octets: &[u8]| SampleKey::new(octets).expect("long enough").initialiser();
        let octets: Vec<u8> = (0..30).collect();
        let whole = key(&octets);
        for i in 0..30 {
            let mut other = octets.clone();
            other[i] ^= 1;
            assert_ne!(key(&other), whole, "octet {i}");
        }
        // Zeros at the end too.
        assert_ne!(key(&[0; 8]), key(&[0; 9]));
        assert!(SampleKey::new(b"short").is_err());
    }

    #[test]
    fn a_key_from_a_file_is_that_key() {
        let file = std::env::temp_dir().join(format!("flowprobe-key-{}", std::process::id()));
        fs::write(&file, "correct horse battery\n").expect("a file");
        let named: SampleKey = format!("@{}", file.display()).parse().expect("a key");
        assert_eq!(named, "correct horse battery".parse().expect("a key"));
        fs::remove_file(&file).expect("removed");
        let error = "@/nowhere/at-all"
            .parse::<SampleKey>()
            .expect_err("no file");
        assert!(error.to_string().contains("/nowhere/at-all"));
    }
}
