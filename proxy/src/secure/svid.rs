//! What a certificate says of whose it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use vicino_crds::identity::{Identity, IdentityError, key_id};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whose a certificate is, and when it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    /// Whose.
    pub identity: Identity,
    /// From when on.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// The authority that has signed it, see [`vicino_crds::identity::key_id`]; empty when it does not say.
    pub issuer: Box<str>,
}

/// Why a certificate is no SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Not X.509.
    #[error("it cannot be read")]
    Malformed,
    /// It may sign others.
    #[error("it is an authority's")]
    Authority,
    /// SPIFFE has exactly one URI.
    #[error("it has not exactly one URI as its name")]
    Names,
    /// A URI that is no identity.
    #[error("its URI is no identity")]
    Identity(#[from] IdentityError),
}

impl Svid {
    /// Of a certificate, whoever signed it.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, SvidError> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| SvidError::Malformed)?;
        if certificate.is_ca() {
            return Err(SvidError::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)?;
        let names = names.ok_or(SvidError::Names)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(SvidError::Names) };
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            identity: uri.parse()?,
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            issuer: issuer(&certificate).into(),
        })
    }
}

fn issuer(certificate: &X509Certificate<'_>) -> String {
    let said = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
        _ => None,
    });
    said.map(|identifier| key_id(identifier.0)).unwrap_or_default()
}
