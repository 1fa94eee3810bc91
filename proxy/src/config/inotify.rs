//! Tells which paths below a directory were written, moved or removed; reads nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Paths that may wait; when there are more, everything is taken for changed.
const PATHS_MAX: usize = 1024;
/// Paths are gathered this long after the first one.
const GATHER: Duration = Duration::from_millis(5);
/// Everything is looked at anew this often, should the kernel have forgotten to tell (a directory that was filled before
/// it could be watched).
const RESCAN: Duration = Duration::from_secs(10);

/// After a directory appeared, everything is looked at anew this much later: what was written into it before it was watched
/// would else be missed until the next rescan.
const NEW_DIRECTORY: Duration = Duration::from_millis(100);

/// What was touched.
#[derive(Debug, PartialEq, Eq)]
pub enum Touched {
    /// These.
    Paths(BTreeSet<PathBuf>),
    /// Nobody knows: look at everything.
    Anything,
}

/// A watched directory.
#[derive(Debug)]
pub struct Watched {
    paths: mpsc::Receiver<PathBuf>,
    overflow: Arc<AtomicBool>,
    look_again: Option<Instant>,
    _watcher: RecommendedWatcher,
}

impl Watched {
    /// Begins to watch; with `recursive`, also every directory below.
    pub fn new(directory: &Path, recursive: bool) -> notify::Result<Self> {
        let (sender, paths) = mpsc::channel(PATHS_MAX);
        let overflow = Arc::new(AtomicBool::new(false));
        let lost = overflow.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return lost.store(true, Ordering::Release) };
            if event.need_rescan() {
                lost.store(true, Ordering::Release);
            }
            for path in event.paths.into_iter().filter(|_| matters(event.kind)) {
                if sender.try_send(path).is_err() {
                    lost.store(true, Ordering::Release);
                }
            }
        })?;
        let mode = if recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(directory, mode)?;
        Ok(Self { paths, overflow, look_again: None, _watcher: watcher })
    }

    /// Waits for the next change, a short while longer for those that come with it, and at most until the next rescan.
    pub async fn touched(&mut self) -> Touched {
        let wait = self.look_again.take().unwrap_or_else(|| Instant::now() + RESCAN);
        let Ok(Some(first)) = timeout_at(wait, self.paths.recv()).await else { return Touched::Anything };
        let mut paths = BTreeSet::from([first]);
        let end = Instant::now() + GATHER;
        while let Ok(Some(path)) = timeout_at(end, self.paths.recv()).await {
            paths.insert(path);
        }
        if paths.iter().any(|path| path.is_dir()) {
            self.look_again = Some(Instant::now() + NEW_DIRECTORY);
        }
        if self.overflow.swap(false, Ordering::AcqRel) { Touched::Anything } else { Touched::Paths(paths) }
    }
}

/// A file counts when its writer has closed it, so that one that is being written is left alone.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(modify) => matches!(modify, ModifyKind::Name(_)),
        EventKind::Create(kind) => kind != notify::event::CreateKind::File,
        EventKind::Remove(_) => true,
        EventKind::Any | EventKind::Other => false,
    }
}
