//! The cluster → changes of the World: one watch for each kind, objects trimmed on arrival, a bounded queue to one owner.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vicino_crds::names;

use crate::metric::Metrics;
use crate::world::{Change, Kind, Settings, Step, World, trim};

mod pause;
mod snapshot;

pub use snapshot::{SnapshotError, snapshot};

/// Changes that wait for the owner of the World; watches wait when it is full.
pub const QUEUE: usize = 1024;
/// Objects of one page of a listing: with pods of 20 KiB a page is 5 MiB, which bounds the peak while listing.
const PAGE: u32 = 250;
/// Seconds after which the API server ends a watch and it is resumed.
const WATCH_SECONDS: u32 = 120;
/// How long it takes at most until a kind that has been installed just now is noticed.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(10);
/// The client's limit for silence on a connection: above [`WATCH_SECONDS`], so that only a dead connection meets it.
pub const SILENCE_MAX: Duration = Duration::from_secs(150);

/// Which objects of a kind are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which<'a> {
    All,
    /// Those with these labels.
    Labelled(&'a str),
    /// All; a cluster may not have the kind, which is as if there were no object of it.
    IfThere,
}

impl<'a> Which<'a> {
    fn labels(self) -> Option<&'a str> {
        if let Which::Labelled(labels) = self { Some(labels) } else { None }
    }
}

/// Something that is done with each kind that the pipeline looks at.
trait Visit {
    /// `read` says what an object stands for; `wrap` to which table that goes.
    fn kind<K, T>(
        &mut self,
        api: Api<K>,
        which: Which<'_>,
        read: fn(K) -> Step<T>,
        wrap: impl Fn(Step<T>) -> Change + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static;
}

/// Every kind that the pipeline looks at. What it generates is found by label, in the namespace where it is.
fn visit(client: &Client, visitor: &mut impl Visit) {
    let all = || client.clone();
    let resource = |kind: &str, plural: &str| {
        let gvk = GroupVersionKind::gvk(names::GROUP, names::VERSION, kind);
        Api::<DynamicObject>::all_with(all(), &ApiResource::from_gvk_with_plural(&gvk, plural))
    };
    visitor.kind(
        resource("ServiceMesh", "servicemeshes"),
        Which::All,
        |o| put(&o, trim::mesh(&o)),
        Change::Mesh,
    );
    visitor.kind(
        resource("MeshRoute", "meshroutes"),
        Which::All,
        |o| put(&o, trim::route(&o)),
        |step| Change::Route(Box::new(step)),
    );
    visitor.kind(
        resource("MeshPolicy", "meshpolicies"),
        Which::All,
        |o| put(&o, trim::policy(&o)),
        |step| Change::Policy(Box::new(step)),
    );
    visitor.kind(
        resource("MeshNode", "meshnodes"),
        Which::All,
        |o| put(&o, trim::neighbourhood(&o)),
        Change::Neighbourhood,
    );
    visitor.kind::<Namespace, _>(
        Api::all(all()),
        Which::All,
        |o| trim::put(&o.metadata, Some(trim::namespace(&o))),
        Change::Namespace,
    );
    visitor.kind::<Service, _>(
        Api::all(all()),
        Which::All,
        |o| trim::put(&o.metadata, Some(trim::service(&o))),
        Change::Service,
    );
    visitor.kind::<EndpointSlice, _>(
        Api::all(all()),
        Which::All,
        |o| trim::put(&o.metadata, trim::slice(&o)),
        Change::Slice,
    );
    let grants = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant");
    let grants = ApiResource::from_gvk_with_plural(&grants, "referencegrants");
    visitor.kind(
        Api::<DynamicObject>::all_with(all(), &grants),
        Which::IfThere,
        |o| trim::put(&o.metadata, trim::grant(&o)),
        Change::Grant,
    );
    visitor.kind::<Node, _>(
        Api::all(all()),
        Which::All,
        |o| trim::put(&o.metadata, Some(trim::node(&o))),
        Change::Node,
    );
    visitor.kind::<Pod, _>(
        Api::all(all()),
        Which::All,
        |o| trim::put(&o.metadata, trim::pod(&o)),
        Change::Pod,
    );
    children(client, visitor);
}

fn children(client: &Client, visitor: &mut impl Visit) {
    let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
    for kind in Kind::CHILDREN {
        let api = match kind {
            Kind::ClusterRole | Kind::ClusterRoleBinding => Api::all_with(client.clone(), &kind.resource()),
            _ => Api::namespaced_with(client.clone(), names::PROXY_NAMESPACE, &kind.resource()),
        };
        let wrap = move |step| Change::Child(kind, step);
        match kind {
            Kind::ConfigMap => visitor.kind(api, Which::Labelled(&ours), |o| child(Kind::ConfigMap, o), wrap),
            Kind::DaemonSet => visitor.kind(api, Which::Labelled(&ours), |o| child(Kind::DaemonSet, o), wrap),
            // The others have neither data nor a status to look at.
            _ => visitor.kind(api, Which::Labelled(&ours), |o| child(Kind::ServiceAccount, o), wrap),
        }
    }
}

fn put<T>(object: &DynamicObject, value: T) -> Step<T> {
    trim::put(&object.metadata, Some(value))
}

fn child(kind: Kind, object: DynamicObject) -> Step<crate::world::Child> {
    let meta = object.metadata.clone();
    trim::put(&meta, Some(trim::child(kind, object)))
}

/// Watches everything, from `tasks`, until `stop`; what is seen arrives at the receiver, in order within one kind.
pub fn start(
    client: &Client,
    metrics: &Metrics,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> mpsc::Receiver<Change> {
    let (changes, receiver) = mpsc::channel(QUEUE);
    visit(client, &mut Watch { changes, metrics, tasks, stop });
    receiver
}

struct Watch<'a> {
    changes: mpsc::Sender<Change>,
    metrics: &'a Metrics,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Visit for Watch<'_> {
    fn kind<K, T>(
        &mut self,
        api: Api<K>,
        which: Which<'_>,
        read: fn(K) -> Step<T>,
        wrap: impl Fn(Step<T>) -> Change + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        let is_optional = which == Which::IfThere;
        let mut config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        if let Some(labels) = which.labels() {
            config = config.labels(labels);
        }
        let (changes, metrics, stop) = (self.changes.clone(), self.metrics.clone(), self.stop.clone());
        let path = api.resource_url().to_owned();
        self.tasks.spawn(async move {
            let watch = || Box::pin(watcher::watcher(api.clone(), config.clone()));
            let (mut events, mut pauses) = (watch(), pause::Pauses::default());
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = events.next() => event,
                };
                let (steps, pause) = match event {
                    Some(Ok(event)) => (vec![step(event, read)], None),
                    // The cluster has no such kind: there are no objects of it.
                    Some(Err(error)) if is_optional && is_unknown(&error) => {
                        events = watch();
                        (vec![Step::Listing, Step::Listed], Some(UNKNOWN_PAUSE))
                    }
                    Some(Err(error)) => {
                        metrics.failed("watch");
                        tracing::warn!(path, %error, "cannot watch; trying again");
                        if is_gone(&error) {
                            events = watch();
                        }
                        (Vec::new(), Some(pauses.next()))
                    }
                    None => return,
                };
                for step in steps {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        sent = changes.send(wrap(step)) => if sent.is_err() { return },
                    }
                }
                if let Some(pause) = pause {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep(pause) => {}
                    }
                }
            }
        });
    }
}

/// Whether the API server has no such kind.
fn is_unknown(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Whether a watch was refused because its version is too old. As an event of a watch the library knows this; as the
/// answer to the request it would ask for the same version for ever.
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn step<K, T>(event: Event<K>, read: fn(K) -> Step<T>) -> Step<T> {
    match event {
        Event::Init => Step::Listing,
        Event::InitDone => Step::Listed,
        Event::InitApply(object) | Event::Apply(object) => read(object),
        Event::Delete(object) => match read(object) {
            Step::Put(key, row) => Step::Gone(key, row.uid),
            gone => gone,
        },
    }
}

/// A World that starts empty and has what the operator was started with.
pub fn empty(settings: Settings) -> World {
    World { settings, ..World::default() }
}
