//! Whom TLS and DTLS trust, and who they say we are (RFC 7011 §11.3).
//!
//! The collector's certificate must come from an authority that is trusted and be for its name; if
//! not, the handshake fails and nothing is sent. The files are read again for each session, so that
//! certificates can be renewed while flowprobe runs.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
    ssl::{
        Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
        SslVerifyMode, SslVersion,
    },
    x509::{X509, verify::X509CheckFlags},
};

use super::verdict::Verdict;
use crate::export::Identity;

/// Suites that encrypt and authenticate at once (RFC 9325 §4.2), with keys that a later theft of the
/// certificate's key does not tell. Their overhead is one size, see [`super::dtls::OVERHEAD`].
const SUITES: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20";
/// Permission of a file that any user may read it.
const READABLE_BY_OTHERS: u32 = 0o004;

/// What is wrong with the files of an [`Identity`].
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No such file, or no permission.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another format, or something else in it.
    #[error("{} has no {what} in it (PEM)", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is looked for.
        what: &'static str,
    },
    /// Nobody is there to ask for the pass phrase.
    #[error(
        "the key in {} is encrypted: decrypt it with `openssl pkey` and keep the file from others",
        path.display()
    )]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// They are not a pair.
    #[error("the key in {} is not that of the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        cert: PathBuf,
    },
    /// A key alone.
    #[error("the key {} is of no use without a certificate", key.display())]
    NoCertificate {
        /// The file of the key.
        key: PathBuf,
    },
    /// OpenSSL does not take it: too weak, for example.
    #[error("OpenSSL does not take {what}: {source}")]
    OpenSsl {
        /// What was given to it.
        what: &'static str,
        /// Its reasons.
        source: ErrorStack,
    },
}

/// TLS or DTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Over TCP.
    Tls,
    /// Over UDP.
    Dtls,
}

/// What makes handshakes with one collector.
pub(super) struct Trust {
    kind: Kind,
    identity: Identity,
    /// What the collector's certificate must be for.
    name: String,
    context: SslContext,
    ticket: Arc<AtomicBool>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = out.debug_struct("Trust");
        out.field("kind", &self.kind).field("name", &self.name);
        out.finish_non_exhaustive()
    }
}

/// One handshake to come.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) ssl: Ssl,
    /// What was found wrong with the collector's certificate.
    pub(super) verdict: Verdict,
    /// Whether we have a certificate.
    pub(super) is_named: bool,
    /// Whether the collector has given us a session ticket (RFC 8446 §4.6.1): it does so only
    /// after it has accepted our certificate.
    pub(super) ticket: Arc<AtomicBool>,
}

impl Trust {
    /// Trust in the collector on `host`.
    pub(super) fn new(kind: Kind, host: &str, identity: &Identity) -> Result<Self, TlsError> {
        let ticket = Arc::default();
        let context = context(kind, identity, &ticket)?;
        if let Some(path) = identity.key.as_ref().or(identity.cert.as_ref()) {
            warn_if_open(path);
        }
        Ok(Self {
            kind,
            identity: identity.clone(),
            name: identity.name.clone().unwrap_or_else(|| host.to_owned()),
            context,
            ticket,
        })
    }

    /// Prepares a handshake, with the files as they are now. If they cannot be used any more, then
    /// as they were.
    pub(super) fn handshake(&mut self) -> Result<Handshake, TlsError> {
        match context(self.kind, &self.identity, &self.ticket) {
            Ok(context) => self.context = context,
            Err(error) => tracing::warn!(%error, "keeping the certificates read before"),
        }
        self.ticket.store(false, Ordering::Relaxed);
        let verdict = Verdict::new(&self.name, self.identity.ca.as_deref());
        let ssl = self.ssl(&verdict).map_err(failed("the collector's name"))?;
        Ok(Handshake {
            ssl,
            verdict,
            is_named: self.identity.cert.is_some(),
            ticket: Arc::clone(&self.ticket),
        })
    }

    fn ssl(&self, verdict: &Verdict) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_connect_state();
        let parameters = ssl.param_mut();
        parameters.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        // A zone is of this machine, and in no certificate.
        let address = self.name.split('%').next().unwrap_or_default();
        match address.parse::<IpAddr>() {
            Ok(address) => parameters.set_ip(address)?,
            Err(_) => {
                let name = self.name.trim_end_matches('.');
                parameters.set_host(name)?;
                ssl.set_hostname(name)?;
            }
        }
        let verdict = verdict.clone();
        ssl.set_verify_callback(SslVerifyMode::PEER, move |is_good, chain| {
            if !is_good {
                verdict.note(chain);
            }
            is_good
        });
        Ok(ssl)
    }
}

fn failed(what: &'static str) -> impl FnOnce(ErrorStack) -> TlsError {
    move |source| TlsError::OpenSsl { what, source }
}

fn context(
    kind: Kind,
    identity: &Identity,
    ticket: &Arc<AtomicBool>,
) -> Result<SslContext, TlsError> {
    let mut context = plain_context(kind, ticket).map_err(failed("its own settings"))?;
    match &identity.ca {
        Some(path) => {
            for authority in certificates(path)? {
                let store = context.cert_store_mut();
                store
                    .add_cert(authority)
                    .map_err(failed("an authority's certificate"))?;
            }
        }
        None => context
            .set_default_verify_paths()
            .map_err(failed("the system's authorities"))?,
    }
    match (&identity.cert, &identity.key) {
        (Some(cert), key) => introduce(&mut context, cert, key.as_ref().unwrap_or(cert))?,
        (None, Some(key)) => return Err(TlsError::NoCertificate { key: key.clone() }),
        (None, None) => {}
    }
    Ok(context.build())
}

/// A context that trusts nobody and has no name.
fn plain_context(kind: Kind, ticket: &Arc<AtomicBool>) -> Result<SslContextBuilder, ErrorStack> {
    let (method, oldest) = match kind {
        Kind::Tls => (SslMethod::tls_client(), SslVersion::TLS1_2),
        Kind::Dtls => (SslMethod::dtls_client(), SslVersion::DTLS1_2),
    };
    let mut context = SslContextBuilder::new(method)?;
    context.set_min_proto_version(Some(oldest))?;
    context.set_cipher_list(SUITES)?;
    // The MTU is said to DTLS, since it cannot ask a BIO that is not its own.
    context.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_QUERY_MTU);
    context.set_verify(SslVerifyMode::PEER);
    // Sessions are not resumed; but their tickets are wanted, see `Handshake::ticket`.
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    let ticket = Arc::clone(ticket);
    context.set_new_session_callback(move |_, _| ticket.store(true, Ordering::Relaxed));
    Ok(context)
}

/// Says who we are.
fn introduce(context: &mut SslContextBuilder, cert: &Path, key: &Path) -> Result<(), TlsError> {
    let mut chain = certificates(cert)?.into_iter();
    let own = chain.next();
    let own = own.unwrap_or_else(|| unreachable!("there is one in a chain"));
    let secret = private_key(key)?;
    if !own
        .public_key()
        .is_ok_and(|public| public.public_eq(&secret))
    {
        return Err(TlsError::Mismatch {
            key: key.to_owned(),
            cert: cert.to_owned(),
        });
    }
    let ours = || failed("our certificate");
    context.set_certificate(&own).map_err(ours())?;
    for between in chain {
        context.add_extra_chain_cert(between).map_err(ours())?;
    }
    context.set_private_key(&secret).map_err(failed("our key"))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<X509>, TlsError> {
    let found = X509::stack_from_pem(&read(path)?).unwrap_or_default();
    if found.is_empty() {
        return Err(TlsError::NotPem {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PKey<Private>, TlsError> {
    let mut is_encrypted = false;
    // Without a callback OpenSSL would ask for a pass phrase on the terminal.
    let key = PKey::private_key_from_pem_callback(&read(path)?, |_| {
        is_encrypted = true;
        Ok(0)
    });
    let path = path.to_owned();
    match key {
        Ok(key) => Ok(key),
        Err(_) if is_encrypted => Err(TlsError::Encrypted { path }),
        Err(_) => Err(TlsError::NotPem {
            path,
            what: "private key",
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn warn_if_open(key: &Path) {
    let mode = fs::metadata(key).map_or(0, |file| file.permissions().mode());
    if mode & READABLE_BY_OTHERS != 0 {
        let file = key.display();
        tracing::warn!(%file, "every user of this machine can read this key: chmod o-r it");
    }
}
