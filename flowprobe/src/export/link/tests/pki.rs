//! Authorities and certificates of a test's own, in files.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::BigNum,
    hash::MessageDigest,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509Name,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};

const DAY: i64 = 24 * 3600;

/// A directory, gone at the end of a test.
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("flowprobe-pki-{}-{number}", process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        Self(directory)
    }

    pub(super) fn put(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, octets).expect("a file");
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) cert: X509,
    pub(super) key: PKey<Private>,
}

impl Pair {
    pub(super) fn cert_file(&self, files: &Files, name: &str) -> PathBuf {
        files.put(name, &self.cert.to_pem().expect("PEM"))
    }

    pub(super) fn key_file(&self, files: &Files, name: &str) -> PathBuf {
        files.put(name, &self.key.private_key_to_pem_pkcs8().expect("PEM"))
    }
}

/// What a certificate shall be.
pub(super) struct Request<'a> {
    pub(super) common_name: &'a str,
    pub(super) names: &'a [&'a str],
    /// In days from now.
    pub(super) valid: (i64, i64),
    pub(super) is_authority: bool,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            common_name: "collector",
            names: &["localhost", "127.0.0.1"],
            valid: (-1, 1),
            is_authority: false,
        }
    }
}

pub(super) fn authority(common_name: &str) -> Pair {
    let request = Request {
        common_name,
        names: &[],
        is_authority: true,
        ..Request::default()
    };
    request.issued_by(None)
}

impl Request<'_> {
    /// Issued by an authority, or by itself.
    pub(super) fn issued_by(&self, issuer: Option<&Pair>) -> Pair {
        let key = PKey::ec_gen("prime256v1").expect("a key");
        let mut name = X509Name::builder().expect("a name");
        name.append_entry_by_text("CN", self.common_name)
            .expect("a name");
        let name = name.build();
        let mut cert = X509Builder::new().expect("a certificate");
        let at = |days: i64| {
            let now = std::time::UNIX_EPOCH.elapsed().expect("a time");
            Asn1Time::from_unix(now.as_secs() as i64 + days * DAY).expect("a time")
        };
        let serial = BigNum::from_slice(&key.public_key_to_der().expect("a key")[40..48]);
        let serial = Asn1Integer::from_bn(&serial.expect("a number")).expect("a number");
        (|| {
            cert.set_version(2)?;
            cert.set_serial_number(&serial)?;
            cert.set_subject_name(&name)?;
            cert.set_issuer_name(issuer.map_or(&name, |by| by.cert.subject_name()))?;
            cert.set_not_before(&at(self.valid.0))?;
            cert.set_not_after(&at(self.valid.1))?;
            cert.set_pubkey(&key)?;
            if self.is_authority {
                cert.append_extension(BasicConstraints::new().critical().ca().build()?)?;
            }
            if !self.names.is_empty() {
                let mut names = SubjectAlternativeName::new();
                for name in self.names {
                    match name.parse::<IpAddr>() {
                        Ok(_) => names.ip(name),
                        Err(_) => names.dns(name),
                    };
                }
                let context = cert.x509v3_context(None, None);
                let names = names.build(&context)?;
                cert.append_extension(names)?;
            }
            let signer = issuer.map_or(&key, |by| &by.key);
            cert.sign(signer, MessageDigest::sha256())
        })()
        .expect("a certificate");
        Pair {
            cert: cert.build(),
            key,
        }
    }
}

/// Makes a file readable as `chmod` would.
pub(super) fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}
