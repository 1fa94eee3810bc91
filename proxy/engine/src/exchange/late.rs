//! Late binding: a call that is in line at one node gets places in the lines of a few others, and goes to whichever has a pod first
//! (Ousterhout et al., "Sparrow: distributed, low latency scheduling", SOSP 2013). A call that need not wait has nothing to do with it.

use std::rc::Rc;
use std::sync::Arc;

use vicino_wire::hop::{
    Reset, encode_cancel, encode_grant, encode_reserve, encode_reset, encode_started, encode_wait,
};

use super::place::{GRADE_FAR, grade};
use super::{Exchange, ExchangeId, Origin, Target};
use crate::balance::{Candidate, pick_node};
use crate::core::{ConnId, Core};
use crate::hop::node::NodeIndex;
use crate::plan::{Plan, Share};
use crate::queue::{Found, Grant, Limit};
use crate::reply::Reason;
use crate::snapshot::PodSlot;

/// Places that a call may have besides its first. One is added when the one before it is in line, too: so many are
/// needed where nodes have a single pod each, and are rare elsewhere (`tests/sim`).
const PLACES_MAX: usize = 6;
/// So many of them are sought where calls are meant to go, before others are asked.
const PLACES_NEAR: usize = 3;

/// Places in other lines.
#[derive(Debug, Default)]
pub(crate) struct Late {
    in_line: Vec<(NodeIndex, Place)>,
    held: Held,
    /// How many it has ever had.
    count: usize,
}

#[derive(Debug)]
enum Place {
    /// On another node.
    Stream(ConnId, u32),
    /// On the own one.
    Own(Arc<Limit>),
}

impl Place {
    fn is_stream(&self, hop: ConnId, stream: u32) -> bool {
        matches!(self, Place::Stream(h, s) if (*h, *s) == (hop, stream))
    }
}

/// A pod that is held for the call while it is asked back from where it is.
#[derive(Debug, Default)]
enum Held {
    #[default]
    No,
    There(NodeIndex, ConnId, u32),
    Here(NodeIndex, Grant),
    /// It was, and is no longer.
    Lost,
}

impl Late {
    /// Whether the call was asked back and has not come yet.
    fn is_asked_back(&self) -> bool {
        !matches!(self.held, Held::No)
    }

    fn has_node(&self, node: NodeIndex) -> bool {
        self.in_line.iter().any(|(known, _)| *known == node)
    }
}

impl Exchange {
    fn add_place(&mut self, node: NodeIndex, place: Place) {
        let late = self.late.get_or_insert_default();
        late.in_line.push((node, place));
        late.count += 1;
    }
}

impl Core {
    /// A caller's call is in line: it gets a place on one more node where calls from here are meant to go, when there is one.
    pub(crate) fn reserve(&mut self, id: ExchangeId) {
        loop {
            let Some(exchange) = self.exchanges.get_mut(id) else { return };
            let may_more = exchange.late.as_ref().is_none_or(|l| l.count < PLACES_MAX && !l.is_asked_back());
            let is_free = exchange.origin.is_caller() && exchange.affinity.is_none();
            if !may_more || !is_free || !exchange.is_replayable() {
                return;
            }
            // From now on it is known to be in line.
            exchange.late.get_or_insert_default();
            let plan = Rc::clone(&exchange.plan);
            let Some(share) = self.another_node(id, &plan) else { return };
            if !share.is_own {
                return self.reserve_there(id, share.node);
            }
            if !self.reserve_here(id, &plan, share.node) {
                return;
            }
        }
    }

    /// Of the nodes where the call has no place, by power of two choices.
    fn another_node(&mut self, id: ExchangeId, plan: &Plan) -> Option<Share> {
        let Core { exchanges, nodes, loads, random, now, .. } = self;
        let exchange = exchanges.get(id)?;
        let of = &plan.choices[exchange.choice];
        let count = exchange.late.as_ref().map_or(0, |late| late.count);
        let candidates = of.shares.iter().map(|share| {
            let has_place = exchange.late.as_ref().is_some_and(|late| late.has_node(share.node));
            let is_other = exchange.counted != Some(share.node) && !has_place;
            let is_open = is_other && grade(exchange, exchange.choice, *share, nodes, *now) >= GRADE_FAR;
            // Those that calls from here are meant for come first. When some of these have no pod by their own word, it is the others' turn: what spills over is what is too much here.
            let is_first = share.is_near == (count < PLACES_NEAR);
            Candidate { pods: share.pods, grade: u8::from(is_open) * (1 + u8::from(is_first)) }
        });
        let load = |i: usize| u64::from(loads.get(of.key, of.shares[i].node));
        pick_node(&candidates, load, random).map(|picked| of.shares[picked])
    }

    fn reserve_there(&mut self, id: ExchangeId, node: NodeIndex) {
        let Some(account) = self.exchanges.get(id).map(|exchange| exchange.account) else { return };
        let Ok(hop_id) = self.hop_to(node, account) else { return };
        let Some(hop) = self.net.hop(hop_id) else { return };
        if hop.wait_to_reserve(id) {
            return;
        }
        let Some(stream) = hop.next_reservation() else { return };
        let Core { net, exchanges, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        let to = exchange.plan.choices[exchange.choice].destination();
        let is_last_resort = exchange.is_last_resort;
        if net.out(hop_id).is_none_or(|out| encode_reserve(out, stream, &to, is_last_resort).is_err()) {
            return;
        }
        exchange.add_place(node, Place::Stream(hop_id, stream));
        self.add_stream(hop_id, stream, id);
    }

    /// Whether the call is in the own node's line then, and stays there for now.
    fn reserve_here(&mut self, id: ExchangeId, plan: &Plan, node: NodeIndex) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        let of = &plan.choices[exchange.choice];
        let Some(limit) = of.limit.clone().filter(|_| exchange.tried_pods.is_empty()) else { return false };
        if !limit.line_up((&self.mailbox, id), (exchange, true), self.now) {
            return false;
        }
        exchange.add_place(node, Place::Own(limit.clone()));
        limit.serve(&of.pods, (&self.mailbox, self.now));
        !self.mailbox.has_mail()
    }

    /// Whether a reservation of this call is what that stream is.
    pub(crate) fn is_reservation_stream(&self, id: ExchangeId, hop: ConnId, stream: u32) -> bool {
        let late = self.exchanges.get(id).and_then(|exchange| exchange.late.as_ref());
        late.is_some_and(|late| {
            late.in_line.iter().any(|(_, place)| place.is_stream(hop, stream))
                || matches!(late.held, Held::There(_, h, s) if (h, s) == (hop, stream))
        })
    }

    /// Takes one of the places in line out.
    fn take_place(&mut self, id: ExchangeId, is_it: impl Fn(&Place) -> bool) -> Option<(NodeIndex, Place)> {
        let late = self.exchanges.get_mut(id)?.late.as_mut()?;
        let at = late.in_line.iter().position(|(_, place)| is_it(place))?;
        Some(late.in_line.swap_remove(at))
    }

    /// A slot of the own node was taken for a call. Gives it back when the call has no reservation here.
    pub(crate) fn granted_here(&mut self, id: ExchangeId, grant: Grant) -> Option<Grant> {
        let Some((node, _)) = self.take_place(id, |place| matches!(place, Place::Own(_))) else {
            return Some(grant);
        };
        self.reservation_held(id, Held::Here(node, grant));
        None
    }

    /// Another node holds a pod for a call in line.
    pub(crate) fn granted_there(&mut self, id: ExchangeId, hop: ConnId, stream: u32) {
        if let Some((node, _)) = self.take_place(id, |place| place.is_stream(hop, stream)) {
            self.reservation_held(id, Held::There(node, hop, stream));
        }
    }

    /// A pod is held for a call in line: the call is asked back from where it is.
    fn reservation_held(&mut self, id: ExchangeId, held: Held) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return self.let_go(held) };
        let (may_move, target) = (exchange.is_replayable(), exchange.target);
        let Some(late) = &mut exchange.late else { return self.let_go(held) };
        match late.held {
            Held::No => late.held = held,
            Held::Lost => {
                // The call is on its way back.
                late.held = held;
                return;
            }
            // One is enough.
            Held::There(..) | Held::Here(..) => return self.let_go(held),
        }
        match target {
            Target::Stream(hop, stream) if may_move => {
                if let Some(out) = self.net.out(hop) {
                    encode_cancel(out, stream);
                }
            }
            Target::None if may_move && self.step_out_of_line(id) => {
                self.take_reservation(id);
            }
            // It has begun, or is no longer all here.
            _ => self.drop_reservations(id),
        }
    }

    /// Takes a call out of the line of the own node. False: it is not there, or a slot was taken for it.
    pub(crate) fn step_out_of_line(&mut self, id: ExchangeId) -> bool {
        let Core { exchanges, mailbox, tally, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return false };
        let is_out = exchange.queued.as_ref().is_some_and(|queue| queue.remove(mailbox, id));
        if is_out {
            exchange.queued = None;
            tally.queued.sub(1);
        }
        is_out
    }

    /// The call is back, or never went: it goes to the pod that is held for it. False when none is.
    pub(crate) fn take_reservation(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id).filter(|exchange| exchange.is_replayable()) else {
            return false;
        };
        let Some(late) = &mut exchange.late else { return false };
        let held = match std::mem::take(&mut late.held) {
            held @ (Held::There(..) | Held::Here(..)) => held,
            held @ (Held::No | Held::Lost) => {
                late.held = held;
                return false;
            }
        };
        self.tally.late_bound.add(1);
        self.detach(id, Reset::Cancelled);
        self.set_attempt_due(id);
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        let (Held::There(node, ..) | Held::Here(node, _)) = held else { return true };
        exchange.counted = Some(node);
        exchange.placed = self.now;
        self.loads.acquire(exchange.plan.choices[exchange.choice].key, node);
        match held {
            Held::There(_, hop, stream) => {
                let window = self.net.hop(hop).map_or(0, |hop| hop.peer.initial_window);
                self.send_on_stream(id, hop, stream, window);
            }
            Held::Here(_, grant) => {
                exchange.is_probe = grant.is_probe;
                self.deliver(id, &grant.slot, None);
            }
            Held::No | Held::Lost => {}
        }
        true
    }

    /// The other places are not needed.
    pub(crate) fn drop_reservations(&mut self, id: ExchangeId) {
        let Some(late) = self.exchanges.get_mut(id).and_then(|exchange| exchange.late.take()) else { return };
        self.let_go(late.held);
        for (_, place) in late.in_line {
            match place {
                Place::Stream(hop, stream) => self.reset_reservation(hop, stream),
                // When a slot was taken for it just now, that is found in the mailbox and goes to the next.
                Place::Own(limit) => {
                    limit.queue.remove(&self.mailbox, id);
                }
            }
        }
    }

    fn let_go(&mut self, held: Held) {
        match held {
            Held::There(_, hop, stream) => self.reset_reservation(hop, stream),
            Held::Here(_, grant) => self.return_grant(grant),
            Held::No | Held::Lost => {}
        }
    }

    fn reset_reservation(&mut self, hop: ConnId, stream: u32) {
        if self.remove_stream(hop, stream)
            && let Some(out) = self.net.out(hop)
        {
            encode_reset(out, stream, Reset::Cancelled);
        }
    }

    /// Another node has given a place up, or is lost.
    pub(crate) fn reservation_lost(&mut self, id: ExchangeId, hop: ConnId, stream: u32) {
        if self.take_place(id, |place| place.is_stream(hop, stream)).is_none()
            && let Some(late) = self.exchanges.get_mut(id).and_then(|exchange| exchange.late.as_mut())
        {
            late.held = Held::Lost;
        }
    }

    /// The call was given back unprocessed because we had asked for it: that is no failure, and costs nothing.
    pub(crate) fn was_asked_back(&self, id: ExchangeId) -> bool {
        let late = self.exchanges.get(id).and_then(|exchange| exchange.late.as_ref());
        late.is_some_and(|late| late.is_asked_back())
    }

    /// A reservation of another node's call looks for a pod here.
    pub(crate) fn place_reservation(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let plan = Rc::clone(&exchange.plan);
        let choice = &plan.choices[0];
        let found = match &choice.limit {
            // The call would be refused where it went, and may be served where it waits.
            _ if self.is_from_anyone(id) => Found::Nothing(Reason::NoIdentity),
            Some(limit) => self.find_slot(id, 0, (limit, choice)),
            None => Found::Nothing(Reason::Overloaded),
        };
        match found {
            Found::Slot(slot) => self.hold_pod(id, &slot),
            Found::Waits | Found::Refused => {}
            Found::Nothing(reason) => self.give_up_reservation(id, reason.to_reset()),
        }
    }

    /// A slot was taken for a reservation: it is the call's for a moment.
    pub(crate) fn hold_pod(&mut self, id: ExchangeId, slot: &Arc<PodSlot>) {
        let until = self.now + self.config.hold_max;
        let Some(exchange) = self.exchanges.get_mut(id) else { return slot.release() };
        exchange.pod = Some(Arc::clone(slot));
        let Origin::Stream(hop, stream) = exchange.origin else { return };
        self.exchanges.set_due(id, until);
        if let Some(out) = self.net.out(hop) {
            encode_grant(out, stream);
        }
    }

    /// Nothing of the call has come here: it may go anywhere.
    pub(crate) fn give_up_reservation(&mut self, id: ExchangeId, reset: Reset) {
        let Some(Origin::Stream(hop, stream)) = self.exchanges.get(id).map(|exchange| exchange.origin) else {
            return;
        };
        self.abandon(id);
        if let Some(out) = self.net.out(hop) {
            encode_reset(out, stream, reset);
        }
    }

    /// L1 asks for a call back: it gets it, when it is still in line.
    pub(crate) fn give_back(&mut self, id: ExchangeId) {
        if !self.step_out_of_line(id) {
            return;
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            // It is counted where it goes.
            exchange.plan.tally.open.sub(1);
            exchange.is_reservation = true;
        }
        self.give_up_reservation(id, Reset::Unprocessed);
    }

    /// A call that was in line here has a pod: L1 has to know, so that no other pod is held for it.
    pub(crate) fn say_started(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let origin = exchange.origin;
        if origin.is_caller() {
            return self.drop_reservations(id);
        }
        if let Some((out, stream)) = self.out_to_binder(origin) {
            encode_started(out, stream);
        }
    }

    /// L1 is told that its call is in line, when it may give it another place.
    pub(crate) fn say_waits(&mut self, origin: Origin) {
        if let Some((out, stream)) = self.out_to_binder(origin) {
            encode_wait(out, stream);
        }
    }

    /// What is written to the L1 that a call came from, when that knows late binding; and the call's stream.
    fn out_to_binder(&mut self, origin: Origin) -> Option<(&mut Vec<u8>, u32)> {
        let Origin::Stream(hop, stream) = origin else { return None };
        self.net.hop(hop).filter(|hop| hop.peer.binds_late)?;
        Some((self.net.out(hop)?, stream))
    }
}
