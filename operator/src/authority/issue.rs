//! One request for certificates, from token to answer: asks the API server for the facts, lets [`judge`] decide, counts and tells what was refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use vicino_crds::identity::{
    AUDIENCE, CertificateRequest, Identity, IssueAnswer, IssuedCertificate, REQUESTS_MAX, RefusedCertificate,
    Subject,
};
use vicino_crds::{ServiceMesh, names};

use super::InForce;
use super::ca::IssueError;
use super::judge::{self, Caller, Refusal, Residents};
use super::store::SECRET;
use crate::apply::answer;
use crate::event::{Events, Notice};
use crate::metric::Metrics;

/// A request to the API server that takes longer is given up.
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// Certificates that a node may have. Each replica counts by itself.
const CERTIFICATES: Quota = Quota { burst: 2 * REQUESTS_MAX as u32, refill: Duration::from_millis(100) };
/// Tokens of one address that the API server is asked about: a proxy shows one for all that it wants at a time, and anybody may show any.
const REVIEWS: Quota = Quota { burst: 20, refill: Duration::from_millis(500) };
/// Tokens that the API server is asked about at one time; more wait.
const REVIEWS_AT_ONCE: usize = 16;
/// Nodes, or addresses, that are counted; those that have asked for nothing lately are forgotten before.
const QUOTAS_MAX: usize = 10_000;
/// Between two times that it is told of unknown ones who were refused for the same reason.
const STRANGERS_EVERY: Duration = Duration::from_secs(10);

/// Answers requests for certificates.
#[expect(missing_debug_implementations, reason = "a client of the API server has none")]
pub struct Issuer {
    client: Client,
    authority: InForce,
    metrics: Metrics,
    events: Events,
    /// Of the Secret with the authority.
    namespace: String,
    /// Of nodes.
    certificates: Mutex<Quotas<String>>,
    /// Of addresses.
    reviews: Mutex<Quotas<IpAddr>>,
    reviewing: Semaphore,
    /// When it was last told of somebody unknown who was refused, by the refusal's word.
    strangers: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Issuer {
    /// One that asks the API server through `client`; `namespace` is that of the Secret with the authority.
    pub fn new(
        client: Client,
        authority: InForce,
        (metrics, events): (Metrics, Events),
        namespace: String,
    ) -> Self {
        Self {
            client,
            authority,
            metrics,
            events,
            namespace,
            certificates: Mutex::new(Quotas::new(CERTIFICATES)),
            reviews: Mutex::new(Quotas::new(REVIEWS)),
            reviewing: Semaphore::new(REVIEWS_AT_ONCE),
            strangers: Mutex::default(),
        }
    }

    /// The proxy that shows this token, from `peer`.
    pub async fn caller(&self, token: Option<&str>, peer: IpAddr) -> Result<Caller, Refusal> {
        let caller = match token {
            Some(token) if !judge::is_token(token) => Err(Refusal::BadToken),
            Some(_) if !take(&self.reviews, peer.to_canonical(), 1) => Err(Refusal::TooMany),
            Some(token) => self.reviewed(token).await,
            None => Err(Refusal::BadToken),
        };
        if let Err(refusal) = &caller {
            self.refuse_unknown(peer, *refusal);
        }
        caller
    }

    /// Counts that somebody is refused of whom no more is known than the address, and now and then tells it, too: anybody can make this
    /// happen as often as they like. The event is one on the authority's Secret.
    pub fn refuse_unknown(&self, peer: IpAddr, refusal: Refusal) {
        self.metrics.refused(refusal.word());
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, last) = (Instant::now(), strangers.get(refusal.word()));
        if last.is_some_and(|last| now.duration_since(*last) < STRANGERS_EVERY) {
            return;
        }
        strangers.insert(refusal.word(), now);
        drop(strangers);
        let peer = peer.to_canonical();
        tracing::warn!(%peer, reason = refusal.word(), "no certificate");
        let secret = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(SECRET.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        };
        self.tell(secret, refusal, &format!("{} (asked from {peer})", refusal.text()));
    }

    /// Counts and tells that a proxy is refused. The event is one on its pod.
    pub fn refuse(&self, caller: &Caller, refusal: Refusal, note: &str) {
        self.metrics.refused(refusal.word());
        tracing::warn!(node = caller.node, pod = caller.pod, reason = refusal.word(), note, "no certificate");
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(caller.pod.clone()),
            namespace: Some(names::PROXY_NAMESPACE.to_owned()),
            uid: Some(caller.pod_uid.clone()),
            ..ObjectReference::default()
        };
        self.tell(pod, refusal, note);
    }

    /// By an event, which is counted elsewhere.
    fn tell(&self, regarding: ObjectReference, refusal: Refusal, note: &str) {
        let word = refusal.word();
        self.events.tell(Notice {
            regarding,
            warning: true,
            reason: "CertificateRefused".to_owned(),
            action: word,
            note: format!("{word}: {note}"),
        });
    }

    /// What a proxy gets; what it does not get is part of the answer, unless it is nothing at all.
    pub async fn answer(
        &self,
        caller: &Caller,
        asked: &[CertificateRequest],
        now: SystemTime,
    ) -> Result<IssueAnswer, Refusal> {
        let told = self.issue(caller, asked, now).await;
        match &told {
            Ok(answer) => self.metrics.issued(answer.certificates.len()),
            Err(refusal) => self.refuse(caller, *refusal, refusal.text()),
        }
        told
    }

    async fn issue(
        &self,
        caller: &Caller,
        asked: &[CertificateRequest],
        now: SystemTime,
    ) -> Result<IssueAnswer, Refusal> {
        let mesh = self.found(Api::<ServiceMesh>::all(self.client.clone()).get_opt(&caller.mesh)).await?;
        let mesh = mesh.ok_or(Refusal::NoSuchMesh)?;
        let identities: Vec<_> =
            asked.iter().map(|one| judge::identity(&one.identity, mesh.spec.trust_domain())).collect();
        let proxies: Api<Pod> = Api::namespaced(self.client.clone(), names::PROXY_NAMESPACE);
        let pod = self.found(proxies.get_opt(&caller.pod)).await?;
        judge::check_pod(caller, pod.as_ref())?;
        if !take(&self.certificates, caller.node.clone(), asked.len()) {
            return Err(Refusal::TooMany);
        }
        let is_workload = |of: &Result<Identity, _>| {
            of.as_ref().is_ok_and(|of| matches!(of.subject(), Subject::Workload { .. }))
        };
        let residents = if identities.iter().any(is_workload) {
            self.residents(&caller.node).await?
        } else {
            Residents::default()
        };
        let lifetime = mesh.spec.identity.lifetime();
        let authority = self.authority.borrow().clone().ok_or(Refusal::Unavailable)?;
        let mut answer = IssueAnswer::default();
        for (one, identity) in asked.iter().zip(identities) {
            let issued = identity.and_then(|identity| {
                judge::check_identity(caller, &identity, &residents)?;
                authority.issue(&one.csr, &identity, (lifetime, now)).map_err(|error| match error {
                    IssueError::BadRequest | IssueError::BadKey => Refusal::BadRequest,
                    IssueError::Expired | IssueError::Internal => {
                        tracing::error!(%error, "the authority cannot issue");
                        Refusal::Unavailable
                    }
                })
            });
            let identity = one.identity.clone();
            match issued {
                Ok(issued) => answer.certificates.push(IssuedCertificate {
                    identity,
                    chain: issued.chain,
                    expires: issued.expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                }),
                Err(refusal) => {
                    self.refuse(caller, refusal, &format!("{identity}: {}", refusal.text()));
                    answer.refused.push(RefusedCertificate {
                        identity,
                        reason: refusal.word().to_owned(),
                        message: refusal.text().to_owned(),
                    });
                }
            }
        }
        Ok(answer)
    }

    async fn reviewed(&self, token: &str) -> Result<Caller, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = async {
            let _place = self.reviewing.acquire().await.expect("nobody closes it");
            api.create(&PostParams::default(), &review).await
        };
        let review = self.found(asked).await?;
        judge::caller(&review.status.unwrap_or_default())
    }

    async fn residents(&self, node: &str) -> Result<Residents, Refusal> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let on_it = ListParams::default().fields(&format!("spec.nodeName={node}"));
        Ok(Residents::of(node, &self.found(pods.list(&on_it)).await?.items))
    }

    /// What the API server says, within a time; the log says why it does not.
    async fn found<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
        match timeout(API_TIMEOUT, asked).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                self.metrics.failed("authority");
                tracing::warn!(
                    error = answer(&error),
                    "the API server does not tell who may have a certificate"
                );
                Err(Refusal::Unavailable)
            }
            Err(_) => {
                self.metrics.failed("authority");
                tracing::warn!("the API server does not tell in time who may have a certificate");
                Err(Refusal::Unavailable)
            }
        }
    }
}

/// Whether somebody has so much left; a request for nothing is one, too.
fn take<K: Ord>(quotas: &Mutex<Quotas<K>>, who: K, count: usize) -> bool {
    let mut quotas = quotas.lock().unwrap_or_else(PoisonError::into_inner);
    quotas.take(who, u32::try_from(count).unwrap_or(u32::MAX).max(1), Instant::now())
}

/// So many at once, and one more after each `refill`.
#[derive(Clone, Copy, Debug)]
struct Quota {
    burst: u32,
    refill: Duration,
}

/// How much each has had lately: the time at which all of its quota is back.
#[derive(Debug)]
struct Quotas<K> {
    quota: Quota,
    full: BTreeMap<K, Instant>,
}

impl<K: Ord> Quotas<K> {
    fn new(quota: Quota) -> Self {
        Self { quota, full: BTreeMap::new() }
    }

    /// Takes `count` from somebody's quota, or nothing when there is less (GCRA).
    fn take(&mut self, who: K, count: u32, now: Instant) -> bool {
        let Quota { burst, refill } = self.quota;
        if self.full.len() >= QUOTAS_MAX && !self.full.contains_key(&who) {
            self.full.retain(|_, full| *full > now);
            if self.full.len() >= QUOTAS_MAX {
                return false;
            }
        }
        let full = self.full.get(&who).copied().unwrap_or(now).max(now);
        let Some(then) = refill.checked_mul(count).map(|cost| full + cost) else { return false };
        let is_within = then.saturating_duration_since(now) <= refill * burst;
        if is_within {
            self.full.insert(who, then);
        }
        is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_quota_that_comes_back_and_is_its_own() {
        let Quota { burst, refill } = CERTIFICATES;
        let (mut quotas, now) = (Quotas::new(CERTIFICATES), Instant::now());
        assert!(quotas.take("a", burst - 1, now));
        assert!(!quotas.take("a", 2, now), "one is left");
        assert!(quotas.take("a", 1, now));
        assert!(!quotas.take("a", 1, now));
        assert!(quotas.take("b", 1, now));
        assert!(!quotas.take("a", 1, now + refill / 2));
        assert!(quotas.take("a", 10, now + refill * 10));
        assert!(!quotas.take("c", u32::MAX, now));
        assert!(!quotas.take("d", burst + 1, now));
    }

    #[test]
    fn who_asks_for_nothing_has_asked() {
        let quotas = Mutex::new(Quotas::new(Quota { burst: 1, refill: Duration::from_hours(1) }));
        assert!(take(&quotas, "a", 0));
        assert!(!take(&quotas, "a", 0));
    }

    #[test]
    fn those_that_have_all_of_it_again_are_forgotten() {
        let (mut quotas, now) = (Quotas::new(CERTIFICATES), Instant::now());
        for i in 0..QUOTAS_MAX {
            assert!(quotas.take(i, 1, now));
        }
        assert!(!quotas.take(QUOTAS_MAX, 1, now));
        assert!(quotas.take(7, 1, now), "those that are known go on");
        assert!(quotas.take(QUOTAS_MAX, 1, now + CERTIFICATES.refill * 3));
        assert_eq!(quotas.full.len(), 1);
    }
}
