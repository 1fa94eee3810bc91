//! Figures for scrapers, in the OpenMetrics text format; reads what others count, counts nothing itself.
//!
//! Labels are bounded: Services that were called (the engine bounds them) or connected to (the guard bounds them), directions, classes, reasons, sides, policies that were against calls (the engine bounds them), and at most
//! [`REFUSED_MAX`] names of refused documents.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;
use vicino_engine::account::Party;
use vicino_engine::reply::Reason;
use vicino_engine::tally::{ConnectionTally, PolicyName, Refusal, Tally};

use crate::config::freshness::Freshness;
use crate::config::gather::Edition;
use crate::denials;
use crate::guard::{Guarded, State};
use crate::identity;
use crate::lifecycle::Life;
use crate::witness::Sight;
use crate::witness::bindings::Count;

mod services;

/// Refused documents that are named; all are counted.
const REFUSED_MAX: usize = 20;

type NoLabels = [(&'static str, &'static str); 0];

/// Where the figures are read.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Phase and workers.
    pub life: Life,
    /// The configuration.
    pub editions: watch::Receiver<Arc<Edition>>,
    /// Its age.
    pub freshness: Freshness,
    /// Certificates, of the node and of others.
    pub identity: identity::Watch,
    /// Connections around the mesh.
    pub guard: watch::Receiver<Arc<Guarded>>,
    /// Links of own pods.
    pub sight: watch::Receiver<Arc<Sight>>,
}

impl Figures {
    /// All of them, as text.
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut out = String::new();
        text::encode(&mut out, &registry).expect("a String takes everything");
        out
    }

    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        out.family("build", "What runs", MetricType::Info, |family| {
            family.encode_info(&[("version", version)])
        })?;
        out.gauge("ready", "1 when the proxy may be sent calls", &u64::from(self.life.ready().is_ok()))?;
        out.gauge("workers", "Threads that turn", &self.life.crew().map_or(0, |crew| crew.len()))
    }

    fn identity(&self, out: &mut Out<'_>) -> fmt::Result {
        let certificates = self.identity.certificates.borrow().clone();
        out.gauge("certificates", "Certificates that the node has", &certificates.len())?;
        let is_refused = self.identity.roots_problem.borrow().is_some();
        let help = "1 when the roots that the node was given last cannot be used; those before stay in force";
        out.gauge("roots_refused", help, &u64::from(is_refused))?;
        if let Some(skew) = *self.identity.skew.borrow() {
            let help =
                "How far the authority's clock was ahead of this one when it last answered; negative: behind";
            out.gauge("authority_clock_skew_seconds", help, &skew)?;
        }
        let Some(expires) = identity::first_to_end(&certificates) else { return Ok(()) };
        let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        out.family(
            "certificate_expiration_timestamp_seconds",
            "When the first of them ends, in seconds since 1970",
            MetricType::Gauge,
            |f| f.encode_gauge(&expires),
        )
    }

    fn guard(&self, out: &mut Out<'_>) -> fmt::Result {
        let guard = self.guard.borrow().clone();
        let holds = matches!(guard.state, State::Holds { .. });
        out.gauge(
            "guarded",
            "1 when connections around the mesh to pods of this node are seen, and refused in Strict",
            &u64::from(holds),
        )?;
        let help = "Attempts to connect to own pods around the mesh; without a service: to ports that no Service has. A pod of several Services counts for each";
        out.family("plain_connections", help, MetricType::Counter, |family| {
            for (service, count) in &guard.counts {
                for (outcome, value) in [("passed", count.passed), ("refused", count.refused)] {
                    let labels = [
                        ("namespace", &*service.namespace),
                        ("service", &*service.name),
                        ("outcome", outcome),
                    ];
                    family.encode_family(&labels)?.encode_counter::<NoLabels, _, u64>(&value, None)?;
                }
            }
            Ok(())
        })
    }

    fn witness(&self, out: &mut Out<'_>) -> fmt::Result {
        let sight = self.sight.borrow().clone();
        let help = "Addresses of own pods: with the pod's link behind it (bound), where none is found (unseen), and whose pod has gone although the MeshNode has it there (doubted)";
        let Count { bound, unseen, doubted } = sight.count;
        out.family("pod_addresses", help, MetricType::Gauge, |family| {
            for (link, count) in [("bound", bound), ("unseen", unseen), ("doubted", doubted)] {
                family.encode_family(&[("link", link)])?.encode_gauge(&count)?;
            }
            Ok(())
        })?;
        out.counter(
            "pod_addresses_lost",
            "Times that a pod's link had gone from behind its address before the MeshNode said so",
            sight.lost,
        )
    }

    fn config(&self, out: &mut Out<'_>) -> fmt::Result {
        let edition = self.editions.borrow().clone();
        let age = self.freshness.age(Instant::now()).as_secs_f64();
        let served = self.life.crew().map_or(0, |crew| crew.served());
        out.family(
            "config_age_seconds",
            "How long a source of configuration has not been heard of",
            MetricType::Gauge,
            |f| f.encode_gauge(&age),
        )?;
        out.gauge("config_version", "Snapshots built since the start, as all workers serve them", &served)?;
        let routes = edition.snapshot.services.values().map(std::collections::HashMap::len).sum::<usize>();
        out.gauge("config_routes", "Compiled routes in force", &routes)?;
        out.gauge("config_neighbours", "Addresses of own pods", &edition.snapshot.neighbours.len())?;
        out.gauge(
            "config_endpoints_without_node",
            "Endpoints left out: their node is unknown",
            &edition.without_node,
        )?;
        out.gauge(
            "config_documents_refused",
            "Documents refused now; the last good ones stay",
            &edition.refused.len(),
        )?;
        out.counter("config_refusals", "Documents refused ever", edition.refusals)?;
        out.counter("config_unknown_fields", "Unknown fields met, each once", edition.unknown_fields)?;
        let help = "Documents refused now, by name";
        out.family("config_document_refused", help, MetricType::Gauge, |family| {
            for (place, _) in edition.refused.iter().take(REFUSED_MAX) {
                family.encode_family(&[("document", place.to_string())])?.encode_gauge(&1i64)?;
            }
            Ok(())
        })
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out { encoder };
        self.process(&mut out)?;
        self.config(&mut out)?;
        self.identity(&mut out)?;
        self.guard(&mut out)?;
        self.witness(&mut out)?;
        let Some(crew) = self.life.crew() else { return Ok(()) };
        connections(crew.tallies(), &mut out)?;
        calls(crew.tallies(), &mut out)?;
        denials(crew.tallies(), &mut out)?;
        services::encode(crew.tallies(), &mut out)
    }
}

fn connections(tallies: &[Arc<Tally>], out: &mut Out<'_>) -> fmt::Result {
    type Side = fn(&Tally) -> &ConnectionTally;
    type Figure = fn(&ConnectionTally) -> u64;
    let sides: [(&str, Side); 4] = [
        ("client", |t| &t.clients),
        ("pod", |t| &t.pods),
        ("hop_dialed", |t| &t.hops_dialed),
        ("hop_accepted", |t| &t.hops_accepted),
    ];
    let figures: [(&str, &str, MetricType, Figure); 5] = [
        ("connections", "Connections opened", MetricType::Counter, |c| c.opened.get()),
        ("connections_refused", "Not taken, or not made", MetricType::Counter, |c| c.refused.get()),
        ("received_bytes", "Bytes read", MetricType::Counter, |c| c.bytes_in.get()),
        ("sent_bytes", "Bytes written", MetricType::Counter, |c| c.bytes_out.get()),
        ("connections_open", "Connections open now", MetricType::Gauge, |c| c.open.get()),
    ];
    for (name, help, metric, figure) in figures {
        out.family(name, help, metric, |family| {
            for (side, of) in sides {
                let sum: u64 = tallies.iter().map(|tally| figure(of(tally))).sum();
                let labels = [("side", side)];
                let mut one = family.encode_family(&labels)?;
                match metric {
                    MetricType::Counter => one.encode_counter::<NoLabels, _, u64>(&sum, None)?,
                    _ => one.encode_gauge(&sum)?,
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn hops(tallies: &[Arc<Tally>], out: &mut Out<'_>) -> fmt::Result {
    out.family("hops_accepted", "Hops that stood, by who dialled", MetricType::Counter, |family| {
        for (index, word) in Party::WORDS.into_iter().enumerate() {
            let sum: u64 = tallies.iter().map(|tally| tally.hops_by_party[index].get()).sum();
            family.encode_family(&[("peer", word)])?.encode_counter::<NoLabels, _, u64>(&sum, None)?;
        }
        Ok(())
    })?;
    out.family("hops_refused", "Hops that did not come about here, by why", MetricType::Counter, |family| {
        for (index, word) in Refusal::WORDS.into_iter().enumerate() {
            let sum: u64 = tallies.iter().map(|tally| tally.hop_refusals[index].get()).sum();
            family.encode_family(&[("reason", word)])?.encode_counter::<NoLabels, _, u64>(&sum, None)?;
        }
        Ok(())
    })
}

fn calls(tallies: &[Arc<Tally>], out: &mut Out<'_>) -> fmt::Result {
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(|tally| of(tally)).sum::<u64>();
    hops(tallies, out)?;
    out.counter("streams", "Calls over hops", sum(|t| t.streams.get()))?;
    out.gauge("streams_open", "Calls over hops, open now", &sum(|t| t.streams_open.get()))?;
    out.counter("requeues", "Calls placed again at another endpoint", sum(|t| t.requeues.get()))?;
    out.counter("retries", "Calls repeated because an attempt failed", sum(|t| t.retries.get()))?;
    out.gauge(
        "queued",
        "Calls that wait for a pod, all of which are at their limit",
        &sum(|t| t.queued.get()),
    )?;
    out.counter(
        "late_bound",
        "Calls in line that went to another node because a pod was free there first",
        sum(|t| t.late_bound.get()),
    )?;
    out.counter("hedges", "Calls sent once more because their answer took long", sum(|t| t.hedges.get()))?;
    out.counter("hedges_won", "Of those, calls that were answered there first", sum(|t| t.hedges_won.get()))?;
    out.counter(
        "hedges_denied",
        "Calls not sent once more because their Service's hedge budget was spent",
        sum(|t| t.hedges_denied.get()),
    )?;
    out.counter("mirrored", "Calls of which a copy was sent to a mirror", sum(|t| t.mirrored.get()))?;
    out.counter(
        "mirrors_skipped",
        "Calls that were not copied to their mirror: too many copies were open, or the call was too large",
        sum(|t| t.mirrors_skipped.get()),
    )?;
    out.counter(
        "retries_denied",
        "Calls not repeated because their Service's retry budget was spent",
        sum(|t| t.retries_denied.get()),
    )?;
    out.counter(
        "ejections",
        "Pods left out for a while because their calls failed",
        sum(|t| t.ejections.get()),
    )?;
    out.counter(
        "policy_audits",
        "Calls that policies in audit would have decided otherwise",
        sum(|t| t.policy_audits.get()),
    )?;
    out.counter(
        "stale_retries",
        "Calls placed again: an idle connection had died",
        sum(|t| t.stale_retries.get()),
    )?;
    out.gauge("held", "Callers waiting to be known", &sum(|t| t.held.get()))?;
    out.gauge("buffered_bytes", "Bytes in buffers", &sum(|t| t.buffered.get()))?;
    out.family("replies", "Answers of the proxy itself", MetricType::Counter, |family| {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            let sum: u64 = tallies.iter().map(|tally| tally.replies[index].get()).sum();
            let labels = [("reason", reason.word())];
            family.encode_family(&labels)?.encode_counter::<NoLabels, _, u64>(&sum, None)?;
        }
        Ok(())
    })
}

fn denials(tallies: &[Arc<Tally>], out: &mut Out<'_>) -> fmt::Result {
    let help = "Calls that a MeshPolicy, or the mesh's default, was against: refused, or in audit let pass; policies beyond 500 under `other`";
    out.family("policy_denied", help, MetricType::Counter, |family| {
        for (PolicyName { namespace, name }, count) in denials::sum(tallies) {
            let policy = if namespace.is_empty() { name.to_string() } else { format!("{namespace}/{name}") };
            for (mode, value) in [("Enforce", count.denied), ("Audit", count.audited)] {
                let labels = [("policy", &*policy), ("mode", mode)];
                counter(family, &labels, value)?;
            }
        }
        Ok(())
    })
}

/// The encoder with this program's prefix.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        metric: MetricType,
        values: impl FnOnce(&mut MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        let name = format!("vicino_proxy_{name}");
        values(&mut self.encoder.encode_descriptor(&name, help, None, metric)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |family| family.encode_gauge(value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |family| {
            family.encode_counter::<NoLabels, _, u64>(&value, None)
        })
    }
}

fn counter(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabels, _, u64>(&value, None)
}
