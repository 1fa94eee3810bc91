//! Asks DNS where names outside the mesh lead, for all workers, on control's runtime: a worker never waits for an answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use vicino_engine::Unresolved;

use super::post::Post;
use crate::log::chain;

/// Questions that may wait to be asked; workers fail more at once.
pub const WAITING_MAX: usize = 1024;
/// Questions that are asked at a time.
const IN_FLIGHT_MAX: usize = 256;
/// How long one name may take, with all attempts.
const NAME_MAX: Duration = Duration::from_secs(5);
/// How long all names of a question may take, with the time that it waited.
const QUESTION_MAX: Duration = Duration::from_secs(10);
/// How long one attempt may take, whatever resolv.conf says, so that there is time for another.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// An answer is kept no longer than this, whatever it says.
const KEPT_MAX: Duration = Duration::from_mins(1);
/// That a name is not there is kept no longer than this.
const KEPT_ABSENT_MAX: Duration = Duration::from_secs(5);

/// Addresses in the order in which to try, and for how long they are good.
pub(super) type Found = Result<(Vec<IpAddr>, Duration), Unresolved>;

/// A worker's question. However it ends, the worker gets an answer: one that nobody looked into has failed.
#[derive(Debug)]
pub struct Question {
    names: Arc<[Box<str>]>,
    asked: Instant,
    found: Found,
    to: Post,
}

impl Question {
    /// Where the first of these names leads that has addresses; each ends with a dot.
    pub(super) fn new(names: Arc<[Box<str>]>, to: Post) -> Self {
        Self { names, asked: Instant::now(), found: Err(Unresolved::Failed), to }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let found = std::mem::replace(&mut self.found, Err(Unresolved::Failed));
        let answer = (self.names.clone(), found);
        self.to.order(|orders| orders.resolved.push(answer));
    }
}

/// Answers until nobody asks any more, by these servers, or by those of resolv.conf as it is now.
pub async fn answer(mut questions: mpsc::Receiver<Question>, servers: Vec<SocketAddr>) {
    let resolver = match resolver(&servers) {
        Ok(resolver) => resolver,
        Err(e) => {
            tracing::warn!(error = %chain(&e), "no DNS server known: no name outside the mesh can be called");
            while questions.recv().await.is_some() {}
            return;
        }
    };
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut asked = JoinSet::new();
    while let Ok(permit) = room.clone().acquire_owned().await {
        let Some(mut question) = questions.recv().await else { break };
        while asked.try_join_next().is_some() {}
        let resolver = resolver.clone();
        asked.spawn(async move {
            let deadline = question.asked + QUESTION_MAX;
            if let Ok(found) = timeout_at(deadline, first(&resolver, &question.names)).await {
                question.found = found;
            }
            drop(question);
            drop(permit);
        });
    }
    while asked.join_next().await.is_some() {}
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let with_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(with_port).into();
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // The hosts file is the node's: a pod that asked DNS itself would not get what it says.
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(ATTEMPT_MAX);
    options.max_active_requests = options.max_active_requests.max(2 * IN_FLIGHT_MAX);
    options.positive_max_ttl = Some(KEPT_MAX);
    options.negative_max_ttl = Some(KEPT_ABSENT_MAX);
    builder.build()
}

/// One after the other. A name that nobody says is there or not ends it: what comes after might be another host.
async fn first(resolver: &TokioResolver, names: &[Box<str>]) -> Found {
    for name in names {
        match one(resolver, name).await {
            Err(Unresolved::NoSuchName) => {}
            found => return found,
        }
    }
    Err(Unresolved::NoSuchName)
}

/// IPv4 addresses come first. When one family is not answered, those of the other are taken.
async fn one(resolver: &TokioResolver, name: &str) -> Found {
    let name = Name::from_ascii(name).map_err(|_no_name| Unresolved::Failed)?;
    let four = timeout(NAME_MAX, resolver.ipv4_lookup(name.clone()));
    let six = timeout(NAME_MAX, resolver.ipv6_lookup(name));
    let (four, six) = join(four, six).await;
    let (mut addresses, mut kept, mut is_certain) = (Vec::new(), KEPT_MAX, true);
    for found in [four, six] {
        match found {
            Ok(Ok(lookup)) => {
                let before = addresses.len();
                addresses.extend(lookup.answers().iter().filter_map(|record| address(&record.data)));
                if addresses.len() > before {
                    kept = kept.min(left(&lookup));
                }
            }
            Ok(Err(e)) if e.is_no_records_found() => {}
            Ok(Err(_)) | Err(_) => is_certain = false,
        }
    }
    match (addresses.is_empty(), is_certain) {
        (false, _) => Ok((addresses, kept)),
        (true, true) => Err(Unresolved::NoSuchName),
        (true, false) => Err(Unresolved::Failed),
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(four) => Some(IpAddr::V4(four.0)),
        RData::AAAA(six) => Some(IpAddr::V6(six.0)),
        _ => None,
    }
}

fn left(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now().into_std())
}

#[cfg(test)]
mod tests;
