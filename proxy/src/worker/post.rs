//! What control and a worker tell each other: orders one way, the worker's state the other; carries, decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::watch;
use tokio::time::Instant;
use vicino_engine::snapshot::Snapshot;

/// What a worker is to do; a newer order of a kind replaces one that was not taken yet.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Serve by this snapshot.
    pub(super) serve: Option<Arc<Snapshot>>,
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

/// Control's end.
#[derive(Debug)]
pub(super) struct Line {
    letterbox: Arc<Mutex<Letterbox>>,
    state: watch::Receiver<State>,
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Desk {
    letterbox: Arc<Mutex<Letterbox>>,
    state: watch::Sender<State>,
}

/// Both ends of a line.
pub(super) fn line() -> (Line, Desk) {
    let letterbox = Arc::new(Mutex::new(Letterbox::default()));
    let (sender, receiver) = watch::channel(State::default());
    (Line { letterbox: letterbox.clone(), state: receiver }, Desk { letterbox, state: sender })
}

impl Line {
    /// Gives orders and rings.
    pub(super) fn order(&self, give: impl FnOnce(&mut Orders)) {
        let bell = {
            let mut letterbox = self.letterbox.lock().unwrap_or_else(PoisonError::into_inner);
            give(&mut letterbox.orders);
            letterbox.bell.clone()
        };
        if let Some(bell) = bell {
            bell.wake();
        }
    }

    /// The worker's state, to read and to wait for.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Desk {
    /// Where the bell rings from now on. What was ordered before is found at the first look.
    pub(super) fn hang_bell(&self, bell: Waker) {
        let mut letterbox = self.letterbox.lock().unwrap_or_else(PoisonError::into_inner);
        letterbox.bell = Some(bell);
    }

    /// Takes what was ordered since.
    pub(super) fn take(&self) -> Orders {
        let mut letterbox = self.letterbox.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut letterbox.orders)
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
