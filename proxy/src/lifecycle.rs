//! Where in its life the process is, and whether it may be called ready; the one place that probes and metrics ask.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::worker::Crew;

/// How far the process has come. It never goes back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It can't serve yet, and why.
    Starting(String),
    /// Every worker listens and serves by a snapshot.
    Serving,
    /// It finishes what is open.
    Draining,
}

/// Shared by everything that wants to know.
#[derive(Clone, Debug)]
pub struct Life {
    phase: Arc<watch::Sender<Phase>>,
    crew: Arc<OnceLock<Arc<Crew>>>,
}

impl Default for Life {
    fn default() -> Self {
        let (phase, _) = watch::channel(Phase::Starting("just started".to_owned()));
        Self { phase: Arc::new(phase), crew: Arc::default() }
    }
}

impl Life {
    /// Goes on; going back is ignored.
    pub fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = rank(&next) >= rank(phase) && *phase != next;
            if forward {
                *phase = next;
            }
            forward
        });
    }

    /// The phase, to read and to wait for.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The workers, once there are any.
    pub fn crew(&self) -> Option<&Arc<Crew>> {
        self.crew.get()
    }

    /// Makes the workers known; once.
    pub fn set_crew(&self, crew: Arc<Crew>) {
        let first = self.crew.set(crew).is_ok();
        debug_assert!(first, "workers start once");
    }

    /// Whether calls may be sent here; else why not.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.phase.borrow() {
            Phase::Starting(why) => Err(format!("starting: {why}")),
            Phase::Draining => Err("draining".to_owned()),
            Phase::Serving => match self.crew.get().filter(|crew| crew.ended() > 0) {
                Some(_) => Err("a worker has ended".to_owned()),
                None => Ok(()),
            },
        }
    }

    /// Whether every worker turns. Before there are workers, nothing can hang: waiting for a configuration is no illness.
    pub async fn live(&self) -> Result<(), String> {
        match self.crew.get() {
            Some(crew) if *self.phase.borrow() == Phase::Serving => crew.answer().await,
            _ => Ok(()),
        }
    }
}

fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Starting(_) => 0,
        Phase::Serving => 1,
        Phase::Draining => 2,
    }
}
