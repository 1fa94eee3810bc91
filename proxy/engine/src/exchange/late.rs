//! Late binding: a call that is in line at one node gets a place in the line of a second one, and goes to whichever has a pod first
//! (Ousterhout et al., "Sparrow: distributed, low latency scheduling", SOSP 2013). A call that need not wait has nothing to do with it.

use std::rc::Rc;
use std::sync::Arc;

use vicino_wire::hop::{Reset, encode_cancel, encode_grant, encode_reserve, encode_reset, encode_started};

use super::place::{GRADE_BEST, grade};
use super::{ExchangeId, Origin, Target};
use crate::balance::{Candidate, pick_node};
use crate::core::{ConnId, Core};
use crate::hop::Hop;
use crate::hop::node::NodeIndex;
use crate::plan::{Plan, Share};
use crate::queue::{Found, Grant, Limit};
use crate::reply::Reason;
use crate::snapshot::PodSlot;

/// A place in a second line.
#[derive(Debug)]
pub(crate) struct Late {
    place: Place,
    node: NodeIndex,
    stage: Stage,
}

#[derive(Debug)]
enum Place {
    /// On another node.
    Stream(ConnId, u32),
    /// On the own one.
    Own(Limit),
}

#[derive(Debug)]
enum Stage {
    InLine,
    /// A pod is held there, and the call was asked back from where it is. None: another node holds it.
    Held(Option<Grant>),
    /// It is lost, after the call was asked back.
    Lost,
}

impl Core {
    /// A caller's call is in line: it gets a second place, on another node where calls from here are meant to go, when there is one.
    pub(crate) fn reserve(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let is_free = exchange.origin.is_caller() && exchange.late.is_none() && exchange.affinity.is_none();
        if !is_free || !exchange.is_replayable() {
            return;
        }
        let plan = Rc::clone(&exchange.plan);
        let Some(share) = self.second_node(id, &plan) else { return };
        if share.is_own {
            self.reserve_here(id, &plan, share.node);
        } else {
            self.reserve_there(id, share.node);
        }
    }

    /// Of the nodes where the call is not, by power of two choices.
    fn second_node(&mut self, id: ExchangeId, plan: &Plan) -> Option<Share> {
        let Core { exchanges, nodes, loads, random, now, .. } = self;
        let exchange = exchanges.get(id)?;
        let of = &plan.choices[exchange.choice];
        let candidates = of.shares.iter().map(|share| {
            let is_other = exchange.counted != Some(share.node);
            let is_open = is_other && grade(exchange, exchange.choice, *share, nodes, *now) == GRADE_BEST;
            Candidate { pods: share.pods, grade: u8::from(is_open) }
        });
        let load = |i: usize| loads.get(of.key, of.shares[i].node);
        pick_node(&candidates, load, random).map(|picked| of.shares[picked])
    }

    fn reserve_there(&mut self, id: ExchangeId, node: NodeIndex) {
        // One that does not stand yet is dialled for those who come later.
        let Some(hop_id) = self.hop_to(node) else { return };
        let Some(stream) = self.net.hop(hop_id).and_then(Hop::next_reservation) else { return };
        let Core { net, exchanges, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        let to = exchange.plan.choices[exchange.choice].destination();
        let is_last_resort = exchange.is_last_resort;
        if net.out(hop_id).is_none_or(|out| encode_reserve(out, stream, &to, is_last_resort).is_err()) {
            return;
        }
        exchange.late =
            Some(Box::new(Late { place: Place::Stream(hop_id, stream), node, stage: Stage::InLine }));
        self.add_stream(hop_id, stream, id);
    }

    fn reserve_here(&mut self, id: ExchangeId, plan: &Plan, node: NodeIndex) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let of = &plan.choices[exchange.choice];
        let Some(limit) = of.limit.clone().filter(|_| exchange.tried_pods.is_empty()) else { return };
        let is_last_resort = exchange.is_last_resort;
        if !limit.reserve((&self.mailbox, id), is_last_resort) {
            return;
        }
        exchange.late = Some(Box::new(Late { place: Place::Own(limit.clone()), node, stage: Stage::InLine }));
        limit.serve(&of.pods, (&self.mailbox, self.now));
    }

    /// Whether a reservation of this call is what that stream is.
    pub(crate) fn is_reservation_stream(&self, id: ExchangeId, hop: ConnId, stream: u32) -> bool {
        let late = self.exchanges.get(id).and_then(|exchange| exchange.late.as_ref());
        late.is_some_and(|late| matches!(late.place, Place::Stream(h, s) if (h, s) == (hop, stream)))
    }

    /// A slot of the own node was taken for a call. Gives it back when the call has no reservation here.
    pub(crate) fn granted_here(&mut self, id: ExchangeId, grant: Grant) -> Option<Grant> {
        let late = self.exchanges.get(id).and_then(|exchange| exchange.late.as_ref());
        let is_mine = late.is_some_and(|l| matches!((&l.place, &l.stage), (Place::Own(_), Stage::InLine)));
        if !is_mine {
            return Some(grant);
        }
        self.reservation_held(id, Some(grant));
        None
    }

    /// A pod is held for a call in line: the call is asked back from where it is.
    pub(crate) fn reservation_held(&mut self, id: ExchangeId, grant: Option<Grant>) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let may_move = exchange.is_replayable();
        let Some(late) = &mut exchange.late else { return };
        late.stage = Stage::Held(grant);
        let target = exchange.target;
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
            _ => self.drop_reservation(id),
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
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        let is_held = exchange.late.as_ref().is_some_and(|late| matches!(late.stage, Stage::Held(_)));
        if !is_held || !exchange.is_replayable() {
            return false;
        }
        let Some(late) = exchange.late.take() else { return false };
        self.tally.late_bound.add(1);
        self.detach(id, Reset::Cancelled);
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        exchange.counted = Some(late.node);
        self.loads.acquire(exchange.plan.choices[exchange.choice].key, late.node);
        self.set_attempt_due(id);
        match (late.place, late.stage) {
            (Place::Stream(hop, stream), _) => {
                let window = self.net.hop(hop).map_or(0, |hop| hop.peer.initial_window);
                self.send_on_stream(id, hop, stream, window);
            }
            (Place::Own(_), Stage::Held(Some(grant))) => {
                if let Some(exchange) = self.exchanges.get_mut(id) {
                    exchange.is_probe = grant.is_probe;
                }
                self.deliver(id, &grant.slot, None);
            }
            (Place::Own(_), _) => {}
        }
        true
    }

    /// The second place is not needed.
    pub(crate) fn drop_reservation(&mut self, id: ExchangeId) {
        let Some(late) = self.exchanges.get_mut(id).and_then(|exchange| exchange.late.take()) else { return };
        match (late.place, late.stage) {
            (_, Stage::Lost) => {}
            (Place::Stream(hop, stream), Stage::InLine | Stage::Held(_)) => {
                if self.remove_stream(hop, stream)
                    && let Some(out) = self.net.out(hop)
                {
                    encode_reset(out, stream, Reset::Cancelled);
                }
            }
            (Place::Own(_), Stage::Held(Some(grant))) => grant.give_back((&self.mailbox, self.now)),
            // When a slot was taken for it just now, that is found in the mailbox and goes to the next.
            (Place::Own(limit), Stage::InLine | Stage::Held(None)) => {
                limit.queue.remove(&self.mailbox, id);
            }
        }
    }

    /// The other node has given the second place up, or is lost.
    pub(crate) fn reservation_lost(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let Some(late) = &mut exchange.late else { return };
        match late.stage {
            Stage::Held(_) => late.stage = Stage::Lost,
            Stage::InLine | Stage::Lost => exchange.late = None,
        }
    }

    /// The call was given back unprocessed because we had asked for it: that is no failure, and costs nothing.
    pub(crate) fn was_asked_back(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        let is_lost = exchange.late.as_ref().is_some_and(|late| matches!(late.stage, Stage::Lost));
        if is_lost {
            exchange.late = None;
        }
        is_lost
    }

    /// A reservation of another node's call looks for a pod here.
    pub(crate) fn place_reservation(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let plan = Rc::clone(&exchange.plan);
        let choice = &plan.choices[0];
        let found = match &choice.limit {
            Some(limit) => self.find_slot(id, 0, (limit, &choice.pods)),
            None => Found::Nothing(Reason::Overloaded),
        };
        match found {
            Found::Slot(slot) => self.hold_pod(id, &slot),
            Found::Waits => {}
            Found::Nothing(reason) => self.give_up_reservation(id, reason.to_reset()),
        }
    }

    /// A slot was taken for a reservation: it is the call's for a moment.
    pub(crate) fn hold_pod(&mut self, id: ExchangeId, slot: &Arc<PodSlot>) {
        let until = self.now + self.config.hold_max;
        let Some(exchange) = self.exchanges.get_mut(id) else { return slot.release() };
        exchange.pod = Some(Arc::clone(slot));
        self.exchanges.set_due(id, until);
        let Some(Origin::Stream(hop, stream)) = self.exchanges.get(id).map(|exchange| exchange.origin) else {
            return;
        };
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
        let Origin::Stream(hop, stream) = exchange.origin else { return self.drop_reservation(id) };
        if self.net.hop(hop).is_some_and(|hop| hop.peer.binds_late)
            && let Some(out) = self.net.out(hop)
        {
            encode_started(out, stream);
        }
    }
}
