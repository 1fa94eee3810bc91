//! TLS of hops, without I/O: bytes of a socket in, bytes of a hop out, and who the peer is. TLS 1.3 alone, with AES-GCM or ChaCha20-Poly1305, and certificates on both sides that
//! are X.509-SVIDs of the mesh's trust domain (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>).
//!
//! Whoever dials says whose call it is, by the certificate that it shows; whoever accepts says which node it is, and the dialler takes only the node that it meant.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use vicino_crds::identity::{Identity, IdentityError, Subject};
use vicino_engine::SecureDial;
use vicino_engine::account::{self as engine, Account, Party};
use vicino_wire::hop::ALPN;

use self::verify::NodeVerifier;

mod svid;
mod verify;

pub use svid::{Svid, SvidError};

/// Ciphertext that may wait in a connection for its socket, in bytes; plaintext beyond stays where it is.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Sessions that are remembered, so that a hop to the same node needs no new signature; for each identity.
const SESSIONS_MAX: usize = 1024;

/// What cannot be made into a [`Dialer`] or an [`Acceptor`].
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// Not PEM, or nothing in it.
    #[error("{0} is no PEM, or has nothing of that kind")]
    Pem(&'static str),
    /// A certificate that is no SVID.
    #[error("the certificate is of no use")]
    Svid(#[from] SvidError),
    /// An identity of another kind than is needed there.
    #[error("{0} is not the identity of a node")]
    NotANode(Identity),
    /// A name that is none.
    #[error("no identity")]
    Identity(#[from] IdentityError),
    /// What rustls does not take.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Roots that rustls does not take.
    #[error("the roots cannot be used")]
    Roots(#[from] rustls::client::VerifierBuilderError),
    /// No certificate of whoever calls.
    #[error("there is no certificate of the service account {}/{}", .0.namespace, .0.name)]
    NoCredentials(Account),
    /// A node's name that is no DNS name.
    #[error("{0:?} is no name of a node")]
    Name(String),
}

/// By what peers are known.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    domain: Arc<str>,
    /// What the roots were made of.
    text: Arc<str>,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.domain == other.domain && self.text == other.text
    }
}

impl Trust {
    /// From PEM.
    pub fn new(roots: &str, domain: &str) -> Result<Self, SecureError> {
        let mut store = RootCertStore::empty();
        for root in certificates(roots, "roots")? {
            store.add(root)?;
        }
        Ok(Self { roots: Arc::new(store), domain: domain.into(), text: roots.into() })
    }

    /// Whether everybody who was known by `before` is known by this, too.
    fn includes(&self, before: &Trust) -> bool {
        let roots = &self.roots.roots;
        self.domain == before.domain && before.roots.roots.iter().all(|root| roots.contains(root))
    }
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    svid: Svid,
}

impl Credentials {
    /// From PEM: the certificate with those above it, and its key in PKCS #8.
    pub fn new(chain: &str, key: &str) -> Result<Self, SecureError> {
        let chain = certificates(chain, "the chain")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| SecureError::Pem("the key"))?;
        let svid = Svid::of(&chain[0])?;
        Ok(Self { chain, key, svid })
    }

    /// Whose they are, and until when.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, SecureError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(SecureError::Pem(what))
}

fn provider() -> (Arc<CryptoProvider>, WebPkiSupportedAlgorithms) {
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    (Arc::new(provider), algorithms)
}

/// Dials hops for one calling identity; remembers sessions, so that the next hop to a node is cheaper.
#[derive(Clone, Debug)]
pub struct Dialer(Arc<ClientConfig>);

impl Dialer {
    /// For calls of whom the credentials are.
    pub fn new(credentials: &Credentials, trust: &Trust) -> Result<Self, SecureError> {
        let (provider, algorithms) = provider();
        let verifier = NodeVerifier::new(trust.roots.clone(), trust.domain.clone(), algorithms);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Self(Arc::new(config)))
    }

    /// A connection to the proxy of `node`, and to no other.
    pub fn dial(&self, node: &str) -> Result<Secure, SecureError> {
        let name = ServerName::try_from(node.to_owned()).map_err(|_| SecureError::Name(node.to_owned()))?;
        Ok(Secure::new(ClientConnection::new(self.0.clone(), name)?.into()))
    }
}

/// Accepts hops as one node.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// As the node that the credentials are of.
    pub fn new(
        credentials: &Credentials,
        trust: &Trust,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<Self, SecureError> {
        let Subject::Node(_) = credentials.svid.identity.subject() else {
            return Err(SecureError::NotANode(credentials.svid.identity.clone()));
        };
        let (provider, _) = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider.clone()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = tickets;
        Ok(Self(Arc::new(config)))
    }

    /// A connection that was accepted.
    pub fn accept(&self) -> Result<Secure, SecureError> {
        Ok(Secure::new(ServerConnection::new(self.0.clone())?.into()))
    }
}

/// Credentials of a node: its own, and those of the service accounts of its pods.
pub type Certificates = BTreeMap<Identity, Arc<Credentials>>;

/// Dials with credentials that have a number.
#[derive(Clone, Debug)]
struct Numbered {
    dialer: Dialer,
    credentials: Arc<Credentials>,
    number: u64,
}

/// What workers make hops with. A new one is for new hops; those that stand live on.
#[derive(Debug)]
pub struct Hops {
    node: Numbered,
    accounts: HashMap<Account, Numbered>,
    acceptor: Acceptor,
    tickets: Arc<dyn ProducesTickets>,
    trust: Trust,
    manner: Manner,
    /// The number of the next credentials, which none has had before.
    next: u64,
}

/// How hops are made and taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// None without TLS, and no call as somebody else's.
    pub is_strict: bool,
    /// The node's certificate is for neighbours without one of their own, too, since nobody gives them any.
    pub is_shared: bool,
}

impl Hops {
    /// With what a node has now; None when that has no credentials of the node itself. What is as it was in `before` keeps its number and its sessions.
    pub fn new(
        certificates: &Certificates,
        node: &Identity,
        (trust, manner): (Trust, Manner),
        before: Option<&Hops>,
    ) -> Result<Option<Self>, SecureError> {
        let Some(own) = certificates.get(node) else { return Ok(None) };
        // Numbers go on whatever else is new: by them it is told which hops were made with something else.
        let mut next = before.map_or(1, |before| before.next);
        let before = before.filter(|before| before.trust == trust);
        let mut numbered = |credentials: &Arc<Credentials>, old: Option<&Numbered>| {
            if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.credentials, credentials)) {
                return Ok(old.clone());
            }
            let number = next;
            next += 1;
            let dialer = Dialer::new(credentials, &trust)?;
            Ok::<_, SecureError>(Numbered { dialer, credentials: credentials.clone(), number })
        };
        let of_node = numbered(own, before.map(|before| &before.node))?;
        let mut accounts = HashMap::new();
        for (identity, credentials) in certificates {
            if let Some(account) = account(identity) {
                let old = before.and_then(|before| before.accounts.get(&account));
                accounts.insert(account, numbered(credentials, old)?);
            }
        }
        let tickets = match before {
            Some(before) => before.tickets.clone(),
            None => ring::Ticketer::new()?,
        };
        let acceptor = match before.filter(|before| Arc::ptr_eq(&before.node.credentials, own)) {
            Some(before) => before.acceptor.clone(),
            None => Acceptor::new(own, &trust, tickets.clone())?,
        };
        Ok(Some(Self { node: of_node, accounts, acceptor, tickets, trust, manner, next }))
    }

    /// What the engine has to know of them.
    pub fn numbers(&self) -> engine::Credentials {
        engine::Credentials {
            is_strict: self.manner.is_strict,
            node: self.node.number,
            is_shared: self.manner.is_shared,
            accounts: self.accounts.iter().map(|(account, one)| (account.clone(), one.number)).collect(),
        }
    }

    /// Whether somebody who was known by the roots of `before` may not be by these.
    pub fn distrusts(&self, before: &Hops) -> bool {
        !self.trust.includes(&before.trust)
    }

    /// Hops without TLS are refused.
    pub fn is_strict(&self) -> bool {
        self.manner.is_strict
    }

    /// A connection to the proxy of a node, as whom `to` says.
    pub fn dial(&self, to: &SecureDial) -> Result<Secure, SecureError> {
        let numbered = match &to.caller {
            None => &self.node,
            Some(account) => {
                self.accounts.get(account).ok_or_else(|| SecureError::NoCredentials(account.clone()))?
            }
        };
        numbered.dialer.dial(&to.node)
    }

    /// A connection that was accepted.
    pub fn accept(&self) -> Result<Secure, SecureError> {
        self.acceptor.accept()
    }

    /// Who has dialled, and until when that is proved; None for whoever is nobody here.
    pub fn party(&self, peer: &Secure) -> Option<(Party, SystemTime)> {
        let svid = peer.peer(&self.trust)?;
        let party = match (svid.identity.subject(), account(&svid.identity)) {
            (Subject::Node(node), _) => Party::Node(Arc::from(&**node)),
            (_, Some(account)) => Party::Workload(account),
            (Subject::Workload { .. }, None) => return None,
        };
        Some((party, svid.not_after))
    }
}

/// The service account that an identity is of.
fn account(identity: &Identity) -> Option<Account> {
    match identity.subject() {
        Subject::Workload { namespace, service_account } => {
            Some(Account { namespace: Arc::from(&**namespace), name: Arc::from(&**service_account) })
        }
        Subject::Node(_) => None,
    }
}

/// One end of a TLS connection.
#[derive(Debug)]
pub struct Secure(Connection);

impl Secure {
    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(OUTPUT_BYTES_MAX));
        Self(connection)
    }

    /// Takes bytes from the socket in and appends what they say to `out`. An error ends the connection; there may still be an alert to write.
    pub fn receive(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        while !bytes.is_empty() {
            // It takes nothing only while plaintext waits, and none is left waiting below.
            let taken = self.0.read_tls(&mut bytes).unwrap_or(0);
            let said = self.0.process_new_packets()?;
            let from = out.len();
            out.resize(from + said.plaintext_bytes_to_read(), 0);
            let read = self.0.reader().read(&mut out[from..]).unwrap_or(0);
            out.truncate(from + read);
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes as many bytes of the hop as there is room for.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        self.0.writer().write(bytes).unwrap_or(0)
    }

    /// Whether there is something for the socket.
    pub fn has_output(&self) -> bool {
        self.0.wants_write()
    }

    /// Writes what there is for the socket, as far as that takes it.
    pub fn write_to(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        self.0.write_tls(socket)
    }

    /// Says that nothing more comes (`close_notify`), so that the peer can tell an end from a cut.
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// Whether hop bytes can be sent and the peer is known.
    pub fn is_open(&self) -> bool {
        !self.0.is_handshaking()
    }

    /// Who the peer is, of whom the handshake has made sure that it has the key of its certificate. None before the handshake is through, or when that is no identity of the trust
    /// domain.
    pub fn peer(&self, trust: &Trust) -> Option<Svid> {
        let certificate = self.0.peer_certificates().filter(|_| self.is_open())?.first()?;
        Svid::of(certificate).ok().filter(|svid| *svid.identity.trust_domain() == *trust.domain)
    }
}

#[cfg(test)]
pub(crate) mod tests;
