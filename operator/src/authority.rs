//! The certificate authority of the mesh: keeps a root or an intermediate, and gives proxies certificates for the service accounts of the pods on their node.
//!
//! | module | is |
//! |---|---|
//! | [`ca`] | key and chain: made, read, what is wrong with them, and certificates that they sign; no I/O |
//! | [`reports`] | which roots and certificates proxies say that they have; no I/O |
//! | [`rotation`] | which authority is in force, and the next step towards the one that is to be; no I/O |
//! | [`store`] | the Secret that all of it lies in |
//! | [`follow`] | follows the Secret and takes the steps |
//! | [`judge`] | who may have which certificate: facts in, verdict out; no I/O |
//! | [`issue`] | one request: asks the API server for the facts that a verdict needs, counts and tells what was refused |
//! | [`endpoint`] | where proxies ask: HTTPS |

pub mod ca;
pub mod endpoint;
pub mod follow;
pub mod issue;
pub mod judge;
pub mod reports;
pub mod rotation;
pub mod store;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::event::Events;
use crate::metric::Metrics;
use crate::world;

/// A port that cannot be had is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// Tells what time it is.
pub type Clock = fn() -> SystemTime;

/// The authority that certificates are issued by now; None while there is none.
pub type InForce = watch::Receiver<Option<Arc<ca::Authority>>>;

/// Who is told how the authority is, and what it is told by.
#[expect(missing_debug_implementations, reason = "a client of the API server has none")]
pub struct Links {
    /// Client of the API server.
    pub client: Client,
    /// Counts.
    pub metrics: Metrics,
    /// Tells people.
    pub events: Events,
    /// Told how it is.
    pub told: watch::Sender<Option<world::Authority>>,
    /// What proxies report; None where this replica does not lead.
    pub reports: watch::Receiver<Option<reports::Reports>>,
}

/// Serves certificates at `address` until `stop`, by the authority in the Secret of `namespace`; while there is none that can be used, nobody is served.
pub async fn run(
    links: Links,
    (address, namespace): (SocketAddr, String),
    (clock, stop): (Clock, CancellationToken),
) {
    let Links { client, metrics, events, told, reports } = links;
    let (sender, in_force) = watch::channel(None);
    let store = store::Store::new(client.clone(), &namespace);
    let follower = follow::Follower::new(store, metrics.clone(), (told, sender));
    let issuer = Arc::new(issue::Issuer::new(client, in_force.clone(), (metrics.clone(), events), namespace));
    tokio::join!(
        follower.run(reports, (clock, stop.clone())),
        serve(address, (in_force, issuer), &metrics, (clock, stop))
    );
}

async fn serve(
    address: SocketAddr,
    (mut in_force, issuer): (InForce, Arc<issue::Issuer>),
    metrics: &Metrics,
    (clock, stop): (Clock, CancellationToken),
) {
    tokio::select! {
        () = stop.cancelled() => return,
        found = in_force.wait_for(Option::is_some) => if found.is_err() { return },
    }
    while !stop.is_cancelled() {
        let served = async {
            let listener = listen(address).await?;
            endpoint::serve(listener, (in_force.clone(), issuer.clone()), clock, stop.clone()).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        let Err(error) = served.await else { return };
        metrics.failed("authority");
        tracing::error!(error = chain(&*error), "certificates cannot be asked for");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// `[::]` takes IPv4 callers as well; a node without IPv6 has only `0.0.0.0`.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
    match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => TcpListener::bind(any).await,
        bound => bound,
    }
}

/// An error with what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
