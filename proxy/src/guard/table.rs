//! The table in the kernel: how it is written, read and taken away; what is to be in it is the plan's to say.
//!
//! As `nft list table inet vicino` shows it (or `vicino-b`, after it was built anew):
//!
//! ```text
//! table inet vicino {
//!   map ports4 { type ipv4_addr . inet_service : verdict; counter; elements = { 10.0.1.7 . 9090 counter … : accept } }
//!   map pods4 { type ipv4_addr : verdict; counter; elements = { 10.0.1.7 counter … : goto refuse } }
//!   map ports6, map pods6
//!   set lease { type nf_proto; timeout 1h; elements = { ipv4 expires …, ipv6 expires … } }
//!   chain forward { type filter hook forward priority filter + 10; policy accept;
//!     meta nfproto @lease tcp flags syn / fin,syn,rst,ack goto arrivals }
//!   chain arrivals {
//!     ip daddr . th dport vmap @ports4
//!     ip daddr vmap @pods4
//!     ip6 daddr … }
//!   chain refuse { meta l4proto tcp reject with tcp reset }
//! }
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::io;
use std::time::Duration;

use netlink_bindings::nftables::{
    ExprOps, IterableSetelemAttrs, IterableSetelemListAttrs, OpGetruleDump, OpGetsetelemDump, OpGettableDo,
    Request, SetelemListElemAttrs, VerdictCode,
};

use super::plan::{Entry, Item, Plan, Stance};
use super::socket::Socket;

mod write;

use write::{LEASES, MAPS, Map, NFPROTO_IPV4, NFPROTO_IPV6, RULES, Transaction, entry_of, inet};

/// What nobody renews for so long lets everything pass: rules of a mesh that is gone do not outlive it for longer.
pub const LEASE: Duration = Duration::from_hours(1);
/// The names that the table has, one after the other; a node belongs to one mesh.
const TABLES: [&CStr; 2] = [c"vicino", c"vicino-b"];
/// Lists that change while they are read are read again, and so is all when somebody else was first to change it.
const ATTEMPTS: usize = 5;

/// What an element of a map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Whether it refuses.
    pub refuses: bool,
    /// Attempts to connect, with those sent again.
    pub packets: u64,
}

/// What maps say of entries.
pub type Elements = BTreeMap<Entry, Element>;

/// What the kernel has.
#[derive(Debug, Default, PartialEq)]
struct Live {
    name: &'static CStr,
    /// Whether it is built as this version builds it.
    is_ours: bool,
    /// Whether there is a table at all.
    exists: bool,
    elements: Elements,
    /// What is left of each protocol's lease.
    leases: HashMap<u8, Duration>,
}

/// Has the kernel hold to `plan`, changing only what differs; what it held before.
///
/// What changes within a table changes at once. A table that is not as it is built here is replaced by one of the other name, and goes
/// only then: within one transaction the rules of the old one would be gone a moment before those of the new one find their elements.
pub fn hold(socket: &mut Socket, plan: &Plan) -> io::Result<Elements> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match hold_once(socket, plan) {
            // Another proxy of the node was first, so that what was read is not there any more, or there already.
            Err(e) if attempts > 0 && is_overtaken(&e) => {}
            done => return done,
        }
    }
}

fn hold_once(socket: &mut Socket, plan: &Plan) -> io::Result<Elements> {
    let tables = read(socket)?;
    if let Some(own) = tables.iter().find(|live| live.is_ours) {
        if let Some(transaction) = difference(own, plan) {
            socket.commit(&transaction)?;
        }
        for other in tables.iter().filter(|live| live.exists && live.name != own.name) {
            remove_one(socket, other.name)?;
        }
        return Ok(own.elements.clone());
    }
    let old = tables.iter().find(|live| live.exists);
    let [_, second] = &tables;
    let free = tables.iter().find(|live| !live.exists).unwrap_or(second);
    if free.exists {
        remove_one(socket, free.name)?;
    }
    let elements = old.map(|live| live.elements.clone()).unwrap_or_default();
    socket.commit(&whole(free.name, plan, &elements))?;
    if let Some(old) = old {
        remove_one(socket, old.name)?;
    }
    Ok(elements)
}

/// As [`hold`], for a plan that may be older than what the kernel has: changes nothing that is there.
pub fn leave(socket: &mut Socket, plan: &Plan) -> io::Result<Elements> {
    let tables = read(socket)?;
    let Some(live) = tables.iter().find(|live| live.is_ours).or(tables.iter().find(|live| live.exists))
    else {
        return hold(socket, plan);
    };
    if live.is_ours && !is_leased(live) {
        let mut transaction = Transaction::new(live.name);
        write::renew(&mut transaction, &live.leases.keys().copied().collect::<Vec<_>>());
        socket.commit(&transaction.finish())?;
    }
    Ok(live.elements.clone())
}

/// Takes everything away.
pub fn remove(socket: &mut Socket) -> io::Result<()> {
    TABLES.into_iter().try_for_each(|name| remove_one(socket, name))
}

fn remove_one(socket: &mut Socket, name: &'static CStr) -> io::Result<()> {
    let mut transaction = Transaction::new(name);
    transaction.remove();
    match socket.commit(&transaction.finish()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn is_leased(live: &Live) -> bool {
    let is_held = |protocol: &u8| live.leases.get(protocol).is_some_and(|left| *left >= LEASE / 2);
    [NFPROTO_IPV4, NFPROTO_IPV6].iter().all(is_held)
}

fn is_overtaken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotFound, ResourceBusy};
    matches!(error.kind(), NotFound | AlreadyExists | ResourceBusy)
}

/// A table of that name with all that the plan wants; counters go on from where they are in `before`.
fn whole(name: &'static CStr, plan: &Plan, before: &Elements) -> Vec<u8> {
    let mut transaction = Transaction::new(name);
    write::create(&mut transaction);
    let all = plan.items.iter().map(|(entry, item)| element(entry, item, before));
    write::add(&mut transaction, &all.collect::<Vec<_>>());
    write::renew(&mut transaction, &[]);
    transaction.finish()
}

fn element(entry: &Entry, item: &Item, before: &Elements) -> (Entry, Element) {
    let packets = before.get(entry).map_or(0, |element| element.packets);
    (*entry, Element { refuses: item.stance == Stance::Refuse, packets })
}

/// What makes of a table of ours what the plan wants; None: it is that already.
fn difference(live: &Live, plan: &Plan) -> Option<Vec<u8>> {
    let is_kept = |entry: &Entry, element: &Element| {
        plan.items.get(entry).is_some_and(|item| (item.stance == Stance::Refuse) == element.refuses)
    };
    let stale = live.elements.iter().filter(|(entry, element)| !is_kept(entry, element));
    let stale: Vec<Entry> = stale.map(|(entry, _)| *entry).collect();
    let is_missing = |entry: &Entry| !live.elements.get(entry).is_some_and(|element| is_kept(entry, element));
    let missing = plan.items.iter().filter(|(entry, _)| is_missing(entry));
    let missing: Vec<_> = missing.map(|(entry, item)| element(entry, item, &live.elements)).collect();
    let is_leased = is_leased(live);
    if is_leased && stale.is_empty() && missing.is_empty() {
        return None;
    }
    let mut transaction = Transaction::new(live.name);
    write::delete(&mut transaction, &stale);
    write::add(&mut transaction, &missing);
    if !is_leased {
        write::renew(&mut transaction, &live.leases.keys().copied().collect::<Vec<_>>());
    }
    Some(transaction.finish())
}

/// What the kernel has now.
fn read(socket: &mut Socket) -> io::Result<[Live; TABLES.len()]> {
    let [first, second] = TABLES;
    Ok([read_table(socket, first)?, read_table(socket, second)?])
}

fn read_table(socket: &mut Socket, name: &'static CStr) -> io::Result<Live> {
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        match read_once(socket, name) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => failed = Some(e),
            // The table went between two requests.
            Err(e) if e.kind() == io::ErrorKind::NotFound => failed = Some(e),
            read => return read,
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::Interrupted.into()))
}

fn read_once(socket: &mut Socket, name: &'static CStr) -> io::Result<Live> {
    let mut live = Live { name, ..Live::default() };
    let mut request = Request::new().op_gettable_do(&inet());
    request.encode().push_name(name);
    let asked = socket.ask(&request, |answer| {
        let (_, attributes) = OpGettableDo::decode_request(answer);
        live.exists = true;
        live.is_ours = attributes.get_userdata().is_ok_and(|data| data == write::userdata());
    });
    match asked {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(live),
        asked => asked?,
    }
    let mut rules = 0;
    let mut request = Request::new().op_getrule_dump(&inet());
    request.encode().push_table(name);
    socket.ask(&request, |answer| {
        let (_, attributes) = OpGetruleDump::decode_request(answer);
        rules += usize::from(attributes.get_table().is_ok_and(|table| table == name));
    })?;
    live.is_ours &= rules == RULES;
    for map in MAPS {
        list(socket, (name, map.name), |element| {
            live.elements.extend(element_of(map, &element));
        })
        .or_else(|e| missing_set(&mut live, e))?;
    }
    list(socket, (name, LEASES), |element| {
        let protocol = element.get_key().and_then(|key| key.get_value()).ok().and_then(<[u8]>::first);
        let left = u64::from_be(element.get_expiration().unwrap_or(0));
        live.leases.extend(protocol.map(|protocol| (*protocol, Duration::from_millis(left))));
    })
    .or_else(|e| missing_set(&mut live, e))?;
    Ok(live)
}

/// A table of another version may lack a set.
fn missing_set(live: &mut Live, error: io::Error) -> io::Result<()> {
    if error.kind() != io::ErrorKind::NotFound || live.is_ours { Err(error) } else { Ok(()) }
}

fn list(
    socket: &mut Socket,
    (table, set): (&CStr, &CStr),
    mut each: impl FnMut(IterableSetelemAttrs<'_>),
) -> io::Result<()> {
    let mut request = Request::new().op_getsetelem_dump(&inet());
    request.encode().push_table(table).push_set(set);
    socket.ask(&request, |answer| {
        let (_, attributes): (_, IterableSetelemListAttrs<'_>) = OpGetsetelemDump::decode_request(answer);
        for element in attributes.get_elements().into_iter().flatten().flatten() {
            let SetelemListElemAttrs::Elem(element) = element;
            each(element);
        }
    })
}

fn element_of(map: Map, element: &IterableSetelemAttrs<'_>) -> Option<(Entry, Element)> {
    let entry = entry_of(map, element.get_key().ok()?.get_value().ok()?)?;
    let verdict = element.get_data().ok()?.get_verdict().ok()?;
    let refuses = verdict.get_code().ok()? != VerdictCode::Accept as u32;
    let packets = match element.get_expr().ok()?.get_data().ok()? {
        ExprOps::Counter(counter) => counter.get_packets().ok()?,
        _ => return None,
    };
    Some((entry, Element { refuses, packets }))
}
