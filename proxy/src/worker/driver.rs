//! One worker's turn: take everything that is ready, feed it to the engine, then write each connection that has something to say once.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::LocalRuntime;
use tokio::time::{Instant, Sleep};
use vicino_engine::identify::Doubts;
use vicino_engine::snapshot::Snapshot;
use vicino_engine::tally::Tally;
use vicino_engine::told::Told;
use vicino_engine::{Command, ConnId, Core, CoreConfig, Event, Role, SecureDial, Time};

use super::Control;
use super::chronicle::News;
use super::listen::{BACKLOG, is_exhausted, plain};
use super::post::Desk;
use super::ready::{ReadyList, Token};
use super::resolve::Question;
use super::socket::{Stage, Stream};
use super::table::{Entry, Table};
use crate::log::chain;
use crate::secure::Hops;

/// When the engine's time begins, for all workers alike: what they share of pods is told in it.
static START: OnceLock<Instant> = OnceLock::new();

/// The engine's time now; its beginning while there was no worker.
pub(super) fn time() -> Time {
    Time::default() + START.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// One buffer for all reads of a worker, in bytes.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads of one connection in one turn; what is left is for the next turn, after the others.
const READS_MAX: u32 = 4;
/// Connections taken from one listener in one turn.
const ACCEPTS_MAX: u32 = 256;
/// While descriptors are used up, accepting pauses this long.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Rounds of commands and writes in one turn. What is left waits for the next turn, which then follows at once.
const ROUNDS_MAX: u32 = 64;

/// Numbers on the ready list that are no connections.
const BELL: u32 = u32::MAX;
const LISTENERS: [u32; 2] = [u32::MAX - 1, u32::MAX - 2];

/// What a worker is made of.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) worker: u32,
    pub(super) core: CoreConfig,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) doubts: Arc<Doubts>,
    pub(super) hops: Option<Arc<Hops>>,
    pub(super) l1: std::net::TcpListener,
    pub(super) l2: std::net::TcpListener,
    pub(super) desk: Desk,
    pub(super) control: Control,
}

#[derive(Debug)]
struct Listening {
    role: Role,
    listener: TcpListener,
    token: Arc<Token>,
    waker: Waker,
    paused_until: Option<Instant>,
}

/// The one task of a worker; it ends when it is told to.
#[derive(Debug)]
struct Driver {
    worker: u32,
    core: Core,
    table: Table,
    listening: Vec<Listening>,
    desk: Desk,
    /// What hops are made with; None: without TLS.
    hops: Option<Arc<Hops>>,
    bell: Arc<Token>,
    ready: ReadyList,
    control: Control,
    told: Told,
    start: Instant,
    now: Instant,
    /// What had come by then is served.
    looked: Instant,
    timer: Pin<Box<Sleep>>,
    draining: bool,
    scratch: Box<[u8]>,
    // Kept from turn to turn for their room only.
    turn: Vec<u32>,
    dirty: Vec<ConnId>,
    resumed: Vec<ConnId>,
    commands: Vec<Command>,
    events: Vec<Event>,
}

/// Runs a worker on the calling thread until it is told to end; tells first how that begins.
pub(super) fn run(runtime: &LocalRuntime, setting: Setting, tell: &SyncSender<io::Result<Arc<Tally>>>) {
    let worker = setting.worker;
    let driver = {
        let _sockets_and_timers_are_this_runtimes = runtime.enter();
        Driver::new(setting)
    };
    let driver = match driver {
        Ok(driver) => driver,
        // Whoever waits has gone: there is nobody to tell.
        Err(e) => return drop(tell.send(Err(e))),
    };
    let _nobody_waits = tell.send(Ok(driver.core.tally().clone()));
    // A spawned task is woken from within its own thread without a system call, the root future is not.
    let task = runtime.spawn_local(tokio::task::unconstrained(driver));
    if let Err(e) = runtime.block_on(task) {
        tracing::error!(worker, error = %e, "worker ended badly");
    }
}

impl Driver {
    fn new(setting: Setting) -> io::Result<Self> {
        let Setting { worker, core, snapshot, doubts, hops, l1, l2, desk, control } = setting;
        let mut core = Core::new(core, RandomState::new().hash_one(worker));
        let ready = ReadyList::default();
        let mut listening = Vec::new();
        for ((role, listener), number) in [(Role::L1, l1), (Role::L2, l2)].into_iter().zip(LISTENERS) {
            let token = ready.token(number);
            token.wake_by_ref();
            listening.push(Listening {
                role,
                listener: TcpListener::from_std(listener)?,
                waker: Waker::from(token.clone()),
                token,
                paused_until: None,
            });
        }
        let bell = ready.token(BELL);
        desk.hang_bell(Waker::from(bell.clone()));
        core.hang_bell(Waker::from(bell.clone()));
        bell.wake_by_ref();
        let now = Instant::now();
        let mut driver = Self {
            worker,
            core,
            table: Table::new(ready.clone()),
            listening,
            desk,
            hops: None,
            bell,
            ready,
            control,
            told: Told::default(),
            start: *START.get_or_init(|| now),
            now,
            looked: now,
            timer: Box::pin(tokio::time::sleep_until(now)),
            draining: false,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            turn: Vec::new(),
            dirty: Vec::new(),
            resumed: Vec::new(),
            commands: Vec::new(),
            events: Vec::new(),
        };
        if let Some(hops) = hops {
            driver.secure(hops);
        }
        driver.core.doubt(doubts, driver.time());
        driver.serve(snapshot);
        Ok(driver)
    }

    fn time(&self) -> Time {
        self.at(self.now)
    }

    fn at(&self, instant: Instant) -> Time {
        Time::default() + instant.duration_since(self.start)
    }

    fn serve(&mut self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        self.core.swap(snapshot, self.time());
        self.desk.say(|state| state.served = version);
    }

    /// False: end now.
    fn obey_orders(&mut self) -> bool {
        self.bell.taken();
        self.core.granted(self.time());
        let orders = self.desk.take();
        if let Some(hops) = orders.secure {
            self.secure(hops);
        }
        // Before the snapshot, in which they may still be.
        if let Some(doubts) = orders.doubt {
            self.core.doubt(doubts, self.time());
        }
        if let Some(snapshot) = orders.serve {
            self.serve(snapshot);
        }
        // By the newest snapshot.
        for (names, found) in orders.resolved {
            self.core.resolved(&names, found, self.time());
        }
        if let Some(number) = orders.answer {
            self.desk.say(|state| state.answered = number);
        }
        if let Some(deadline) = orders.drain {
            self.drain(deadline);
        }
        !orders.stop
    }

    /// Connections that the kernel has already made with callers are served; only then are the listeners closed.
    fn drain(&mut self, deadline: Instant) {
        for mut listening in std::mem::take(&mut self.listening) {
            let mut room = BACKLOG;
            while room > 0 && self.accept_one(&mut listening) {
                room -= 1;
            }
        }
        self.draining = true;
        self.core.drain(self.time(), self.at(deadline));
    }

    fn accept(&mut self, index: usize) {
        let mut all = std::mem::take(&mut self.listening);
        if let Some(listening) = all.get_mut(index) {
            listening.token.taken();
            let mut room = ACCEPTS_MAX;
            while room > 0 && self.accept_one(listening) {
                room -= 1;
            }
            if room == 0 {
                listening.token.wake_by_ref();
            }
        }
        self.listening = all;
    }

    /// False: there is no more now.
    fn accept_one(&mut self, listening: &mut Listening) -> bool {
        let accepted = listening.listener.poll_accept(&mut Context::from_waker(&listening.waker));
        let (tcp, peer) = match accepted {
            Poll::Pending => return false,
            Poll::Ready(Ok(accepted)) => accepted,
            Poll::Ready(Err(e)) if is_exhausted(&e) => {
                listening.paused_until = Some(self.now + EXHAUSTED_PAUSE);
                self.tell(News::Exhausted(e));
                return false;
            }
            // The caller went away before it was accepted.
            Poll::Ready(Err(_)) => return true,
        };
        let local = tcp.local_addr();
        let stream = match &self.hops {
            Some(hops) if listening.role == Role::L2 => Stream::accepted_hop(tcp, hops.clone()),
            _ => Stream::accepted(tcp),
        };
        if let (Ok(local), Ok(stream)) = (local, stream)
            && let Some(id) = self.core.accepted(listening.role, plain(peer), plain(local), self.time())
        {
            self.table.put(id, stream);
            self.read(id);
        }
        true
    }

    fn serve_ready(&mut self, number: u32) {
        let Some(entry) = self.table.taken(number) else { return };
        let id = entry.id;
        let stage = entry.stream.stage;
        if stage != Stage::Open {
            match entry.stream.poll_connected(&mut self.scratch, entry.waker) {
                Poll::Pending if entry.stream.stage != stage => return self.core.reached(id, self.time()),
                Poll::Pending => return,
                Poll::Ready(Ok(local)) => {
                    self.core.connected(id, plain(local), self.time());
                    self.dirty.push(id);
                }
                Poll::Ready(Err(e)) => {
                    let stranger = entry.stream.stranger();
                    self.table.close(id);
                    self.tell_of_stranger(stranger, &e);
                    return self.core.connect_failed(id, e.kind(), self.time());
                }
            }
        } else if entry.stream.blocked {
            self.dirty.push(id);
        }
        self.read(id);
    }

    fn read(&mut self, id: ConnId) {
        let now = self.time();
        for _ in 0..READS_MAX {
            if !self.core.wants_read(id) {
                return;
            }
            let Some(Entry { stream, waker, .. }) = self.table.get(id) else { return };
            if stream.ended || stream.stage != Stage::Open {
                return;
            }
            let read = stream.poll_read(&mut self.scratch, waker);
            if let Some((party, until)) = stream.take_party() {
                let left = until.duration_since(Timestamp::now().into()).unwrap_or_default();
                self.core.identified(id, party, now + left, now);
            }
            match read {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => {
                    stream.ended = true;
                    return self.core.ended(id, now);
                }
                Poll::Ready(Ok(n)) => self.core.received(id, &self.scratch[..n], now),
                Poll::Ready(Err(e)) => {
                    let stranger = stream.stranger();
                    self.tell_of_stranger(stranger, &e);
                    return self.fail(id, &e);
                }
            }
        }
        // It may have more: after the others.
        if let Some(entry) = self.table.get(id) {
            entry.waker.wake_by_ref();
        }
    }

    fn write(&mut self, id: ConnId) {
        loop {
            let Some(Entry { stream, waker, .. }) = self.table.get(id) else { return };
            let bytes = self.core.output(id);
            let all = bytes.len();
            if all == 0 || stream.stage != Stage::Open {
                stream.blocked = false;
                if stream.stage == Stage::Open {
                    match stream.poll_flush(waker) {
                        Poll::Pending => stream.blocked = true,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(e)) => self.fail(id, &e),
                    }
                }
                return;
            }
            match stream.poll_write(bytes, waker) {
                Poll::Pending => {
                    stream.blocked = true;
                    return;
                }
                Poll::Ready(Ok(n)) => {
                    stream.blocked = false;
                    let is_flushed = stream.poll_flush(waker);
                    stream.blocked = is_flushed.is_pending();
                    self.core.wrote(id, n, self.time());
                    if n == all {
                        return;
                    }
                }
                Poll::Ready(Err(e)) => return self.fail(id, &e),
            }
        }
    }

    fn fail(&mut self, id: ConnId, error: &io::Error) {
        self.table.close(id);
        self.core.failed(id, error.kind(), self.time());
    }

    /// A hop does not come about since it is not known who is at its other end.
    fn tell_of_stranger(&mut self, stranger: Option<SocketAddr>, error: &io::Error) {
        let now = self.time();
        if let Some(peer) = stranger.filter(|peer| self.told.is_news(peer.ip(), "stranger", now)) {
            self.tell(News::Stranger { peer, error: chain(error) });
        }
    }

    /// With TLS, when that is meant.
    fn connect(&self, address: SocketAddr, secure: Option<&SecureDial>) -> io::Result<Stream> {
        let dial = |to| {
            let hops = self.hops.as_ref().ok_or_else(|| io::Error::other("there are no certificates"))?;
            hops.dial(to).map_err(io::Error::other)
        };
        Stream::connect(address, secure.map(dial).transpose()?)
    }

    fn secure(&mut self, hops: Arc<Hops>) {
        let now = self.time();
        if self.hops.as_ref().is_some_and(|before| hops.distrusts(before)) {
            self.core.distrust(now);
        }
        self.core.certify(Arc::new(hops.numbers()), now);
        self.hops = Some(hops);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect { id, address, secure } => match self.connect(address, secure.as_ref()) {
                Ok(stream) => {
                    self.table.put(id, stream);
                    self.serve_ready(id.slot);
                }
                Err(e) => self.core.connect_failed(id, e.kind(), self.time()),
            },
            Command::ShutdownWrite { id } => {
                let Some(Entry { stream, waker, .. }) = self.table.get(id) else { return };
                if let Err(e) = stream.shut_down(waker) {
                    self.fail(id, &e);
                }
            }
            Command::Close { id } => self.table.close(id),
            Command::Resolve { names } => {
                // One that finds no room has failed, and tells so itself.
                let _told = self.control.questions.try_send(Question::new(names, self.desk.post()));
            }
        }
    }

    /// Does what the engine says until it has no more to say; false when it was stopped short of that.
    fn settle(&mut self) -> bool {
        for _ in 0..ROUNDS_MAX {
            self.core.take_commands(&mut self.commands);
            self.core.take_resumed(&mut self.resumed);
            self.core.take_dirty(&mut self.dirty);
            if self.commands.is_empty() && self.resumed.is_empty() && self.dirty.is_empty() {
                return true;
            }
            let mut commands = std::mem::take(&mut self.commands);
            commands.drain(..).for_each(|command| self.obey(command));
            self.commands = commands;
            let mut resumed = std::mem::take(&mut self.resumed);
            resumed.drain(..).for_each(|id| self.read(id));
            self.resumed = resumed;
            // What reading produced meanwhile is written in the same go.
            self.core.take_dirty(&mut self.dirty);
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.drain(..).for_each(|id| self.write(id));
            self.dirty = dirty;
        }
        false
    }

    fn tell(&self, news: News) {
        // A full queue loses log lines, never time.
        let _lost = self.control.news.try_send(news);
    }

    fn tell_events(&mut self) {
        self.core.take_events(&mut self.events);
        let mut events = std::mem::take(&mut self.events);
        events.drain(..).for_each(|event| self.tell(News::Engine(event)));
        self.events = events;
    }

    /// Sets the timer for what is due next; `None` when something is due now.
    fn set_timer(&mut self, cx: &mut Context<'_>) -> Option<()> {
        let paused = self.listening.iter().filter_map(|listening| listening.paused_until).min();
        let due = self.core.next_deadline().filter(|due| *due != Time::NEVER);
        let due = due.map(|due| self.start + due.since(Time::default()));
        let Some(next) = paused.into_iter().chain(due).min() else { return Some(()) };
        // A timer that rings early costs less than one that is set anew every turn.
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => None,
            Poll::Pending => Some(()),
        }
    }

    /// Does what was due when the sockets were last looked at. This thread may have stood still since, for want of processor time, and a caller
    /// that has spoken meanwhile is not to be taken for an idle one.
    fn fire(&mut self) {
        let (until, now) = (self.at(self.looked), self.time());
        if self.core.next_deadline().is_some_and(|due| due <= until) {
            self.core.fire(until, now);
        }
        for index in 0..self.listening.len() {
            if self.listening[index].paused_until.is_some_and(|until| until <= self.now) {
                self.listening[index].paused_until = None;
                self.accept(index);
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        driver.now = Instant::now();
        let mut turn = std::mem::take(&mut driver.turn);
        driver.ready.take(&mut turn, cx.waker());
        for number in turn.drain(..) {
            match number {
                BELL if !driver.obey_orders() => return Poll::Ready(()),
                BELL => {}
                number if number == LISTENERS[0] => driver.accept(0),
                number if number == LISTENERS[1] => driver.accept(1),
                number => driver.serve_ready(number),
            }
        }
        driver.turn = turn;
        driver.fire();
        let settled = driver.settle();
        driver.tell_events();
        if driver.draining && driver.core.is_idle() {
            return Poll::Ready(());
        }
        if !settled {
            cx.waker().wake_by_ref();
        }
        if driver.set_timer(cx).is_none() {
            driver.looked = driver.now;
            // The next turn comes when the runtime has asked for what came at sockets.
            let _next_turn = pin!(tokio::task::yield_now()).poll(cx);
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.tell(News::Ended(self.worker));
    }
}
