//! Who a workload or a node is in the mesh: SPIFFE IDs, and what a proxy and the authority say to each other when one asks for certificates.
//!
//! An identity is the URI of an X.509-SVID (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>):
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` of every pod that runs as that service account, and
//! `spiffe://<trust domain>/node/<node>` of the proxy of a node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where certificates are asked for: `POST` with an [`IssueRequest`], `Authorization: Bearer <token>`.
pub const ISSUE_PATH: &str = "/v1/certificates";
/// Audience of the tokens that proxies show to the authority, and to nobody else.
pub const AUDIENCE: &str = "vicino-authority";
/// Name that the authority's own certificate has.
pub const AUTHORITY_HOST: &str = "vicino-authority.vicino-system.svc";
/// Certificates that one request may ask for.
pub const REQUESTS_MAX: usize = 512;
/// Bytes of a request's body at most: [`REQUESTS_MAX`] requests for the longest names.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a digest or an identifier that certificates and keys are named by.
const SHORT_BYTES: usize = 8;

/// What people and statuses call a certificate: the first 16 hexadecimal digits of SHA-256 over its DER.
pub fn fingerprint(der: &[u8]) -> String {
    key_id(&Sha256::digest(der))
}

/// What people and statuses call the key of an authority: the first 16 hexadecimal digits of its key identifier (RFC 5280 §4.2.1.1).
pub fn key_id(identifier: &[u8]) -> String {
    let digits = identifier.iter().take(SHORT_BYTES).map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Longest trust domain, in bytes (SPIFFE-ID §2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;
const SUBDOMAIN_BYTES_MAX: usize = 253;
const SCHEME: &str = "spiffe://";

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    trust_domain: Box<str>,
    subject: Subject,
}

/// Who somebody is within the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Pods of a namespace that run as a service account.
    Workload {
        /// A DNS label.
        namespace: Box<str>,
        /// A DNS subdomain.
        service_account: Box<str>,
    },
    /// The proxy of a node.
    Node(
        /// A DNS subdomain.
        Box<str>,
    ),
}

/// Why something is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Another scheme.
    #[error("an identity begins with \"spiffe://\"")]
    Scheme,
    /// A trust domain that is none.
    #[error("a trust domain has 1 to 255 lower-case letters, digits, '.', '-' and '_'")]
    TrustDomain,
    /// A path of another form.
    #[error("behind the trust domain an identity is /ns/<namespace>/sa/<service account> or /node/<node>")]
    Path,
    /// A name that Kubernetes does not give.
    #[error("namespaces are DNS labels, service accounts and nodes DNS subdomains")]
    Name,
}

/// Whether a text can be a trust domain.
pub fn is_trust_domain(text: &str) -> bool {
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
}

/// A DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_part(text)
}

/// A DNS subdomain as Kubernetes has it, which bounds it as a whole and not its parts.
fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| is_plain(b) || *b == b'-')
        && bytes.first().is_some_and(is_plain)
        && bytes.last().is_some_and(is_plain)
}

impl Identity {
    /// Of the pods of a namespace that run as a service account.
    pub fn workload(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let subject =
            Subject::Workload { namespace: namespace.into(), service_account: service_account.into() };
        Self { trust_domain: trust_domain.into(), subject }.checked()
    }

    /// Of the proxy of a node.
    pub fn node(trust_domain: &str, node: &str) -> Result<Self, IdentityError> {
        Self { trust_domain: trust_domain.into(), subject: Subject::Node(node.into()) }.checked()
    }

    fn checked(self) -> Result<Self, IdentityError> {
        let has_names = match &self.subject {
            Subject::Workload { namespace, service_account } => {
                is_label(namespace) && is_subdomain(service_account)
            }
            Subject::Node(node) => is_subdomain(node),
        };
        match () {
            () if !is_trust_domain(&self.trust_domain) => Err(IdentityError::TrustDomain),
            () if !has_names => Err(IdentityError::Name),
            () => Ok(self),
        }
    }

    /// Within which names mean something.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Who it is there.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.trust_domain)?;
        match &self.subject {
            Subject::Workload { namespace, service_account } => {
                write!(f, "/ns/{namespace}/sa/{service_account}")
            }
            Subject::Node(node) => write!(f, "/node/{node}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        let mut parts = path.split('/');
        let mut next = || parts.next();
        match [next(), next(), next(), next(), next()] {
            [Some("ns"), Some(namespace), Some("sa"), Some(service_account), None] => {
                Self::workload(trust_domain, namespace, service_account)
            }
            [Some("node"), Some(node), None, ..] => Self::node(trust_domain, node),
            _ => Err(IdentityError::Path),
        }
    }
}

impl TryFrom<String> for Identity {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, IdentityError> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> String {
        identity.to_string()
    }
}

/// What a proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssueRequest {
    /// At most [`REQUESTS_MAX`].
    pub requests: Vec<CertificateRequest>,
}

/// One certificate that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// The identity, as text, so that one that is none does not make the others fail.
    pub identity: String,
    /// A PKCS #10 request in PEM, signed by the key that the certificate is for (ECDSA P-256). Whatever else it asks for is not looked at.
    pub csr: String,
}

/// What the authority answers with 200.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssueAnswer {
    /// Those that were issued.
    pub certificates: Vec<IssuedCertificate>,
    /// Those that were not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedCertificate>,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCertificate {
    /// As it was asked for.
    pub identity: String,
    /// In PEM: the certificate, and those that lead to the root, without that one.
    pub chain: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// A certificate that was not issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedCertificate {
    /// As it was asked for.
    pub identity: String,
    /// One of a bounded set.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What the authority answers with any other status than 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// One of a bounded set.
    pub reason: String,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_are_exactly_of_these_forms() {
        let long = "a".repeat(100);
        for good in [
            "spiffe://cluster.local/ns/shop/sa/web",
            "spiffe://a_b-c.d/ns/shop/sa/web.v2",
            "spiffe://cluster.local/node/ip-10-0-0-1.eu.internal",
            &format!("spiffe://cluster.local/ns/shop/sa/{long}"),
        ] {
            assert_eq!(good.parse::<Identity>().map(|identity| identity.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", IdentityError::Scheme),
            ("https://cluster.local/ns/shop/sa/web", IdentityError::Scheme),
            ("SPIFFE://cluster.local/ns/shop/sa/web", IdentityError::Scheme),
            ("spiffe://cluster.local", IdentityError::Path),
            ("spiffe://cluster.local/ns/shop", IdentityError::Path),
            ("spiffe://cluster.local/ns/shop/sa/web/", IdentityError::Path),
            ("spiffe://cluster.local/ns/shop/sa/web/x", IdentityError::Path),
            ("spiffe://cluster.local//ns/shop/sa/web", IdentityError::Path),
            ("spiffe://cluster.local/sa/web/ns/shop", IdentityError::Path),
            ("spiffe://cluster.local/node/a/b", IdentityError::Path),
            ("spiffe:///ns/shop/sa/web", IdentityError::TrustDomain),
            ("spiffe://Cluster.local/ns/shop/sa/web", IdentityError::TrustDomain),
            ("spiffe://user@cluster.local/ns/shop/sa/web", IdentityError::TrustDomain),
            ("spiffe://cluster.local:80/ns/shop/sa/web", IdentityError::TrustDomain),
            ("spiffe://cluster.local/ns//sa/web", IdentityError::Name),
            ("spiffe://cluster.local/ns/shop.x/sa/web", IdentityError::Name),
            ("spiffe://cluster.local/ns/shop/sa/..", IdentityError::Name),
            ("spiffe://cluster.local/ns/shop/sa/we%62", IdentityError::Name),
            ("spiffe://cluster.local/ns/shop/sa/web?x", IdentityError::Name),
            ("spiffe://cluster.local/ns/shop/sa/Web", IdentityError::Name),
            ("spiffe://cluster.local/ns/-shop/sa/web", IdentityError::Name),
            ("spiffe://cluster.local/node/", IdentityError::Name),
        ] {
            assert_eq!(bad.parse::<Identity>(), Err(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_is_written(text in "(spiffe://)?[a-zA-Z0-9./_%:@-]{0,60}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn names_that_kubernetes_gives_make_identities(namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", account in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?){0,4}") {
            let identity = Identity::workload("cluster.local", &namespace, &account).unwrap();
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }
}
