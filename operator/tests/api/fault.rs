//! Faults between an operator and the API server: an HTTP proxy that does to each request what the test's script says, and breaks watches.
//!
//! It decides nothing by itself: without a script everything passes. It runs on a thread of its own, so that a test that
//! blocks holds up no request.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, Uri};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

mod serve;
mod stream;

/// What is to be done to the objects that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    /// Create, replace, apply.
    Write,
    Delete,
}

/// What the operator asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) verb: Verb,
    /// The kind's plural, `configmaps`.
    pub(crate) resource: String,
    /// Empty for a whole kind.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    query: String,
}

impl Asked {
    fn new(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default().to_owned();
        let segments: Vec<_> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
        // /api/v1/… or /apis/GROUP/VERSION/…, then perhaps namespaces/NAME/…
        let mut rest =
            segments.get(if segments.first() == Some(&"api") { 2 } else { 3 }..).unwrap_or_default();
        if let ["namespaces", _, inner @ ..] = rest
            && !inner.is_empty()
        {
            rest = inner;
        }
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        let verb = match *method {
            Method::GET if query.contains("watch=true") => Verb::Watch,
            Method::GET if rest.len() < 2 => Verb::List,
            Method::GET => Verb::Get,
            Method::DELETE => Verb::Delete,
            _ => Verb::Write,
        };
        Self { verb, resource: part(0), name: part(1), subresource: part(2), query }
    }

    /// Whether it is this, of a whole kind.
    pub(crate) fn is(&self, verb: Verb, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }

    /// Whether it changes an object or a status, other than the Lease, and other than by telling an Event.
    pub(crate) fn changes(&self) -> bool {
        matches!(self.verb, Verb::Write | Verb::Delete)
            && !matches!(self.resource.as_str(), "leases" | "events")
    }

    /// The same, but no status.
    pub(crate) fn changes_object(&self) -> bool {
        self.changes() && self.subresource.is_empty()
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|pair| pair.1)
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    None,
    /// It is refused, and never reaches the API server.
    Refuse(u16),
    /// It is answered with this, and never reaches the API server.
    Answer(Bytes),
    /// It is carried out, and then the connection ends instead of an answer.
    Lose,
    /// It is carried out, and the answer comes so much later.
    Delay(Duration),
    /// It waits before it reaches the API server.
    Hold(CancellationToken),
}

impl Fault {
    /// It waits for ever.
    pub(crate) fn hang() -> Self {
        Self::Hold(CancellationToken::new())
    }
}

/// What happens to watches that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Events are swallowed from now on.
    Swallow,
    /// The API server's event for a version that it knows no longer: 410.
    Gone,
    /// The connection ends in the middle of the answer.
    Cut,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) asked: Asked,
    pub(crate) at: Instant,
    /// The status of its answer, also of one that is lost on its way to the operator.
    pub(crate) code: Option<u16>,
}

impl Record {
    /// Whether the API server carried it out.
    pub(crate) fn succeeded(&self) -> bool {
        self.code.is_some_and(|code| code < 300)
    }
}

/// Events of watches of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events {
    pub(crate) passed: usize,
    pub(crate) swallowed: usize,
}

type Script = Box<dyn FnMut(&Asked) -> Fault + Send>;

struct Open {
    resource: String,
    breaks: mpsc::Sender<Break>,
}

struct State {
    script: Script,
    log: Vec<Record>,
    /// The newest answer to a LIST of each kind.
    lists: BTreeMap<String, Bytes>,
    /// Watches by the number of their request.
    open: BTreeMap<usize, Open>,
    events: BTreeMap<String, Events>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }
}

/// The proxy. It ends, with all its connections, when it is dropped.
pub(crate) struct FaultProxy {
    kubeconfig: NamedTempFile,
    state: Shared,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Starts one in front of the cluster's API server.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut kubeconfig = NamedTempFile::new().unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        write!(
            kubeconfig,
            "
apiVersion: v1
kind: Config
clusters: [{{name: faults, cluster: {{server: '{server}'}}}}]
users: [{{name: faults, user: {{}}}}]
contexts: [{{name: faults, context: {{cluster: faults, user: faults}}}}]
current-context: faults
"
        )
        .unwrap();
        let mut upstream = cluster.config().await;
        // What the API server says is for the operator to hear.
        upstream.default_retry = false;
        let state = Shared(Arc::new(Mutex::new(State {
            script: Box::new(|_| Fault::None),
            log: Vec::new(),
            lists: BTreeMap::new(),
            open: BTreeMap::new(),
            events: BTreeMap::new(),
        })));
        let stop = CancellationToken::new();
        let (shared, stopping) = (state.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve::serve(listener, upstream, shared, stopping));
        });
        Self { kubeconfig, state, stop, thread: Some(thread) }
    }

    /// The kubeconfig that leads through it.
    pub(crate) fn kubeconfig(&self) -> &str {
        self.kubeconfig.path().to_str().unwrap()
    }

    /// Asks `script` about every request from now on.
    pub(crate) fn script(&self, script: impl FnMut(&Asked) -> Fault + Send + 'static) {
        self.state.with(|state| state.script = Box::new(script));
    }

    /// Lets everything through from now on.
    pub(crate) fn pass(&self) {
        self.script(|_| Fault::None);
    }

    /// Every request so far, in order.
    pub(crate) fn log(&self) -> Vec<Record> {
        self.state.with(|state| state.log.clone())
    }

    /// Requests so far of which something holds.
    pub(crate) fn count(&self, holds: impl Fn(&Record) -> bool) -> usize {
        self.state.with(|state| state.log.iter().filter(|record| holds(record)).count())
    }

    /// What the API server answered to the last LIST of a kind.
    pub(crate) fn listed(&self, resource: &str) -> Bytes {
        self.state.with(|state| state.lists[resource].clone())
    }

    /// Events of watches of a kind so far.
    pub(crate) fn events(&self, resource: &str) -> Events {
        self.state.with(|state| state.events.get(resource).copied().unwrap_or_default())
    }

    /// Does something to every open watch of the kinds that `which` holds of; returns how many there are.
    pub(crate) fn break_watches(&self, which: impl Fn(&str) -> bool, how: Break) -> usize {
        self.state.with(|state| {
            let open = state.open.values().filter(|open| which(&open.resource));
            open.filter(|open| open.breaks.try_send(how).is_ok()).count()
        })
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking(), "the proxy panicked");
    }
}
