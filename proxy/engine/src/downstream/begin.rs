//! A request's first moments: who calls, what is asked for, and the exchange that serves it or the answer that refuses it.

use std::rc::Rc;
use std::sync::Arc;

use vicino_wire::head::{
    Authority, DEBUG_FIELD, Framing, Header, Headers, RequestHead, UPGRADE_FIELD, Version,
};
use vicino_wire::hop::{
    DEADLINE_MS_NONE, HOP_HEADERS_MAX, Kind, PAYLOAD_BYTES_MAX, RequestFrame, encode_request,
};
use vicino_wire::http1::{BodyDecoder, Request};

use super::{Ask, Asker, ClientState};
use crate::account::AccountIndex;
use crate::affinity::NewCookie;
use crate::connection::Kind as ConnKind;
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::exchange::{
    Aside, Exchange, ExchangeId, Fresh, Method, Origin, RequestSide, ResponseSide, Target, Wait,
};
use crate::identify::{Caller, identify};
use crate::outside::Outside;
use crate::plan::{self, Choice, Plan, outbound};
use crate::reply::{Reason, Reply};
use crate::route::route;
use crate::rules::{NotAllowed, OVERRIDE_FIELD};
use crate::snapshot::PodSlot;

/// Proxies of this mesh that a call may have passed.
pub(crate) const HOPS_MAX: u8 = 8;

/// What the proxy makes of whoever calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A neighbour, or the node.
    Known,
    /// Perhaps it will be known soon.
    Unknown,
    /// Nobody of this neighbourhood.
    Refused,
}

/// Held connections that are gone and still listed.
const HELD_FORGOTTEN_MAX: u64 = 1024;

/// What the head says of the way that a call took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way<'a> {
    hops: u8,
    /// Which other Services it asks for.
    wishes: Option<&'a [u8]>,
}

/// How often `Via` names us, and what `vicino-route` says.
fn look_back(headers: Headers<'_>) -> Way<'_> {
    let mut way = Way::default();
    for Header { name, value } in headers {
        match name.len() {
            3 if name.eq_ignore_ascii_case(b"via") => {
                let ours =
                    value.split(|b| *b == b',').filter(|one| one.trim_ascii() == b"1.1 vicino").count();
                way.hops = way.hops.saturating_add(u8::try_from(ours).unwrap_or(u8::MAX));
            }
            12 if name.eq_ignore_ascii_case(OVERRIDE_FIELD.as_bytes()) => {
                way.wishes = way.wishes.or(Some(value));
            }
            _ => {}
        }
    }
    way
}

/// The fields with one more cookie, all cookies in one field (RFC 6265 section 5.4 wants no more); `cookies` and `fields` are where it lies.
fn with_cookie<'a>(
    headers: Headers<'a>,
    pair: &str,
    (cookies, fields): (&'a mut Vec<u8>, &'a mut Vec<Header<'a>>),
) -> Headers<'a> {
    for value in headers.get_all("cookie").map(<[u8]>::trim_ascii).filter(|value| !value.is_empty()) {
        cookies.extend_from_slice(value);
        cookies.extend_from_slice(b"; ");
    }
    cookies.extend_from_slice(pair.as_bytes());
    fields.extend(headers.into_iter().filter(|field| !field.name.eq_ignore_ascii_case(b"cookie")));
    fields.push(Header { name: b"cookie", value: cookies });
    (&fields[..]).into()
}

impl Core {
    /// A head is complete. Returns how many bytes of the input are done with: 0 when the request is held.
    pub(super) fn begin(&mut self, id: ConnId, request: &Request<'_>) -> usize {
        let verdict = self.verdict(id);
        if verdict == Verdict::Unknown {
            self.hold(id);
            return 0;
        }
        let is_tunnel = verdict == Verdict::Known && request.head.method == "CONNECT";
        let tunnel = is_tunnel.then(|| self.plan_tunnel(id, request.head.authority));
        if let Some(None) = tunnel {
            // Its name is asked for.
            return 0;
        }
        let Some(client) = self.net.client(id) else { return request.len };
        client.keep_alive = request.keep_alive && verdict == Verdict::Known;
        client.is_old = request.head.version == Version::Http10;
        client.state = ClientState::Call;
        client.decoder = (!request.framing.is_empty()).then(|| BodyDecoder::new(request.framing));
        self.net.set_due(id, Time::NEVER);
        if let Some(planned) = tunnel.flatten() {
            self.connect(id, request, planned);
            return request.len;
        }
        if let Some(client) = self.net.client(id) {
            client.is_new = false;
        }
        self.serve(Ask::of_client(id, request), verdict);
        request.len
    }

    /// A request of a caller of whom more is not to be known: it gets what it asks for, or is told why not.
    pub(crate) fn serve(&mut self, ask: Ask<'_>, verdict: Verdict) {
        let Some(id) = ask.origin.caller().filter(|_| verdict == Verdict::Known) else {
            // Nothing more of it is wanted.
            return self.answer(Asker { is_ended: false, ..ask.asker() }, Reason::NotANeighbour);
        };
        if ask.head.method == "CONNECT" {
            return self.answer(ask.asker(), Reason::NoTunnelInHttp2);
        }
        let way = look_back(ask.head.headers);
        let plan = if way.hops > HOPS_MAX { Err(Reason::Loop) } else { self.plan(id, ask.head.authority) };
        let (plan, pick) = match plan.as_ref().map_err(|reason| *reason).and_then(|plan| plan.of(&ask.head)) {
            Ok(found) => found,
            Err(reason) => return self.answer(ask.asker(), reason),
        };
        if let Some(outside) = &plan.outside
            && let Err(reason) = self.may_ask(id, outside, &ask)
        {
            return self.answer(ask.asker(), reason);
        }
        if let Some((limit, of)) = &plan.rate
            && let Err(wait) = self.take_rate(id, &ask.head, (limit, &plan.tally.service, of))
        {
            plan.tally.answered(Reason::RateLimited.status());
            return self.answer_as(ask.asker(), Reason::RateLimited, Reply::later(Reason::RateLimited, wait));
        }
        match pick {
            None => self.call((&ask, way), plan, (ask.head, None)),
            Some(pick) => self.follow((&ask, way), plan, pick),
        }
    }

    /// Who calls, as the snapshot in force sees it.
    pub(crate) fn verdict(&mut self, id: ConnId) -> Verdict {
        let Core { net, snapshot, doubts, judges, accounts, config, now, .. } = self;
        let Some(conn) = net.get_mut(id) else { return Verdict::Refused };
        let peer = conn.peer.ip();
        let Some(client) = conn.client() else { return Verdict::Refused };
        if client.judged_by != *judges {
            client.caller = identify(snapshot, doubts, &config.own_addresses, peer);
            client.judged_by = *judges;
            client.account = AccountIndex::NODE;
            if let Caller::Neighbour(pod) = &client.caller {
                let wait_until = *now + config.unknown_caller_hold;
                client.account = accounts.index(&pod.namespace, &pod.service_account, wait_until);
                client.pod.get_or_insert_with(|| Arc::clone(pod));
            }
        }
        // The certificate of a service account that is new here comes soon, or not at all.
        let is_to_come = accounts.awaits(client.account, *now);
        let is_certain = match client.caller {
            Caller::Neighbour(_) => !is_to_come,
            Caller::Node => true,
            Caller::Unknown | Caller::Foreign => false,
        };
        if is_certain && client.hold_until != Time::NEVER {
            // The next doubt is another one, of which its caller is told in its own time.
            (client.is_hold_over, client.hold_until) = (false, Time::NEVER);
        }
        match client.caller {
            Caller::Neighbour(_) if is_to_come && !client.is_hold_over => Verdict::Unknown,
            Caller::Neighbour(_) | Caller::Node => Verdict::Known,
            Caller::Unknown if !client.is_hold_over => Verdict::Unknown,
            Caller::Unknown | Caller::Foreign => Verdict::Refused,
        }
    }

    /// A pod that has just started may be unknown still: its request waits for the next snapshots.
    pub(crate) fn hold(&mut self, id: ConnId) {
        let latest = self.now + self.config.unknown_caller_hold;
        if let Some(client) = self.net.client(id) {
            // Snapshots may come and not know it either, again and again.
            client.hold_until = client.hold_until.min(latest);
            let until = client.hold_until;
            self.be_held(id, until);
            self.held.push(id);
            // Those that were refused or went are forgotten now and then, should no snapshot come for long.
            if self.held.len() as u64 > 2 * self.tally.held.get() + HELD_FORGOTTEN_MAX {
                let Core { held, net, .. } = self;
                held.retain(|id| net.client(*id).is_some_and(|client| client.state == ClientState::Held));
            }
        }
    }

    /// Holds a caller's connection until then, or until it is let go.
    pub(crate) fn be_held(&mut self, id: ConnId, until: Time) {
        if let Some(client) = self.net.client(id) {
            client.state = ClientState::Held;
            self.tally.held.add(1);
            self.net.set_due(id, until);
        }
    }

    /// What an authority comes to for this caller, from the plans of this snapshot or made now.
    pub(super) fn plan(&mut self, id: ConnId, authority: &str) -> Result<Rc<Plan>, Reason> {
        let Core { net, plans, snapshot, nodes, budgets, tally, now, .. } = self;
        let client = net.client(id).ok_or(Reason::Internal)?;
        let authority = client.tunnel.as_deref().unwrap_or(authority);
        let namespace = client.caller.namespace().ok_or(Reason::NotANeighbour)?;
        let texts = [namespace, authority];
        if let Some(plan) = plans.get(&texts) {
            return Ok(Rc::clone(plan));
        }
        let plan = match route(snapshot, namespace, authority) {
            Ok(route) => outbound(snapshot, &route, (nodes, budgets), (tally, *now)),
            Err(reason @ (Reason::NotInMesh | Reason::NoSuchService)) => {
                let host = Outside::of(snapshot, namespace, authority, reason).ok_or(reason)?;
                plan::outside(host, tally)
            }
            Err(reason) => return Err(reason),
        };
        let plan = Rc::new(plan);
        plans.put(&texts, &plan);
        Ok(plan)
    }

    /// What a tunnel is passed on by, or why there is none; None: the caller is held. A tunnel in a tunnel is refused.
    fn plan_tunnel(&mut self, id: ConnId, authority: &str) -> Option<Result<Rc<Plan>, Reason>> {
        let is_nested = self.net.client(id).is_some_and(|client| client.tunnel.is_some());
        let planned = if is_nested { Err(Reason::NotInMesh) } else { self.plan(id, authority) };
        let outside = planned.as_ref().ok().and_then(|plan| plan.outside.as_ref());
        let may_leave = outside.map_or(Some(Ok(())), |outside| self.may_tunnel(id, outside));
        may_leave.map(|may| may.and(planned))
    }

    /// Whether a request may go to a host outside the mesh; in a tunnel, to the one that it names as well.
    fn may_ask(&mut self, id: ConnId, outside: &Outside, ask: &Ask<'_>) -> Result<(), Reason> {
        self.may_leave(id, outside)?;
        let is_in_tunnel = self.net.client(id).is_some_and(|client| client.tunnel.is_some());
        let Some(named) = Authority::parse(ask.head.authority).filter(|_| is_in_tunnel) else {
            return Ok(());
        };
        if self.may_name(id, outside, named.host) {
            return Ok(());
        }
        self.tell_egress(id, outside, Reason::NotInMesh, Some(named.host));
        Err(Reason::NotInMesh)
    }

    /// Makes the exchange, with the head that the application shall see, and places it, now or later.
    pub(super) fn call(
        &mut self,
        (ask, way): (&Ask<'_>, Way<'_>),
        plan: &Rc<Plan>,
        (head, wait): (RequestHead<'_>, Option<Wait>),
    ) {
        let Some(conn) = ask.origin.caller().and_then(|id| self.net.get_mut(id)) else { return };
        let peer = conn.peer.ip().to_canonical();
        let Some(client) = conn.client() else { return };
        let address = Rc::clone(&client.address);
        let mut extra = [Header { name: b"", value: b"" }; 4];
        let mut count = 0;
        let mut add = |name, value| {
            extra[count] = Header { name, value };
            count += 1;
        };
        if plan.outside.is_none() {
            add(b"x-forwarded-for", address.as_bytes());
        }
        add(b"via", b"1.1 vicino");
        if ask.wants_path {
            add(DEBUG_FIELD.as_bytes(), b"path");
        }
        if let Some(upgrade) = ask.upgrade {
            add(UPGRADE_FIELD.as_bytes(), upgrade);
        }
        let extra = &extra[..count];
        let mut key = plan.key(&head, Some(peer));
        let new_cookie = plan.affinity.as_ref().filter(|_| key.is_none());
        let new_cookie = new_cookie.and_then(|affinity| affinity.new_cookie(&mut self.random));
        let (mut cookies, mut fields) = (Vec::new(), Vec::new());
        let mut head = head;
        if let Some(cookie) = &new_cookie {
            // L2 and the application see the call as the caller's next one will be.
            head.headers = with_cookie(head.headers, &cookie.pair, (&mut cookies, &mut fields));
            key = plan.key(&head, Some(peer));
        }
        let wish = way.wishes.and_then(|wishes| plan.overridden(wishes));
        let choice = match wish {
            None => plan.draw(key, &mut self.random).ok_or(Reason::NoEndpoint),
            Some(wish) => wish.map_err(|NotAllowed| Reason::OverrideNotAllowed),
        };
        let choice = match choice {
            Ok(choice) => choice,
            Err(reason) => return self.answer(ask.asker(), reason),
        };
        let frame = RequestFrame {
            to: plan.choices[choice].destination(),
            kind: Kind::Http,
            deadline_ms: DEADLINE_MS_NONE,
            hops: way.hops + 1,
            is_last_resort: false,
            caller: Some(peer),
            head,
            framing: if ask.upgrade.is_some() { Framing::UntilClose } else { ask.framing },
        };
        let mut kept = self.net.buffers.take();
        let is_encoded = encode_request(&mut kept, 1, &frame, extra).is_ok();
        let (bytes, fields) = plan.edits_max;
        let is_within = kept.len() + bytes <= PAYLOAD_BYTES_MAX
            && (fields == 0 || head.headers.len() + extra.len() + fields <= HOP_HEADERS_MAX);
        if !is_encoded || !is_within {
            self.net.buffers.give(kept);
            return self.answer(ask.asker(), Reason::HeadTooLarge);
        }
        let mut exchange = self.exchange(ask.origin, plan, kept, &frame);
        exchange.request.is_expecting = ask.expect_continue;
        exchange.wants_path = ask.wants_path;
        exchange.is_grpc = ask.is_grpc;
        exchange.affinity = key;
        exchange.is_pinned = wish.is_some();
        exchange.wait = wait;
        exchange.aside = self.aside(ask, plan, new_cookie);
        let patience = plan.request_timeout.into_iter().chain(ask.patience()).min();
        let due = patience.map_or(Time::NEVER, |patience| self.now + patience);
        self.start(exchange, due, Some(Fresh { frame: &frame, extra }));
    }

    /// What a call has beside what all calls have.
    fn aside(&mut self, ask: &Ask<'_>, plan: &Plan, cookie: Option<NewCookie>) -> Option<Box<Aside>> {
        let cors = plan.rule.as_ref().and_then(|rule| rule.cors.as_ref());
        let mirror = plan.mirror.as_ref().filter(|_| ask.upgrade.is_none());
        if cookie.is_none() && cors.is_none() && mirror.is_none() {
            return None;
        }
        let mirror = mirror.filter(|mirror| mirror.percent > self.random.below(100));
        Some(Box::new(Aside {
            set_cookie: cookie.map(|cookie| cookie.field.into_boxed_str()),
            cors: cors.and_then(|cors| cors.answer(ask.head.headers)),
            mirror: mirror.map(|mirror| Rc::clone(&mirror.plan)),
            failures: None,
            head: None,
        }))
    }

    /// A call before it is placed. `kept` is its REQUEST frame.
    pub(crate) fn exchange(
        &self,
        origin: Origin,
        plan: &Rc<Plan>,
        kept: Vec<u8>,
        frame: &RequestFrame<'_>,
    ) -> Exchange {
        let addressed = |choice: &Choice| choice.destination() == frame.to;
        let choice = plan.choices.iter().position(addressed).unwrap_or(0);
        let (window, peer_window) = match origin {
            Origin::Client(_) | Origin::Mirror | Origin::Hedge(_) => (0, 0),
            Origin::Session(id, _) => {
                let session = self.net.get(id).and_then(|conn| conn.session.as_ref());
                (self.config.session_stream_window, session.map_or(0, |session| session.peer_window))
            }
            Origin::Stream(hop, _) => {
                let kind = self.net.get(hop).map(|conn| &conn.kind);
                let window = if let Some(ConnKind::Hop(hop)) = kind { hop.peer.initial_window } else { 0 };
                (self.config.stream_window, window)
            }
        };
        let account = match origin.caller().and_then(|id| self.net.get(id)).map(|conn| &conn.kind) {
            Some(ConnKind::Client(client)) => client.account(),
            _ => AccountIndex::NODE,
        };
        Exchange {
            origin,
            account,
            target: Target::None,
            plan: Rc::clone(plan),
            choice,
            addressed_to: choice,
            kind: frame.kind,
            is_upgrade: frame.kind == Kind::Http && frame.framing == Framing::UntilClose,
            method: Method::of(frame.head.method),
            version: frame.head.version,
            is_grpc: false,
            wants_path: false,
            request: RequestSide::new(kept, frame.framing, window),
            response: ResponseSide::new(peer_window),
            counted: None,
            pod: None,
            tried_nodes: Vec::new(),
            tried_pods: Vec::new(),
            requeues_left: plan.requeues,
            retries: 0,
            may_try_again: false,
            deadline: Time::NEVER,
            is_fresh_only: false,
            affinity: None,
            is_pinned: false,
            is_silent: false,
            aside: None,
            wait: None,
            queued: None,
            late: None,
            hedge_at: Time::NEVER,
            attempt_due: Time::NEVER,
            hedge: None,
            is_reservation: false,
            outcome: 0,
            is_probe: false,
            has_met_ejected: false,
            is_last_resort: frame.is_last_resort,
            failure: Reason::NoEndpoint,
            started: self.now,
            placed: self.now,
            delivered: self.now,
            moved: Time(0),
        }
    }

    /// Takes a call in that has to be over at `due`, and places it when it need not wait.
    pub(crate) fn start(&mut self, exchange: Exchange, due: Time, fresh: Option<Fresh<'_>>) {
        let is_waiting = exchange.wait.is_some();
        let id = self.take_in(exchange, due);
        if self.exchanges.get(id).is_some_and(|exchange| exchange.request.is_ended) {
            self.mirror(id);
        }
        if is_waiting {
            self.set_exchange_due(id);
        } else {
            self.place(id, fresh);
        }
    }

    /// Takes a call in for which a pod is held.
    pub(crate) fn start_on(
        &mut self,
        exchange: Exchange,
        due: Time,
        (slot, fresh): (&Arc<PodSlot>, Option<Fresh<'_>>),
    ) {
        let id = self.take_in(exchange, due);
        self.deliver(id, slot, fresh);
    }

    pub(crate) fn take_in(&mut self, mut exchange: Exchange, due: Time) -> ExchangeId {
        exchange.plan.tally.open.add(1);
        if !matches!(exchange.origin, Origin::Hedge(_)) {
            let Plan { retries, hedges, .. } = &*exchange.plan;
            let accounts = retries.iter().map(|of| &of.account).chain(hedges.iter().map(|of| &of.account));
            accounts.for_each(|account| account.count(self.now));
        }
        exchange.deadline = due;
        let origin = exchange.origin;
        let id = self.exchanges.insert(exchange);
        self.set_attempt_due(id);
        match origin {
            Origin::Client(client) => {
                if let Some(client) = self.net.client(client) {
                    client.exchange = Some(id);
                }
            }
            Origin::Session(conn, stream) => self.add_session_stream(conn, stream, id),
            Origin::Stream(hop, stream) => self.add_stream(hop, stream, id),
            Origin::Mirror | Origin::Hedge(_) => {}
        }
        id
    }
}
