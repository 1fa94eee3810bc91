//! The operator's metrics; every label has a bounded set of values. Knows nothing of where they are served.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// Of a family with one member at most.
type NoLabels = [(&'static str, &'static str); 0];

/// Handles of all metrics; clones count in the same place.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Counter,
    reconcile_seconds: Histogram,
    writes: Family<WriteLabels, Counter>,
    errors: Family<StepLabels, Counter>,
    leader: Gauge,
    objects: Family<KindLabels, Gauge>,
    events_dropped: Counter,
    certificates_issued: Counter,
    certificates_refused: Family<ReasonLabels, Counter>,
    /// A family, so that nothing is told before there is an authority.
    authority_expiration: Family<NoLabels, Gauge>,
}

/// What is encoded for a scraper.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Metrics {
    /// New metrics, and the registry that encodes them.
    pub fn new() -> (Self, Exposition) {
        let metrics = Self {
            reconciles: Counter::default(),
            reconcile_seconds: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
            writes: Family::default(),
            errors: Family::default(),
            leader: Gauge::default(),
            objects: Family::default(),
            events_dropped: Counter::default(),
            certificates_issued: Counter::default(),
            certificates_refused: Family::default(),
            authority_expiration: Family::default(),
        };
        let mut registry = Registry::with_prefix("vicino_operator");
        registry.register("reconciles", "Passes of the pipeline", metrics.reconciles.clone());
        registry.register_with_unit(
            "reconcile",
            "Duration of a pass, writes included",
            Unit::Seconds,
            metrics.reconcile_seconds.clone(),
        );
        registry.register(
            "writes",
            "Requests that change something, failed ones included",
            metrics.writes.clone(),
        );
        registry.register("errors", "Failures by step of the pipeline", metrics.errors.clone());
        registry.register("leader", "1 while this process holds the lease", metrics.leader.clone());
        registry.register("objects", "Objects in the World", metrics.objects.clone());
        registry.register(
            "events_dropped",
            "Events not sent, to spare the API server",
            metrics.events_dropped.clone(),
        );
        registry.register(
            "certificates_issued",
            "Certificates that proxies were given",
            metrics.certificates_issued.clone(),
        );
        registry.register(
            "certificates_refused",
            "Certificates, or whole requests for some, that were refused",
            metrics.certificates_refused.clone(),
        );
        registry.register_with_unit(
            "authority_expiration_timestamp",
            "When the authority in force, or one that it is signed by, ends, in seconds since 1970",
            Unit::Seconds,
            metrics.authority_expiration.clone(),
        );
        (metrics, Exposition(registry))
    }

    /// A pass took this long.
    pub fn reconciled(&self, took: Duration) {
        self.reconciles.inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A write was sent.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, verb }).inc();
    }

    /// A step failed.
    pub fn failed(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabels { step }).inc();
    }

    /// Whether this process leads.
    pub fn lead(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many objects of a kind there are.
    pub fn hold(&self, kind: &'static str, count: usize) {
        self.objects.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Certificates were issued.
    pub fn issued(&self, count: usize) {
        self.certificates_issued.inc_by(count as u64);
    }

    /// A certificate, or a request for some, was refused, for one of the reasons of [`crate::authority::judge::Refusal`].
    pub fn refused(&self, reason: &str) {
        self.certificates_refused.get_or_create(&ReasonLabels { reason: reason.to_owned() }).inc();
    }

    /// Certificates are issued by an authority that ends then.
    pub fn authority_ends(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.authority_expiration.get_or_create(&[]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// An event was not sent.
    pub fn drop_event(&self) {
        self.events_dropped.inc();
    }
}

impl Exposition {
    /// The OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("writing to a String cannot fail");
        text
    }
}
