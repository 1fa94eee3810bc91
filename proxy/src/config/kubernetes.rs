//! The API as a source: watches → changes, complete lists only when a list is complete; an outage changes nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, watcher};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use vicino_crds::{MeshNode, MeshNodeStatus, names};

use super::bundle::{BundleKind, RawBundle};
use super::freshness::Freshness;
use super::inputs::{Identity, Part};
use super::{Change, OwnNode, Slice, SliceKey};
use crate::log::chain;

/// The server ends a watch after this long and it is taken up anew, so that a connection that died silently is noticed.
const WATCH_SECONDS: u32 = 50;
/// A response that stays silent longer than this is given up; a watch never is, see [`WATCH_SECONDS`].
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// For a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Where changes go.
#[derive(Clone, Debug)]
pub struct Source {
    /// Who this proxy is.
    pub identity: Identity,
    /// Namespace of the ConfigMaps.
    pub namespace: String,
    /// To the gatherer.
    pub changes: mpsc::Sender<Change>,
    /// To the metrics.
    pub freshness: Freshness,
}

/// The own MeshNode as the API last showed it, for the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its `metadata.resourceVersion`; empty while there is no such object.
    pub resource_version: String,
    /// Its status.
    pub status: Option<MeshNodeStatus>,
}

impl Seen {
    /// An object of the API.
    pub fn of(node: &MeshNode) -> Self {
        let resource_version = node.metadata.resource_version.clone().unwrap_or_default();
        Self { resource_version, status: node.status.clone() }
    }
}

/// A client with every wait bounded.
pub async fn client() -> Result<Client, kube::Error> {
    let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config)
}

/// Follows routes, policies, egress and nodes until the gatherer is gone.
pub async fn follow_config_maps(client: Client, source: Source) {
    let mesh = &source.identity.mesh;
    let selector = format!(
        "{}={mesh},{} in ({},{},{},{})",
        names::LABEL_MESH,
        names::LABEL_CONFIG,
        names::CONFIG_ROUTES,
        names::CONFIG_POLICIES,
        names::CONFIG_EGRESS,
        names::CONFIG_NODES
    );
    let api = Api::<ConfigMap>::namespaced(client, &source.namespace);
    let sink = Sink {
        part: Part::Bundles,
        trim: |map: ConfigMap| raw_bundle(map),
        one: |raw| Some(Change::Bundle(raw)),
        gone: |map: ConfigMap| Some(Change::BundleGone(Arc::from(map.metadata.name.unwrap_or_default()))),
        all: |all| Some(Change::AllBundles(all)),
    };
    follow(api, Config::default().labels(&selector), &source, sink).await;
}

/// Follows EndpointSlices of the whole cluster until the gatherer is gone.
pub async fn follow_slices(client: Client, source: Source) {
    let sink = Sink {
        part: Part::Slices,
        trim: |slice: EndpointSlice| Some(Slice::trim(&slice)),
        one: |slice| Some(Change::Slice(slice)),
        gone: |slice: EndpointSlice| Some(Change::SliceGone(SliceKey::of(&slice))),
        all: |all| Some(Change::AllSlices(all)),
    };
    follow(Api::<EndpointSlice>::all(client), Config::default(), &source, sink).await;
}

/// Follows the own MeshNode until the gatherer is gone; what the API shows of it goes to `seen` as well.
pub async fn follow_mesh_node(client: Client, source: Source, seen: watch::Sender<Seen>) {
    let fields = format!("metadata.name={}", source.identity.node);
    let see = |seen_now: Seen| {
        seen.send_if_modified(|before| {
            let news = *before != seen_now;
            *before = seen_now;
            news
        });
    };
    let sink = Sink {
        part: Part::MeshNode,
        trim: Some::<MeshNode>,
        one: |node: MeshNode| {
            see(Seen::of(&node));
            Some(own(node))
        },
        gone: |_: MeshNode| {
            see(Seen::default());
            None
        },
        all: |all: Vec<MeshNode>| {
            let node = all.into_iter().next();
            see(node.as_ref().map(Seen::of).unwrap_or_default());
            node.map(own)
        },
    };
    follow(Api::<MeshNode>::all(client), Config::default().fields(&fields), &source, sink).await;
}

fn own(node: MeshNode) -> Change {
    Change::MeshNode(OwnNode { generation: node.metadata.generation.unwrap_or(0), spec: node.spec })
}

/// A ConfigMap of ours; `None`, which is logged, for one whose labels don't say what it holds.
fn raw_bundle(map: ConfigMap) -> Option<RawBundle> {
    let name: Arc<str> = Arc::from(map.metadata.name.as_deref().unwrap_or_default());
    let bundle = understood(map, &name);
    if bundle.is_none() {
        tracing::warn!(document = %name, "ConfigMap ignored: its labels don't say what it holds");
    }
    bundle
}

fn understood(map: ConfigMap, name: &Arc<str>) -> Option<RawBundle> {
    let labels = map.metadata.labels.unwrap_or_default();
    let kind = match labels.get(names::LABEL_CONFIG).map(String::as_str) {
        Some(names::CONFIG_NODES) => BundleKind::Nodes,
        Some(names::CONFIG_EGRESS) => BundleKind::Egress,
        Some(names::CONFIG_ROUTES) => {
            BundleKind::Routes { namespace: Arc::from(labels.get(names::LABEL_ROUTES_NAMESPACE)?.as_str()) }
        }
        Some(names::CONFIG_POLICIES) => {
            let namespace = labels.get(names::LABEL_POLICIES_NAMESPACE)?;
            BundleKind::Policies { namespace: Arc::from(namespace.as_str()) }
        }
        _ => return None,
    };
    Some(RawBundle {
        name: name.clone(),
        kind,
        data: map.data.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
    })
}

/// What becomes of a watch's events: `trim` on arrival, then a change for one object, a deletion, a complete list.
struct Sink<T, O, G, A> {
    part: Part,
    trim: T,
    one: O,
    gone: G,
    all: A,
}

async fn follow<K, X>(
    api: Api<K>,
    config: Config,
    source: &Source,
    mut sink: Sink<
        impl FnMut(K) -> Option<X>,
        impl FnMut(X) -> Option<Change>,
        impl FnMut(K) -> Option<Change>,
        impl FnMut(Vec<X>) -> Option<Change>,
    >,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(api, config.timeout(WATCH_SECONDS)).backoff(Pauses::default());
    pin_mut!(events);
    let mut list = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = source.changes.closed() => return,
        };
        let change = match event {
            Some(Ok(event)) => {
                if !matches!(event, Event::Init | Event::InitApply(_)) {
                    source.freshness.heard(sink.part);
                }
                match event {
                    Event::Init => {
                        list.clear();
                        None
                    }
                    Event::InitApply(object) => {
                        list.extend((sink.trim)(object));
                        None
                    }
                    Event::InitDone => (sink.all)(std::mem::take(&mut list)),
                    Event::Apply(object) => (sink.trim)(object).and_then(&mut sink.one),
                    Event::Delete(object) => (sink.gone)(object),
                }
            }
            Some(Err(e)) => {
                source.freshness.failed(sink.part, Instant::now());
                tracing::warn!(part = sink.part.name(), error = %chain(&e), "watch failed; what was read stays");
                None
            }
            None => return,
        };
        if let Some(change) = change
            && source.changes.send(change).await.is_err()
        {
            return;
        }
    }
}

/// The runtime's own pauses, but never longer than [`PAUSE_MAX`], since calls depend on what is missed meanwhile.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(PAUSE_MAX))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}
