//! One leader among the replicas, by a Lease, as client-go does it: expiry is judged by what this process has observed, never by comparing clocks of two machines.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
pub const NAME: &str = "vicino-operator";
/// A Lease that was not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long has lost it; below [`DURATION`], so that two never lead.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two attempts, to get it or to renew it.
const RETRY: Duration = Duration::from_secs(2);
/// One request takes at most this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a process that led does not any more.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Renewing failed for too long.
    #[error("the lease could not be renewed for {} s", RENEW_DEADLINE.as_secs())]
    NotRenewed,
    /// Somebody else has it.
    #[error("the lease was taken by {0:?}")]
    Taken(String),
}

/// A candidate for the Lease, and its holder once [`Candidate::acquire`] has returned true.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    clock: fn() -> Timestamp,
    observed: Option<(LeaseSpec, Instant)>,
    version: Option<String>,
}

impl Candidate {
    /// A candidate called `identity`, which must be unique among the replicas.
    pub fn new(client: Client, namespace: &str, identity: String, clock: fn() -> Timestamp) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, clock, observed: None, version: None }
    }

    /// Waits until this candidate holds the Lease; false when `stop` came first.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            match timeout(REQUEST_TIMEOUT, self.attempt()).await {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot ask for the lease; trying again"),
                Err(_) => tracing::warn!("no answer about the lease; trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Renews until `stop`; an error means that this process must not write any more.
    pub async fn hold(&mut self, stop: &CancellationToken) -> Result<(), LeaseError> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(RETRY) => {}
            }
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed()).min(REQUEST_TIMEOUT);
            let began = Instant::now();
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = began,
                Ok(Ok(false)) => return Err(LeaseError::Taken(self.holder())),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease; trying again"),
                Err(_) => tracing::warn!("no answer about the lease; trying again"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return Err(LeaseError::NotRenewed);
            }
        }
    }

    /// Gives the Lease up, so that another replica need not wait for it to expire.
    pub async fn release(mut self) {
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..self.wanted()
        };
        match timeout(REQUEST_TIMEOUT, self.replace(spec)).await {
            Ok(Ok(())) => tracing::info!("released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot release the lease; it expires"),
            Err(_) => tracing::warn!("no answer about the lease; it expires"),
        }
    }

    fn holder(&self) -> String {
        self.observed.as_ref().and_then(|(spec, _)| spec.holder_identity.clone()).unwrap_or_default()
    }

    /// One attempt to get or renew it: true when it is held afterwards.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(live) = self.api.get_opt(NAME).await? else {
            let lease = lease(self.wanted(), None);
            let made = self.api.create(&PostParams::default(), &lease).await;
            return self.answered(made);
        };
        self.version.clone_from(&live.metadata.resource_version);
        let spec = live.spec.unwrap_or_default();
        let now = Instant::now();
        if self.observed.as_ref().is_none_or(|(old, _)| *old != spec) {
            self.observed = Some((spec.clone(), now));
        }
        let since = self.observed.as_ref().map_or(now, |(_, since)| *since);
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let expired = now >= since + seconds.map_or(DURATION, Duration::from_secs);
        if holder != self.identity && !holder.is_empty() && !expired {
            return Ok(false);
        }
        let wanted = self.wanted();
        let lease = lease(wanted, self.version.clone());
        let replaced = self.api.replace(NAME, &PostParams::default(), &lease).await;
        self.answered(replaced)
    }

    /// A conflict means that somebody else was faster.
    fn answered(&mut self, answer: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match answer {
            Ok(lease) => {
                self.version = lease.metadata.resource_version;
                self.observed = lease.spec.map(|spec| (spec, Instant::now()));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 && self.holder() != self.identity => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(&mut self, spec: LeaseSpec) -> Result<(), kube::Error> {
        let lease = lease(spec, self.version.clone());
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
    }

    fn wanted(&self) -> LeaseSpec {
        let now = MicroTime((self.clock)());
        let old = self.observed.as_ref().map(|(spec, _)| spec);
        let mine = old.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: mine.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(mine.is_none() && old.is_some())),
            ..LeaseSpec::default()
        }
    }
}

/// The Lease at `version`, which is what it must still be at when it is replaced.
fn lease(spec: LeaseSpec, version: Option<String>) -> Lease {
    let metadata =
        ObjectMeta { name: Some(NAME.to_owned()), resource_version: version, ..ObjectMeta::default() };
    Lease { metadata, spec: Some(spec) }
}
