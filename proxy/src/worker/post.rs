//! What control and a worker tell each other: orders one way, the worker's state the other; carries, decides nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::watch;
use tokio::time::Instant;
use vicino_engine::identify::Doubts;
use vicino_engine::snapshot::Snapshot;

use super::resolve::Found;
use crate::secure::Hops;

/// What a worker is to do; a newer order of a kind replaces one that was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Serve by this snapshot.
    pub(super) serve: Option<Arc<Snapshot>>,
    /// Take these pods for gone.
    pub(super) doubt: Option<Arc<Doubts>>,
    /// Make hops with these certificates.
    pub(super) secure: Option<Arc<Hops>>,
    /// Names, and where they lead: each was asked for, so there are never more than may be asked.
    pub(super) resolved: Vec<(Arc<[Box<str>]>, Found)>,
    /// Show that you turn: answer with this number.
    pub(super) answer: Option<u64>,
    /// Accept no more, finish by then.
    pub(super) drain: Option<Instant>,
    /// End now.
    pub(super) stop: bool,
}

/// How a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Version of the snapshot that it serves by.
    pub(super) served: u64,
    /// Last [`Orders::answer`] that it saw.
    pub(super) answered: u64,
    /// Whether it has ended.
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
struct Letterbox {
    orders: Orders,
    bell: Option<Waker>,
}

/// Where orders for one worker are posted.
#[derive(Clone, Debug, Default)]
pub(super) struct Post(Arc<Mutex<Letterbox>>);

/// Control's end.
#[derive(Debug)]
pub(super) struct Line {
    post: Post,
    state: watch::Receiver<State>,
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Desk {
    post: Post,
    state: watch::Sender<State>,
}

/// Both ends of a line.
pub(super) fn line() -> (Line, Desk) {
    let post = Post::default();
    let (sender, receiver) = watch::channel(State::default());
    (Line { post: post.clone(), state: receiver }, Desk { post, state: sender })
}

impl Post {
    fn open(&self) -> MutexGuard<'_, Letterbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives orders and rings.
    pub(super) fn order(&self, give: impl FnOnce(&mut Orders)) {
        let bell = {
            let mut letterbox = self.open();
            give(&mut letterbox.orders);
            letterbox.bell.clone()
        };
        if let Some(bell) = bell {
            bell.wake();
        }
    }

    /// Takes what was ordered since.
    pub(super) fn take(&self) -> Orders {
        std::mem::take(&mut self.open().orders)
    }
}

impl Line {
    /// Gives orders and rings.
    pub(super) fn order(&self, give: impl FnOnce(&mut Orders)) {
        self.post.order(give);
    }

    /// The worker's state, to read and to wait for.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Desk {
    /// Where the bell rings from now on. What was ordered before is found at the first look.
    pub(super) fn hang_bell(&self, bell: Waker) {
        self.post.open().bell = Some(bell);
    }

    /// Where answers to this worker go.
    pub(super) fn post(&self) -> Post {
        self.post.clone()
    }

    /// Takes what was ordered since.
    pub(super) fn take(&self) -> Orders {
        self.post.take()
    }

    /// Says how it is.
    pub(super) fn say(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

impl Drop for Desk {
    /// However a worker ends, control hears of it.
    fn drop(&mut self) {
        self.state.send_modify(|state| state.ended = true);
    }
}
