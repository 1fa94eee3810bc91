//! The endpoint that proxies ask for certificates: HTTPS with a certificate of the authority itself, one request and one answer; what it answers is [`Issuer`]'s.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use vicino_crds::identity::{
    AUTHORITY_HOST, ISSUE_PATH, IssueAnswer, IssueRequest, REQUEST_BYTES_MAX, REQUESTS_MAX, Refused,
};

use super::ca::{Authority, IssueError};
use super::issue::Issuer;
use super::judge::Refusal;
use super::{Clock, InForce};
use crate::serve::accept;

/// How long the endpoint's own certificate is good; it is made anew long before.
const SERVER_LIFETIME: Duration = Duration::from_hours(24);
/// Connections at one time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;
/// Of one address so many of them: a proxy needs one, and nobody else may keep proxies from theirs.
const CONNECTIONS_OF_PEER_MAX: usize = 4;
/// TLS stands within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A caller has this long to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds after which to ask again when it was too much, or cannot be had now.
const RETRY_SECONDS: &str = "5";

/// Serves on `listener` until `stop`.
pub async fn serve(
    listener: TcpListener,
    (authority, issuer): (InForce, Arc<Issuer>),
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), IssueError> {
    let acceptor = acceptor(authority, clock)?;
    let peers = Peers::default();
    accept(listener, CONNECTIONS_MAX, &stop, |stream, peer| {
        // A caller too many is closed at once.
        let Some(place) = peers.enter(peer.ip()) else {
            issuer.refuse_unknown(peer.ip(), Refusal::TooManyConnections);
            return None;
        };
        let (acceptor, issuer) = (acceptor.clone(), issuer.clone());
        Some(async move {
            // One that takes too long is dropped.
            timeout(CONNECTION_TIMEOUT, connection((stream, peer), acceptor, &issuer, clock)).await.ok();
            drop(place);
        })
    })
    .await;
    Ok(())
}

/// How many connections each address has.
#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

impl Peers {
    /// None when it has as many as it may.
    fn enter(&self, peer: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= CONNECTIONS_OF_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), peer })
    }
}

/// One connection of an address, as long as it lives.
#[derive(Debug)]
struct Place {
    peers: Peers,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    acceptor: TlsAcceptor,
    issuer: &Issuer,
    clock: Clock,
) {
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
        Err(_) => return tracing::debug!(%peer, "TLS takes too long"),
    };
    let service =
        service_fn(async |request| Ok::<_, Infallible>(answer((request, peer.ip()), issuer, clock()).await));
    // One request: further ones would come past the bounds on connections.
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

async fn answer(
    (request, peer): (Request<Incoming>, IpAddr),
    issuer: &Issuer,
    now: SystemTime,
) -> Response<Full<Bytes>> {
    if (request.method(), request.uri().path()) != (&Method::POST, ISSUE_PATH) {
        return say(404, &Refused { reason: "not-found".to_owned(), message: format!("POST {ISSUE_PATH}") });
    }
    match issued((request, peer), issuer, now).await {
        Ok(answer) => say(200, &answer),
        Err((refusal, message)) => {
            say(refusal.status(), &Refused { reason: refusal.word().to_owned(), message })
        }
    }
}

async fn issued(
    (request, peer): (Request<Incoming>, IpAddr),
    issuer: &Issuer,
    now: SystemTime,
) -> Result<IssueAnswer, (Refusal, String)> {
    let plain = |refusal: Refusal| (refusal, refusal.text().to_owned());
    let (head, body) = request.into_parts();
    // Before a body is read: it may be long, and nobody but a proxy has a reason to send one.
    let caller = issuer.caller(token(&head.headers), peer).await.map_err(plain)?;
    let wrong = |refusal: Refusal, problem: String| {
        issuer.refuse(&caller, refusal, &problem);
        (refusal, problem)
    };
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            wrong(Refusal::TooLarge, format!("the body has more than {REQUEST_BYTES_MAX} bytes"))
        } else {
            wrong(Refusal::BadRequest, format!("the body cannot be read: {error}"))
        }
    })?;
    let asked = asked(&body.to_bytes()).map_err(|problem| wrong(Refusal::BadRequest, problem))?;
    issuer.answer(&caller, &asked.requests, now).await.map_err(plain)
}

/// The token that a request shows (RFC 6750 §2.1); None: none, or no text.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ").map(str::trim);
    token.filter(|token| !token.is_empty())
}

/// What a body asks for, or what is wrong with it.
pub fn asked(body: &[u8]) -> Result<IssueRequest, String> {
    let asked: IssueRequest = serde_json::from_slice(body)
        .map_err(|error| format!("the body is no request for certificates: {error}"))?;
    let count = asked.requests.len();
    if count > REQUESTS_MAX {
        return Err(format!("{count} certificates are too many for one request: at most {REQUESTS_MAX}"));
    }
    Ok(asked)
}

fn say(status: u16, what: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(what).expect("answers are plain data");
    let mut answer = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if matches!(status, 429 | 503) {
        answer = answer.header(RETRY_AFTER, RETRY_SECONDS);
    }
    answer.body(Full::new(Bytes::from(body))).expect("status and fields are constants")
}

/// TLS 1.3 alone, with a certificate of the authority's own.
fn acceptor(authority: InForce, clock: Clock) -> Result<TlsAcceptor, IssueError> {
    let own = OwnCertificate { current: Mutex::default(), authority, clock };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| IssueError::Internal)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The endpoint's certificate, made anew when half of its time is over or another authority is in force.
#[derive(Debug)]
struct OwnCertificate {
    authority: InForce,
    clock: Clock,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    certificate: Arc<CertifiedKey>,
    /// From then on it is to be made anew.
    renew_at: SystemTime,
    signed_by: Arc<Authority>,
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, authority) = ((self.clock)(), self.authority.borrow().clone());
        let is_good = |current: &Current| {
            now < current.renew_at
                && authority.as_ref().is_none_or(|now| Arc::ptr_eq(now, &current.signed_by))
        };
        if let (Some(authority), false) = (&authority, current.as_ref().is_some_and(is_good)) {
            match certify(authority, now) {
                Ok((certificate, renew_at)) => {
                    *current = Some(Current { certificate, renew_at, signed_by: authority.clone() });
                }
                Err(error) => tracing::error!(%error, "the authority's own certificate cannot be renewed"),
            }
        }
        current.as_ref().map(|current| current.certificate.clone())
    }
}

/// With the time from which on it is to be made anew.
fn certify(authority: &Authority, now: SystemTime) -> Result<(Arc<CertifiedKey>, SystemTime), IssueError> {
    let (issued, key) = authority.issue_server(AUTHORITY_HOST, (SERVER_LIFETIME, now))?;
    let chain = pem::parse_many(&issued.chain).map_err(|_| IssueError::Internal)?;
    let chain = chain.into_iter().map(|pem| CertificateDer::from(pem.into_contents())).collect();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
    let left = issued.expires.duration_since(now).unwrap_or_default();
    Ok((Arc::new(certified.map_err(|_| IssueError::Internal)?), now + left / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_few_connections_at_a_time() {
        let (peers, a, b) = (Peers::default(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut places: Vec<_> = (0..CONNECTIONS_OF_PEER_MAX).filter_map(|_| peers.enter(a)).collect();
        assert_eq!(places.len(), CONNECTIONS_OF_PEER_MAX);
        assert!(peers.enter(a).is_none() && peers.enter(b).is_some());
        places.pop();
        assert!(peers.enter(a).is_some());
        places.clear();
        assert!(peers.0.lock().unwrap().is_empty(), "who has gone is forgotten");
    }
}
