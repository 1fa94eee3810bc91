//! One request to the authority: a key and a PKCS #10 request for each identity, one HTTPS exchange, what came of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::fmt::rfc2822;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use vicino_crds::identity::{
    AUTHORITY_HOST, CertificateRequest, ISSUE_PATH, Identity, IssueAnswer, IssueRequest, Refused,
};

use super::Source;
use crate::secure::{Credentials, SecureError};

/// A request that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer, in bytes: 512 certificates with chains.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The token or the roots are not there, or not to be read.
    #[error("cannot read {0}")]
    File(String, #[source] std::io::Error),
    /// The roots are of no use.
    #[error("the roots in {0} are of no use")]
    Roots(String),
    /// A key or a request for one cannot be made.
    #[error("cannot make a key")]
    Key(#[from] rcgen::Error),
    /// The authority is not to be reached, or is not what it says that it is.
    #[error("cannot reach the authority at {0}")]
    Connect(String, #[source] std::io::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The exchange broke off.
    #[error("no answer of the authority")]
    Exchange(#[from] hyper::Error),
    /// It has taken too long.
    #[error("no answer of the authority within {} s", TIMEOUT.as_secs())]
    Slow,
    /// It says no.
    #[error("the authority refuses: {status} {reason}: {message}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its word.
        reason: String,
        /// Its words.
        message: String,
    },
    /// It says something that is no answer.
    #[error("the answer of the authority cannot be read: {0}")]
    Malformed(String),
}

/// What the authority says.
#[derive(Debug, Default)]
pub struct Answer {
    /// What it has issued.
    pub issued: Vec<(Identity, Credentials)>,
    /// What time it is there.
    pub time: Option<SystemTime>,
}

/// The authority, as a proxy sees it.
#[derive(Debug)]
pub struct Authority {
    source: Source,
}

impl Authority {
    /// The one of a source.
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    /// Asks for these identities. What the authority refuses of them is told in the log, and not among what comes.
    pub async fn ask(&self, identities: &[Identity]) -> Result<Answer, AskError> {
        let (mut keys, mut requests) = (Vec::new(), Vec::new());
        for identity in identities {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            let csr = params.serialize_request(&key)?.pem()?;
            requests.push(CertificateRequest { identity: identity.to_string(), csr });
            keys.push(key);
        }
        let asked = IssueRequest { requests };
        let exchange = timeout(TIMEOUT, self.exchange(&asked));
        let (answer, time) = exchange.await.map_err(|_| AskError::Slow)??;
        for refused in &answer.refused {
            let (identity, reason) = (&refused.identity, &refused.reason);
            tracing::warn!(identity, reason, message = refused.message, "certificate refused");
        }
        let mut all = Answer { time, ..Answer::default() };
        for issued in answer.certificates {
            let at = asked.requests.iter().position(|request| request.identity == issued.identity);
            let at =
                at.ok_or_else(|| AskError::Malformed(format!("nobody asked for {}", issued.identity)))?;
            let malformed = |error: SecureError| AskError::Malformed(format!("{}: {error}", issued.identity));
            let credentials =
                Credentials::new(&issued.chain, &keys[at].serialize_pem()).map_err(malformed)?;
            if credentials.svid().identity != identities[at] {
                let found = &credentials.svid().identity;
                return Err(AskError::Malformed(format!("for {} a certificate of {found}", issued.identity)));
            }
            all.issued.push((identities[at].clone(), credentials));
        }
        Ok(all)
    }

    async fn exchange(&self, asked: &IssueRequest) -> Result<(IssueAnswer, Option<SystemTime>), AskError> {
        let Source { address, token, roots } = &self.source;
        let read = |path: &std::path::Path| {
            let path = path.to_owned();
            async move {
                let text = tokio::fs::read_to_string(&path).await;
                text.map_err(|error| AskError::File(path.display().to_string(), error))
            }
        };
        let token = read(token).await?;
        let connector =
            connector(&read(roots).await?).ok_or_else(|| AskError::Roots(roots.display().to_string()))??;
        let connect = |error| AskError::Connect(address.clone(), error);
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        let name = ServerName::try_from(AUTHORITY_HOST).expect("a constant that is a DNS name");
        let stream = connector.connect(name, stream).await.map_err(connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let body = serde_json::to_vec(asked).expect("requests are plain data");
        let request = Request::builder()
            .method(Method::POST)
            .uri(ISSUE_PATH)
            .header(HOST, AUTHORITY_HOST)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| AskError::Malformed(format!("the token is none: {error}")))?;
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let time = response.headers().get(DATE).and_then(|date| time(date.to_str().ok()?));
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| AskError::Malformed(error.to_string()))?.to_bytes();
            Ok::<_, AskError>((status, time, body))
        };
        // The connection ends with the exchange, which has its sender; what is wrong with it the exchange says.
        let (done, _) = tokio::join!(exchange, connection);
        let (status, time, body) = done?;
        let malformed = |error: serde_json::Error| AskError::Malformed(error.to_string());
        if status == 200 {
            return Ok((serde_json::from_slice(&body).map_err(malformed)?, time));
        }
        let Refused { reason, message } = serde_json::from_slice(&body).map_err(malformed)?;
        Err(AskError::Refused { status, reason, message })
    }
}

/// A time as HTTP has it (RFC 9110 §5.6.7).
fn time(date: &str) -> Option<SystemTime> {
    let date = rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(date.into())
}

/// None when there is no root.
fn connector(roots: &str) -> Option<Result<TlsConnector, rustls::Error>> {
    let mut store = RootCertStore::empty();
    for root in rustls::pki_types::CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.ok()?).ok()?;
    }
    if store.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map(|builder| builder.with_root_certificates(store).with_no_client_auth());
    Some(config.map(|config| TlsConnector::from(Arc::new(config))))
}
