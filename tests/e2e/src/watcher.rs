//! Calls a URL from one pod again and again and tells since when one and the same application answers; judges nothing.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use vicino_sample::client::Client;

use crate::caller::Caller;
use crate::netns;

/// Between the end of a call and the next one.
const PAUSE: Duration = Duration::from_millis(4);
/// Answers in a row from one application that count as the change having arrived: each call is a new connection, so it
/// goes to any of the proxy's workers.
const IN_A_ROW: u32 = 6;

/// What answers now.
#[derive(Clone, Debug)]
struct Seen {
    /// The name of the pod without its last two parts, which is its application, or the error.
    who: String,
    /// When the first of the answers in a row came.
    since: Instant,
    /// How many there are in a row.
    times: u32,
}

/// Watches one URL from one node. The calls end when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    seen: watch::Receiver<Option<Seen>>,
    /// The node that it calls from.
    pub node: String,
}

impl Watcher {
    /// Starts to call.
    pub fn start(caller: &Caller, url: &str) -> Result<Self> {
        let (sender, seen) = watch::channel(None);
        let (netns, proxy) = (caller.netns.clone(), format!("http://{}", caller.proxy));
        let url = url.to_owned();
        let work = async move || {
            while !sender.is_closed() {
                let answer = Client::new(Some(&proxy)).get(&url, &[]).await;
                let header = |name| answer.as_ref().ok()?.headers().get(name)?.to_str().ok();
                let who = match (header("x-pod"), header("vicino-error")) {
                    (Some(pod), _) => pod.rsplitn(3, '-').last().unwrap_or(pod).to_owned(),
                    (None, Some(error)) => error.to_owned(),
                    (None, None) => "no answer".to_owned(),
                };
                let now = Instant::now();
                sender.send_modify(|seen: &mut Option<Seen>| match seen {
                    Some(seen) if seen.who == who => seen.times += 1,
                    _ => *seen = Some(Seen { who, since: now, times: 1 }),
                });
                sleep(PAUSE).await;
            }
        };
        netns::detached(&netns, work)?;
        Ok(Self { seen, node: caller.node.clone() })
    }

    /// When `who` (an application, or a `vicino-error`) began to be what answers, for good as far as six answers tell.
    pub async fn answered_by(&mut self, who: &str, bound: Duration) -> Result<Instant> {
        let arrived =
            |seen: &Option<Seen>| seen.as_ref().is_some_and(|s| s.who == who && s.times >= IN_A_ROW);
        let node = self.node.clone();
        let found = match tokio::time::timeout(bound, self.seen.wait_for(arrived)).await {
            Ok(found) => found?.as_ref().map(|seen| seen.since),
            Err(_) => None,
        };
        let last = || self.seen.borrow().as_ref().map(|s| s.who.clone());
        found.ok_or_else(|| {
            anyhow::anyhow!("{node}: not answered by {who} within {bound:?}, but by {:?}", last())
        })
    }
}
