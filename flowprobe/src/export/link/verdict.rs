//! What is wrong with a collector's certificate, in words for those who have to mend it.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use openssl::{
    nid::Nid,
    x509::{X509NameRef, X509Ref, X509StoreContextRef},
};

/// Numbers of openssl/x509_vfy.h.
mod code {
    pub(super) const UNABLE_TO_GET_ISSUER: i32 = 2;
    pub(super) const NOT_YET_VALID: i32 = 9;
    pub(super) const EXPIRED: i32 = 10;
    pub(super) const SELF_SIGNED: i32 = 18;
    pub(super) const SELF_SIGNED_IN_CHAIN: i32 = 19;
    pub(super) const UNABLE_TO_GET_ISSUER_LOCALLY: i32 = 20;
    pub(super) const UNABLE_TO_VERIFY_LEAF: i32 = 21;
    pub(super) const HOST_NAME: i32 = 62;
    pub(super) const ADDRESS: i32 = 64;
}

/// Why a collector is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Distrust {
    #[error("{whose} has expired: it was valid until {until}")]
    Expired { whose: String, until: String },
    #[error("{whose} is not valid yet: it will be from {from}, if the clock here is right")]
    NotYet { whose: String, from: String },
    #[error("the collector's certificate is for {names}, and not for {wanted}")]
    Name { names: String, wanted: String },
    #[error("the collector's certificate is self-signed, and not in {store}")]
    SelfSigned { store: String },
    #[error(
        "the collector's certificate is from the authority {issuer:?}, which is not in {store}"
    )]
    Authority { issuer: String, store: String },
    #[error("{whose} is not accepted: {why}")]
    Other { whose: String, why: &'static str },
}

/// Takes note of the first thing that is wrong. Copies share it.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    found: Arc<Mutex<Option<Distrust>>>,
    wanted: String,
    ca: Option<PathBuf>,
}

impl Verdict {
    pub(super) fn new(wanted: &str, ca: Option<&Path>) -> Self {
        Self {
            found: Arc::default(),
            wanted: wanted.to_owned(),
            ca: ca.map(Path::to_owned),
        }
    }

    /// What was wrong.
    pub(super) fn found(&self) -> Option<Distrust> {
        let found = self.found.lock();
        found.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something is wrong with a certificate of `chain`.
    pub(super) fn note(&self, chain: &X509StoreContextRef) {
        let distrust = self.distrust(chain);
        let found = self.found.lock();
        found
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(distrust);
    }

    fn distrust(&self, chain: &X509StoreContextRef) -> Distrust {
        let error = chain.error();
        let Some(certificate) = chain.current_cert() else {
            return Distrust::Other {
                whose: "the collector's certificate".to_owned(),
                why: error.error_string(),
            };
        };
        let whose = match chain.error_depth() {
            0 => "the collector's certificate".to_owned(),
            _ => format!(
                "the certificate of the collector's authority {:?}",
                called(certificate.subject_name())
            ),
        };
        let store = || match &self.ca {
            Some(path) => path.display().to_string(),
            None => "the authorities of this system".to_owned(),
        };
        match error.as_raw() {
            code::EXPIRED => Distrust::Expired {
                whose,
                until: certificate.not_after().to_string(),
            },
            code::NOT_YET_VALID => Distrust::NotYet {
                whose,
                from: certificate.not_before().to_string(),
            },
            code::HOST_NAME | code::ADDRESS => Distrust::Name {
                names: names(certificate),
                wanted: self.wanted.clone(),
            },
            code::SELF_SIGNED => Distrust::SelfSigned { store: store() },
            code::SELF_SIGNED_IN_CHAIN
            | code::UNABLE_TO_GET_ISSUER
            | code::UNABLE_TO_GET_ISSUER_LOCALLY
            | code::UNABLE_TO_VERIFY_LEAF => Distrust::Authority {
                issuer: called(certificate.issuer_name()),
                store: store(),
            },
            _ => Distrust::Other {
                whose,
                why: error.error_string(),
            },
        }
    }
}

/// The common name, or what there is in its place.
fn called(name: &X509NameRef) -> String {
    let common = name.entries_by_nid(Nid::COMMONNAME).next();
    let entry = common.or_else(|| name.entries().last());
    let text = entry.and_then(|entry| entry.data().to_string().ok());
    text.unwrap_or_default()
}

/// What a certificate is for: its alternative names, and only without those its common name (RFC
/// 7011 §11.3).
fn names(certificate: &X509Ref) -> String {
    let mut names = String::new();
    for name in certificate.subject_alt_names().iter().flatten() {
        let separator = if names.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = match (name.dnsname(), name.ipaddress()) {
            (Some(name), _) => write!(names, "{separator}{name}"),
            (None, Some(octets)) => {
                match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
                    (Ok(v4), _) => write!(names, "{separator}{}", Ipv4Addr::from(v4)),
                    (_, Ok(v6)) => write!(names, "{separator}{}", Ipv6Addr::from(v6)),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        };
    }
    if names.is_empty() {
        return called(certificate.subject_name());
    }
    names
}
