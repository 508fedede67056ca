//! What OpenSSL says of a session that fails, in one line that says what to do.

use std::io::{self, ErrorKind};

use openssl::ssl::{self, ErrorCode, SslAlert};

use super::{
    error::Broken,
    verdict::{Distrust, Verdict},
};

/// Reasons of openssl/sslerr.h.
mod reason {
    pub(super) const UNSUPPORTED_PROTOCOL: i32 = 258;
    pub(super) const WRONG_VERSION_NUMBER: i32 = 267;
    pub(super) const UNEXPECTED_EOF: i32 = 294;
}

/// Why there is no secure session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Insecure {
    #[error(transparent)]
    Distrust(#[from] Distrust),
    #[error("the collector asks for a certificate, and none is given to it: set one, and its key")]
    CertificateRequired,
    #[error(
        "the collector refuses the handshake: it may ask for a certificate, and none is given to it"
    )]
    PerhapsRequired,
    #[error("the collector refuses the handshake: it may take none of our suites or signatures")]
    Handshake,
    #[error("the collector does not trust the authority of our certificate")]
    OurAuthority,
    #[error("the collector says that our certificate has expired")]
    OurExpired,
    #[error("the collector does not accept our certificate: {0}")]
    OurCertificate(SslAlert),
    #[error("the collector is not at home under the name that it was called by")]
    UnknownName,
    #[error("the collector speaks no version of TLS that is safe: at least 1.2 is asked for")]
    Version,
    #[error("what answers there does not speak TLS")]
    NotTls,
    #[error("the collector ends the session: {0}")]
    Alert(SslAlert),
    #[error("TLS fails: {0}")]
    OpenSsl(ssl::Error),
}

impl From<Insecure> for io::Error {
    fn from(insecure: Insecure) -> Self {
        Self::new(ErrorKind::PermissionDenied, insecure)
    }
}

/// Why a session fails with `error`.
pub(super) fn explain(error: ssl::Error, verdict: &Verdict, is_named: bool) -> io::Error {
    if let Some(distrust) = verdict.found() {
        return Insecure::Distrust(distrust).into();
    }
    if error.code() == ErrorCode::ZERO_RETURN {
        return Broken::Closed.into();
    }
    let error = match error.into_io_error() {
        Ok(error) => return error,
        Err(error) => error,
    };
    let Some(stack) = error.ssl_error() else {
        return Broken::Closed.into();
    };
    for one in stack.errors() {
        if let Some(alert) = SslAlert::from_reason_code(one.reason_code()) {
            return heard(alert, is_named).into();
        }
        match one.reason_code() {
            reason::UNEXPECTED_EOF => return Broken::Closed.into(),
            reason::WRONG_VERSION_NUMBER => return Insecure::NotTls.into(),
            reason::UNSUPPORTED_PROTOCOL => return Insecure::Version.into(),
            _ => {}
        }
    }
    Insecure::OpenSsl(error).into()
}

/// What the collector means by an alert (RFC 8446 §6.2).
fn heard(alert: SslAlert, is_named: bool) -> Insecure {
    match alert {
        SslAlert::CERTIFICATE_REQUIRED => Insecure::CertificateRequired,
        // TLS 1.2 has no alert of its own for a certificate that is missing.
        SslAlert::HANDSHAKE_FAILURE | SslAlert::BAD_CERTIFICATE if !is_named => {
            Insecure::PerhapsRequired
        }
        SslAlert::HANDSHAKE_FAILURE => Insecure::Handshake,
        SslAlert::UNKNOWN_CA => Insecure::OurAuthority,
        SslAlert::CERTIFICATE_EXPIRED => Insecure::OurExpired,
        SslAlert::BAD_CERTIFICATE
        | SslAlert::UNSUPPORTED_CERTIFICATE
        | SslAlert::CERTIFICATE_REVOKED
        | SslAlert::CERTIFICATE_UNKNOWN
        | SslAlert::ACCESS_DENIED
        | SslAlert::DECRYPT_ERROR => Insecure::OurCertificate(alert),
        SslAlert::UNRECOGNIZED_NAME => Insecure::UnknownName,
        SslAlert::PROTOCOL_VERSION => Insecure::Version,
        _ => Insecure::Alert(alert),
    }
}
