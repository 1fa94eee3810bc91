//! The answer to a watch: passed on event by event, until the test breaks it.

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::json;
use tokio::sync::mpsc;

use super::serve::Failure;
use super::{Break, Events, Open, Shared};

/// Breaks of one watch that have not happened yet.
const BREAKS_MAX: usize = 4;

/// An open watch.
struct Watch {
    upstream: Body,
    /// What has come of the next event.
    buffer: Vec<u8>,
    breaks: mpsc::Receiver<Break>,
    swallows: bool,
    ended: bool,
    entry: Entry,
}

/// Its entry among the open ones, for as long as it lives.
struct Entry {
    state: Shared,
    resource: String,
    number: usize,
}

impl Entry {
    fn count(&self, count: impl FnOnce(&mut Events)) {
        self.state.with(|state| count(state.events.entry(self.resource.clone()).or_default()));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.state.with(|state| state.open.remove(&self.number));
    }
}

/// The body of the answer to the watch that is request `number`.
pub(super) fn watch(
    upstream: Body,
    state: Shared,
    resource: &str,
    number: usize,
) -> UnsyncBoxBody<Bytes, Failure> {
    let (breaks, receiver) = mpsc::channel(BREAKS_MAX);
    let resource = resource.to_owned();
    state.with(|state| state.open.insert(number, Open { resource: resource.clone(), breaks }));
    let entry = Entry { state, resource, number };
    let watch =
        Watch { upstream, buffer: Vec::new(), breaks: receiver, swallows: false, ended: false, entry };
    StreamBody::new(stream::unfold(watch, next)).boxed_unsync()
}

async fn next(mut watch: Watch) -> Option<(Result<Frame<Bytes>, Failure>, Watch)> {
    while !watch.ended {
        tokio::select! {
            biased;
            how = watch.breaks.recv() => match how {
                Some(Break::Swallow) => watch.swallows = true,
                Some(Break::Gone) => {
                    watch.ended = true;
                    return Some((Ok(Frame::data(gone())), watch));
                }
                Some(Break::Cut) | None => {
                    watch.ended = true;
                    return Some((Err("this watch is cut".into()), watch));
                }
            },
            event = event(&mut watch.upstream, &mut watch.buffer) => {
                let event = event?;
                if watch.swallows && event.is_ok() {
                    watch.entry.count(|events| events.swallowed += 1);
                } else {
                    watch.entry.count(|events| events.passed += 1);
                    return Some((event.map(Frame::data), watch));
                }
            }
        }
    }
    None
}

/// The next event with the end of its line; none when the API server ends the watch. Nothing is lost when it is dropped.
async fn event(upstream: &mut Body, buffer: &mut Vec<u8>) -> Option<Result<Bytes, Failure>> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            return Some(Ok(buffer.drain(..=end).collect()));
        }
        match upstream.frame().await? {
            Ok(frame) => buffer.extend(frame.into_data().unwrap_or_default()),
            Err(error) => return Some(Err(error.into())),
        }
    }
}

fn gone() -> Bytes {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version: 1 (2)",
    });
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status})))
}
