//! Key and chain of the authority, and the certificates that it signs. Knows no clock: who calls says what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pem::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use vicino_crds::identity::{Identity, fingerprint, key_id};
use vicino_crds::node::ROOTS_REPORTED_MAX;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a root that is made here is good for.
pub const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Certificates are good from a little before they are issued, since clocks differ.
const BACKDATED: Duration = Duration::from_mins(5);
/// Longest PEM of a request for a certificate, in bytes; one for P-256 has about 500.
const CSR_BYTES_MAX: usize = 4096;
/// Certificates between the issuer and its root, the issuer included.
const CHAIN_MAX: usize = 4;
/// Roots of one authority: with that of the one before and that of the one that goes, a proxy has as many as it reports.
const ROOTS_MAX: usize = ROOTS_REPORTED_MAX - 2;
/// Common name of roots that are made here.
const ROOT_NAME: &str = "Vicino root";
/// An authority ends soon when less than this is left, or less than a third of its life.
const LEFT_MIN: Duration = Duration::from_hours(30 * 24);
/// A root that is made here is replaced when this share of its life is over.
const ROTATE_AFTER: (u32, u32) = (2, 3);

/// An authority, as its Secret has it: PEM texts of a Secret of type `kubernetes.io/tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// `tls.crt`: the issuer, then those that signed it.
    pub certificates: String,
    /// `tls.key`: its key, PKCS #8.
    pub key: Key,
    /// `ca.crt`: roots; empty when `tls.crt` is a root itself.
    pub roots: String,
}

/// A private key, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What is wrong with an authority; the text says where and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A field that is missing or cannot be read.
    #[error("{field}: {problem}")]
    Field {
        /// Key of the Secret.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

fn wrong(field: &'static str, problem: impl Into<String>) -> AuthorityError {
    AuthorityError::Field { field, problem: problem.into() }
}

/// Why no certificate is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Not PEM, not PKCS #10, or not signed by the key that it is for.
    #[error("the request is no PKCS #10 in PEM that is signed by the key that it is for")]
    BadRequest,
    /// A key of another kind.
    #[error("the key is not of ECDSA P-256")]
    BadKey,
    /// Nothing that is issued now would be good.
    #[error("the authority's own certificate has ended or is not good yet")]
    Expired,
    /// Signing failed.
    #[error("the authority cannot sign")]
    Internal,
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM: the certificate, then those that lead to the root, without that one.
    pub chain: String,
    /// When it ends.
    pub expires: SystemTime,
}

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of the certificates that go with each one that is issued.
    above: String,
    /// PEM of itself and those above.
    chain: String,
    /// PEM of the roots.
    roots: String,
    /// Fingerprint of the root that it leads to.
    root: String,
    key_id: String,
    is_made_here: bool,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Authority {
    /// The texts of a new root, good from now.
    pub fn make(now: SystemTime) -> Result<Texts, AuthorityError> {
        let failed = |error: rcgen::Error| wrong("tls.key", format!("cannot be made: {error}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(now, now + ROOT_LIFETIME)?;
        params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Texts { roots: certificate.clone(), certificates: certificate, key: Key(key.serialize_pem()) })
    }

    /// Reads and checks the texts.
    pub fn read(texts: &Texts, now: SystemTime) -> Result<Self, AuthorityError> {
        let chain = pems("tls.crt", &texts.certificates)?;
        let chain: Vec<_> = certificates("tls.crt", &chain)?;
        let roots_text = if texts.roots.trim().is_empty() { &texts.certificates } else { &texts.roots };
        let roots = pems("ca.crt", roots_text)?;
        let roots = certificates("ca.crt", &roots)?;
        let Some((issuer, above)) = chain.split_first() else {
            return Err(wrong("tls.crt", "has no certificate: it must have the authority's, in PEM"));
        };
        if chain.len() > CHAIN_MAX {
            return Err(wrong("tls.crt", format!("has more than {CHAIN_MAX} certificates")));
        }
        let key = KeyPair::from_pem(&texts.key.0).map_err(|_| {
            wrong("tls.key", "is no private key in PKCS #8 (PEM \"PRIVATE KEY\") of ECDSA, Ed25519 or RSA; cert-manager writes one with privateKey.encoding: PKCS8")
        })?;
        if key.subject_public_key_info() != issuer.public_key().raw {
            return Err(wrong("tls.key", "is not the key of the first certificate in tls.crt"));
        }
        if roots.len() > ROOTS_MAX {
            let problem =
                format!("has more than {ROOTS_MAX} certificates: leave those out that nobody needs any more");
            return Err(wrong("ca.crt", problem));
        }
        let root = check_chain(issuer, above, &roots, now)?;
        let ends = |one: &X509Certificate<'_>| time(one.validity().not_after.timestamp());
        let not_after = chain.iter().map(ends).fold(ends(root), SystemTime::min);
        let is_root = roots.iter().any(|root| root.public_key().raw == issuer.public_key().raw);
        let text = |one: &X509Certificate<'_>| pem::encode(&Pem::new("CERTIFICATE", one.as_raw()));
        let pem = |of: &[X509Certificate<'_>]| of.iter().map(text).collect::<String>();
        let above = if is_root { String::new() } else { pem(&chain) };
        let all = pem(&chain);
        let names = issuer.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let is_made_here = is_root && names.eq([ROOT_NAME]);
        let (key_id, root) = (identifier(issuer), fingerprint(root.as_raw()));
        let der = issuer.as_raw().to_vec().into();
        let not_before = time(issuer.validity().not_before.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| wrong("tls.crt", format!("cannot sign others: {error}")))?;
        Ok(Self {
            issuer,
            above,
            chain: all,
            roots: pem(&roots),
            root,
            key_id,
            is_made_here,
            not_before,
            not_after,
        })
    }

    /// PEM of the roots by which what it issues is known.
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// PEM of its own certificate, then of those that signed it, as `tls.crt` has them.
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Fingerprint of the one of the roots that it leads to.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// What certificates say of who has signed them, see [`vicino_crds::identity::key_id`].
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// When it, or one that it is signed by, ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether somebody should renew it: a third of its life is left, or 30 days when that is less.
    pub fn ends_soon(&self, now: SystemTime) -> bool {
        self.left(now) < LEFT_MIN.min(self.life() / 3)
    }

    /// Whether it is a root that was made here and is to be replaced, which nobody else does.
    pub fn is_to_be_rotated(&self, now: SystemTime) -> bool {
        let (share, of) = ROTATE_AFTER;
        self.is_made_here && self.left(now) <= self.life() / of * (of - share)
    }

    /// Whether it is a root that was made here.
    pub fn is_made_here(&self) -> bool {
        self.is_made_here
    }

    fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// A certificate for the key of `csr`, a PKCS #10 request in PEM; of what it asks for only the key counts.
    pub fn issue(
        &self,
        csr: &str,
        identity: &Identity,
        (lifetime, now): (Duration, SystemTime),
    ) -> Result<Issued, IssueError> {
        if csr.len() > CSR_BYTES_MAX {
            return Err(IssueError::BadRequest);
        }
        let csr = CertificateSigningRequestParams::from_pem(csr).map_err(|_| IssueError::BadRequest)?;
        if csr.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::BadKey);
        }
        let uri = identity.to_string().try_into().map_err(|_| IssueError::Internal)?;
        self.sign(&csr.public_key, SanType::URI(uri), (lifetime, now))
    }

    /// A certificate of the authority's own endpoint, for a key of its own.
    pub fn issue_server(
        &self,
        host: &str,
        (lifetime, now): (Duration, SystemTime),
    ) -> Result<(Issued, KeyPair), IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IssueError::Internal)?;
        let host = host.try_into().map_err(|_| IssueError::Internal)?;
        Ok((self.sign(&key, SanType::DnsName(host), (lifetime, now))?, key))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: SanType,
        (lifetime, now): (Duration, SystemTime),
    ) -> Result<Issued, IssueError> {
        if now < self.not_before || now >= self.not_after {
            return Err(IssueError::Expired);
        }
        let expires = (now + lifetime).min(self.not_after);
        let from = (now - BACKDATED).max(self.not_before);
        let mut params = params(from, expires).map_err(|_| IssueError::Internal)?;
        params.subject_alt_names = vec![name];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|_| IssueError::Internal)?;
        Ok(Issued { chain: certificate.pem() + &self.above, expires })
    }
}

/// No name, no use: just a serial number that nobody can guess, and a time.
fn params(from: SystemTime, to: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| wrong("tls.key", "the system gives no random numbers"))?;
    // Positive, and not shorter by a zero (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    (params.not_before, params.not_after) = (epoch + since(from), epoch + since(to));
    Ok(params)
}

/// The certificates of some texts, each once, in the order of their fingerprints. What cannot be read is left out.
pub fn union(texts: &[&str]) -> Vec<Described> {
    let all = texts.iter().filter_map(|text| pem::parse_many(text).ok()).flatten();
    let mut all: Vec<_> = all.filter_map(|pem| Described::of(&pem)).collect();
    all.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
    all.dedup_by(|a, b| a.fingerprint == b.fingerprint);
    all
}

/// A certificate of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// See [`vicino_crds::identity::fingerprint`].
    pub fingerprint: String,
    /// Whom it is of, as it says itself.
    pub name: String,
    /// What certificates say that it has signed, see [`key_id`].
    pub key_id: String,
    /// The one that has signed it, when it says so.
    pub issuer: Option<String>,
    /// When it ends.
    pub not_after: SystemTime,
    /// Itself.
    pub pem: String,
}

impl Described {
    fn of(pem: &Pem) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(pem.contents()).ok()?;
        let issuer =
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(said) => said.key_identifier.as_ref(),
                _ => None,
            });
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        Some(Self {
            fingerprint: fingerprint(pem.contents()),
            name: names.next().map_or_else(|| certificate.subject().to_string(), str::to_owned),
            key_id: identifier(&certificate),
            issuer: issuer.map(|identifier| key_id(identifier.0)),
            not_after: time(certificate.validity().not_after.timestamp()),
            pem: pem::encode(pem),
        })
    }
}

/// What certificates that it signs will say of who has signed them (RFC 5280 §4.2.1.1): what it says of itself, or else what rcgen makes of its key.
fn identifier(issuer: &X509Certificate<'_>) -> String {
    let own = issuer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(key_id(identifier.0)),
        _ => None,
    });
    own.unwrap_or_else(|| key_id(&Sha256::digest(issuer.public_key().raw)))
}

/// Each is signed by the next, and the last by a root or one itself; all may sign, and are good now. Returns that root.
fn check_chain<'a, 'b>(
    issuer: &X509Certificate<'_>,
    above: &[X509Certificate<'_>],
    roots: &'b [X509Certificate<'a>],
    now: SystemTime,
) -> Result<&'b X509Certificate<'a>, AuthorityError> {
    let mut last = issuer;
    check_one("tls.crt", issuer, now)?;
    for (i, one) in above.iter().enumerate() {
        check_one("tls.crt", one, now)?;
        if last.verify_signature(Some(one.public_key())).is_err() {
            let problem = format!(
                "certificate {} is not signed by the one behind it; the order is from the authority upwards",
                i + 1
            );
            return Err(wrong("tls.crt", problem));
        }
        last = one;
    }
    let is_root_of = |root: &&X509Certificate<'_>| {
        root.as_raw() == last.as_raw() || last.verify_signature(Some(root.public_key())).is_ok()
    };
    let root = roots.iter().find(is_root_of).ok_or_else(|| {
        wrong("ca.crt", "has no root that the last certificate in tls.crt is signed by: add it")
    })?;
    check_one("ca.crt", root, now)?;
    Ok(root)
}

fn check_one(field: &'static str, one: &X509Certificate<'_>, now: SystemTime) -> Result<(), AuthorityError> {
    let (from, to) = (one.validity().not_before, one.validity().not_after);
    let may_sign =
        one.is_ca() && one.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    match () {
        () if !may_sign => Err(wrong(
            field,
            format!(
                "the certificate {:?} may not sign others: it must be one of an authority (CA: TRUE, keyCertSign)",
                one.subject().to_string()
            ),
        )),
        () if now >= time(to.timestamp()) => Err(wrong(field, format!("has ended at {to}: renew it"))),
        () if now < time(from.timestamp()) => {
            Err(wrong(field, format!("is good only from {from} on: wait, or set the clock")))
        }
        () => Ok(()),
    }
}

fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

fn pems(field: &'static str, text: &str) -> Result<Vec<Pem>, AuthorityError> {
    pem::parse_many(text).map_err(|error| wrong(field, format!("is no PEM: {error}")))
}

fn certificates<'a>(
    field: &'static str,
    pems: &'a [Pem],
) -> Result<Vec<X509Certificate<'a>>, AuthorityError> {
    let each = pems.iter().enumerate().map(|(i, pem)| {
        if pem.tag() != "CERTIFICATE" {
            return Err(wrong(field, format!("has a {:?}: it must have certificates only", pem.tag())));
        }
        let (_, certificate) = X509Certificate::from_der(pem.contents())
            .map_err(|error| wrong(field, format!("certificate {} cannot be read: {error}", i + 1)))?;
        Ok(certificate)
    });
    each.collect()
}

#[cfg(test)]
mod tests;
