//! Hosts outside the mesh: where their names lead, asked for once and kept for as long as DNS says, and who waits for that.
//!
//! A call to such a host is an exchange like others, whose plan has one choice without pods: where it is placed, an address is taken that its
//! caller may call, and that is dialled as a pod of the own node is. What may be called is `egress`'s.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use vicino_wire::head::Authority;

use crate::connection::Kind as ConnKind;
use crate::core::{Command, ConnId, Core, Event};
use crate::deadline::Time;
use crate::egress::{Caller, Host, never};
use crate::exchange::{ExchangeId, Fresh};
use crate::policy::in_words;
use crate::reply::Reason;
use crate::route::{NAME_BYTES_MAX, PORT_DEFAULT, is_of_cluster_alone, last_label};
use crate::snapshot::{PodSlot, Snapshot};

/// Names that are known or asked for on one worker; beyond, those that nobody waits for are forgotten.
const NAMES_MAX: usize = 4096;
/// Addresses and ports that connections are kept for, likewise.
const SLOTS_MAX: usize = 4096;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// However short DNS says.
const KEPT_MIN: Duration = Duration::from_secs(1);
/// However long DNS says: an address that went is not called for longer.
const KEPT_MAX: Duration = Duration::from_mins(1);
/// A name that leads nowhere is asked for again after this long.
const KEPT_FAILURE: Duration = Duration::from_secs(2);
/// How long the caller of a tunnel is held for a name; whoever asks DNS has given up by then.
const HELD_MAX: Duration = Duration::from_secs(15);

/// Why a name leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is no such name, or it has no address.
    NoSuchName,
    /// DNS did not answer, or more is asked than is answered.
    Failed,
}

/// A host outside the mesh, as a plan has it.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// What DNS is asked for, one after the other until one is there; none for an address.
    names: Arc<[Box<str>]>,
    /// What a caller is told that may not call it.
    pub(crate) reason: Reason,
}

impl Outside {
    /// Whether it is called by a name.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// What an authority is that is no Service, which `reason` says. None: nothing that could be called.
    pub(crate) fn of(
        snapshot: &Snapshot,
        namespace: &str,
        authority: &str,
        reason: Reason,
    ) -> Option<Outside> {
        if snapshot.egress.is_closed() {
            return None;
        }
        let authority = Authority::parse(authority)?;
        let host = Host::of(authority.host)?;
        let port = authority.port.unwrap_or(PORT_DEFAULT);
        let names = match &host {
            Host::Address(_) => Arc::default(),
            Host::Name(name) => names(snapshot, namespace, name)?,
        };
        Some(Outside { host, port, names, reason })
    }
}

/// What the resolver of a pod would ask for, as far as it leads out of the mesh: names of the cluster where everything is allowed (a Service
/// that is not in the mesh is outside of it), and other names as they are.
fn names(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<Arc<[Box<str>]>> {
    let Snapshot { egress, cluster_domain, .. } = snapshot;
    let full = |rest: &str| format!("{name}{rest}.{cluster_domain}.").into_boxed_str();
    let plain = || format!("{name}.").into_boxed_str();
    if !egress.is_open {
        return (!is_of_cluster_alone(snapshot, name)).then(|| [plain()].into());
    }
    let dots = name.matches('.').count();
    let of_cluster = match dots {
        _ if last_label(name) == "svc" => full(""),
        0 => full(&format!(".{namespace}.svc")),
        1 => full(".svc"),
        _ => return Some([plain()].into()),
    };
    // A Service that is not in the mesh, or a host such as example.com.
    Some(if dots == 1 { [of_cluster, plain()].into() } else { [of_cluster].into() })
}

/// Who waits for a name.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Call(ExchangeId),
    /// It asked for a tunnel.
    Client(ConnId),
}

#[derive(Debug)]
enum Name {
    Asked(Vec<Waiter>),
    Known(Result<Box<[IpAddr]>, Unresolved>, Time),
}

/// Names and addresses outside the mesh, of one worker.
#[derive(Debug, Default)]
pub(crate) struct Known {
    names: HashMap<Arc<[Box<str>]>, Name>,
    slots: HashMap<SocketAddr, Arc<PodSlot>>,
}

impl Known {
    fn addresses(&self, names: &[Box<str>], now: Time) -> Option<&Result<Box<[IpAddr]>, Unresolved>> {
        match self.names.get(names) {
            Some(Name::Known(found, until)) if *until > now => Some(found),
            _ => None,
        }
    }

    /// Lets somebody wait for a name. Some(true): it has to be asked for; None: too many are.
    fn wait(&mut self, names: &Arc<[Box<str>]>, waiter: Waiter) -> Option<bool> {
        if let Some(Name::Asked(waiters)) = self.names.get_mut(names) {
            waiters.push(waiter);
            return Some(false);
        }
        if self.names.len() >= NAMES_MAX {
            self.names.retain(|_, name| matches!(name, Name::Asked(_)));
        }
        if self.names.len() >= NAMES_MAX {
            return None;
        }
        self.names.insert(Arc::clone(names), Name::Asked(vec![waiter]));
        Some(true)
    }

    /// Addresses that have connections.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<PodSlot>> {
        self.slots.values()
    }
}

impl Core {
    /// What a name led to, in the order in which to try, and how long that is good for: the answer to [`Command::Resolve`].
    pub fn resolved(
        &mut self,
        names: &[Box<str>],
        found: Result<(Vec<IpAddr>, Duration), Unresolved>,
        now: Time,
    ) {
        self.now = now;
        let (found, kept) = match found {
            Ok((mut addresses, kept)) if !addresses.is_empty() => {
                addresses.truncate(ADDRESSES_MAX);
                let addresses = addresses.iter().map(IpAddr::to_canonical).collect();
                (Ok(addresses), kept.clamp(KEPT_MIN, KEPT_MAX))
            }
            Ok(_) => (Err(Unresolved::NoSuchName), KEPT_FAILURE),
            Err(why) => (Err(why), KEPT_FAILURE),
        };
        if let Some(name) = self.outside.names.get_mut(names)
            && let Name::Asked(waiters) = std::mem::replace(name, Name::Known(found, now + kept))
        {
            for waiter in waiters {
                match waiter {
                    Waiter::Call(id) => self.place(id, None),
                    Waiter::Client(id) => self.unhold(id),
                }
            }
        }
        self.settle();
    }

    /// Whether a call to such a host could be allowed at all, or why not. For an address this is all there is to ask.
    pub(crate) fn may_leave(&mut self, id: ConnId, outside: &Outside) -> Result<(), Reason> {
        let verdict = self.with_caller(id, outside.port, |snapshot, own, caller| match &outside.host {
            Host::Address(address) => judge(snapshot, own, (caller, false), *address),
            Host::Name(name) => {
                let is_allowed = snapshot.egress.by_name(caller, name).is_some()
                    || snapshot.egress.may_go_by_address(caller);
                if is_allowed { Ok(()) } else { Err(outside.reason) }
            }
        });
        let verdict = verdict.unwrap_or(Err(Reason::Internal));
        // That it is no Service says more to whoever mistyped one.
        let verdict = verdict.map_err(|why| if why == Reason::NotInMesh { outside.reason } else { why });
        self.tell_refused(id, outside, verdict)
    }

    /// Whether what a caller says in a tunnel to a host that is allowed by its name, as SNI or `Host`, is allowed, too.
    pub(crate) fn may_name(&mut self, id: ConnId, outside: &Outside, name: &str) -> bool {
        let Some(Host::Name(name)) = Host::of(name) else {
            // An address names nobody else.
            return matches!((Host::of(name), &outside.host), (Some(said), host) if said == *host);
        };
        if outside.host == Host::Name(name.clone()) {
            return true;
        }
        let is_allowed = self.with_caller(id, outside.port, |snapshot, _, caller| {
            let by_address = |address: &IpAddr| snapshot.egress.by_address(caller, *address).is_some();
            let is_by_address = matches!(&outside.host, Host::Address(address) if by_address(address));
            is_by_address || snapshot.egress.by_name(caller, &name).is_some()
        });
        is_allowed.unwrap_or(false)
    }

    /// Puts a call to a host outside the mesh on a connection to one of its addresses, now or when these are known.
    pub(crate) fn place_outside(&mut self, id: ExchangeId, outside: &Outside, fresh: Option<Fresh<'_>>) {
        let addresses = match self.addresses_of(outside, Waiter::Call(id)) {
            Ok(Some(addresses)) => addresses,
            Ok(None) => return,
            Err(reason) => return self.fail(id, reason),
        };
        let caller = self.exchanges.get(id).and_then(|exchange| exchange.origin.caller());
        let Some(caller) = caller else { return self.fail(id, Reason::Internal) };
        let permitted = self.permitted(caller, outside, &addresses);
        let permitted = match self.tell_refused(caller, outside, permitted) {
            Ok(permitted) => permitted,
            Err(reason) => return self.fail(id, reason),
        };
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (tried, failure) = (&exchange.tried_pods, exchange.failure);
        let next = permitted.iter().map(|ip| SocketAddr::new(*ip, outside.port));
        let Some(address) = next.into_iter().find(|address| !tried.contains(address)) else {
            return self.fail(id, failure);
        };
        let Some(slot) = self.slot_outside(address) else { return self.fail(id, Reason::Overloaded) };
        slot.acquire();
        self.deliver(id, &slot, fresh);
    }

    /// Whether a tunnel to such a host may be answered, or why not; None: its name is asked for first, and the caller held.
    pub(crate) fn may_tunnel(&mut self, id: ConnId, outside: &Outside) -> Option<Result<(), Reason>> {
        if let Err(reason) = self.may_leave(id, outside) {
            return Some(Err(reason));
        }
        let is_over = self.net.client(id).is_none_or(|client| client.is_hold_over());
        let addresses = match self.addresses_of(outside, Waiter::Client(id)) {
            Ok(Some(addresses)) => addresses,
            Ok(None) if is_over => return Some(Err(Reason::NameFailed)),
            Ok(None) => {
                self.be_held(id, self.now + HELD_MAX);
                return None;
            }
            Err(reason) => return Some(Err(reason)),
        };
        let permitted = self.permitted(id, outside, &addresses);
        Some(self.tell_refused(id, outside, permitted).map(drop))
    }

    /// None: they are asked for, and whoever waits is told.
    fn addresses_of(&mut self, outside: &Outside, waiter: Waiter) -> Result<Option<Box<[IpAddr]>>, Reason> {
        if let Host::Address(address) = outside.host {
            return Ok(Some([address].into()));
        }
        match self.outside.addresses(&outside.names, self.now) {
            Some(Ok(addresses)) => return Ok(Some(addresses.clone())),
            Some(Err(Unresolved::NoSuchName)) => return Err(Reason::NoSuchHost),
            Some(Err(Unresolved::Failed)) => return Err(Reason::NameFailed),
            None => {}
        }
        match self.outside.wait(&outside.names, waiter) {
            None => return Err(Reason::Overloaded),
            Some(false) => {}
            Some(true) => {
                self.net.commands.push(Command::Resolve { names: Arc::clone(&outside.names) });
            }
        }
        Ok(None)
    }

    /// Those that this caller may call; when there is none, why.
    fn permitted(&self, id: ConnId, outside: &Outside, all: &[IpAddr]) -> Result<Vec<IpAddr>, Reason> {
        let verdicts = self.with_caller(id, outside.port, |snapshot, own, caller| {
            let is_by_name = match &outside.host {
                Host::Name(name) => snapshot.egress.by_name(caller, name).is_some(),
                Host::Address(_) => false,
            };
            let judged = |address: &IpAddr| judge(snapshot, own, (caller, is_by_name), *address);
            let permitted: Vec<_> = all.iter().copied().filter(|address| judged(address).is_ok()).collect();
            let first = all.first().map_or(Err(Reason::NoSuchHost), judged);
            if permitted.is_empty() { Err(first.err().unwrap_or(Reason::Internal)) } else { Ok(permitted) }
        });
        verdicts.unwrap_or(Err(Reason::Internal))
    }

    /// Gives whoever calls to a function of the snapshot; None when it is gone.
    fn with_caller<T>(
        &self,
        id: ConnId,
        port: u16,
        of: impl FnOnce(&Snapshot, &[IpAddr], &Caller<'_>) -> T,
    ) -> Option<T> {
        let conn = self.net.get(id)?;
        let ConnKind::Client(client) = &conn.kind else { return None };
        let account = self.accounts.get(client.account());
        let identity = account.map(|account| account.identity(&self.snapshot.trust_domain));
        let caller = Caller { identity, source: Some(conn.peer.ip().to_canonical()), port };
        Some(of(&self.snapshot, &self.config.own_addresses, &caller))
    }

    /// A refusal is told with who called what.
    fn tell_refused<T>(
        &mut self,
        id: ConnId,
        outside: &Outside,
        verdict: Result<T, Reason>,
    ) -> Result<T, Reason> {
        if let Err(reason @ (Reason::NotInMesh | Reason::NeverCalled)) = verdict {
            self.tell_egress(id, outside, reason, None);
        }
        verdict
    }

    /// Tells that a call out of the mesh was refused; `named` is what it said in a tunnel.
    pub(crate) fn tell_egress(&mut self, id: ConnId, outside: &Outside, reason: Reason, named: Option<&str>) {
        let caller =
            self.with_caller(id, outside.port, |_, _, caller| in_words(caller.identity, caller.source));
        let host = match &outside.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.to_string(),
        };
        let (port, named) = (outside.port, named.map(|name| name.chars().take(NAME_BYTES_MAX - 1).collect()));
        self.event(Event::EgressRefused {
            caller: caller.unwrap_or_default(),
            host,
            port,
            reason: reason.word(),
            named,
        });
    }

    /// The slot of an address. None: connections to as many are open as may be.
    fn slot_outside(&mut self, address: SocketAddr) -> Option<Arc<PodSlot>> {
        let Known { slots, .. } = &mut self.outside;
        if !slots.contains_key(&address) {
            if slots.len() >= SLOTS_MAX {
                slots.retain(|_, slot| !self.pools.let_go(slot));
            }
            if slots.len() >= SLOTS_MAX {
                return None;
            }
            slots.insert(address, Arc::new(PodSlot::new(address, "".into())));
        }
        let slot = slots.get(&address)?;
        self.pools.keep(slot);
        Some(Arc::clone(slot))
    }
}

/// Whether an address may be called.
fn judge(
    snapshot: &Snapshot,
    own: &[IpAddr],
    (caller, is_by_name): (&Caller<'_>, bool),
    address: IpAddr,
) -> Result<(), Reason> {
    let egress = &snapshot.egress;
    if never(snapshot, own, address).is_some() {
        return Err(Reason::NeverCalled);
    }
    let is_allowed =
        egress.by_address(caller, address).is_some() || (is_by_name && !egress.is_of_pods(address));
    if is_allowed { Ok(()) } else { Err(Reason::NotInMesh) }
}
