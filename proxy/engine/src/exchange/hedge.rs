//! Hedged requests (Dean and Barroso, "The Tail at Scale", 2013): a call whose answer takes long is sent once more, to where it is not, and the answer that comes first counts.
//!
//! The second attempt is an exchange of its own whose origin is the first. When it is answered first, or the first fails, the two change places: the second has the
//! caller then, and the first, which nobody waits for any more, is given up.

use std::rc::Rc;
use std::time::Duration;

use vicino_wire::head::Headers;
use vicino_wire::hop::Kind;

use super::{Exchange, ExchangeId, Method, Origin, Target};
use crate::core::Core;
use crate::deadline::Time;
use crate::grpc;

impl Exchange {
    /// When a call that is placed now is sent once more, should it have no answer by then.
    pub(crate) fn hedge_time(&self, now: Time) -> Time {
        let is_hedged = self.hedge.is_none()
            && !self.is_upgrade
            && self.kind == Kind::Http
            && self.method != Method::Other
            && self.affinity.is_none()
            && matches!(self.origin, Origin::Client(_) | Origin::Session(..));
        match &self.plan.hedges {
            Some(hedges) if is_hedged => now + Duration::from_nanos(hedges.policy.delay_ns),
            _ => Time::NEVER,
        }
    }

    /// Whether an answer with this status is no better than none.
    fn is_failure(&self, status: u16) -> bool {
        self.plan.retries.as_ref().is_some_and(|retries| retries.policy.codes.contains(&status))
    }
}

impl Core {
    /// A call has had no answer for so long that it is sent once more.
    pub(crate) fn hedge(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.hedge_at = Time::NEVER;
        let is_placed = !matches!(exchange.target, Target::None);
        let may =
            is_placed && exchange.is_replayable() && exchange.request.is_ended && exchange.late.is_none();
        let hedges = exchange.plan.hedges.clone();
        self.set_exchange_due(id);
        let Some(hedges) = hedges.filter(|_| may && !self.is_cut) else { return };
        if !hedges.account.withdraw(self.now) {
            return self.tally.hedges_denied.add(1);
        }
        if let Some(copy) = self.hedge_of(id) {
            self.tally.hedges.add(1);
            let deadline = copy.deadline;
            let hedge = self.take_in(copy, deadline);
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.hedge = Some(hedge);
            }
            self.place(hedge, None);
        }
    }

    fn hedge_of(&mut self, id: ExchangeId) -> Option<Exchange> {
        let first = self.exchanges.get(id)?;
        let (plan, choice) = (Rc::clone(&first.plan), first.choice);
        let mut second = self.copy_of(id, Origin::Hedge(id), &plan, &plan.choices[choice])?;
        let first = self.exchanges.get(id)?;
        (second.choice, second.addressed_to) = (choice, choice);
        second.is_pinned = first.is_pinned;
        second.is_grpc = first.is_grpc;
        second.wants_path = first.wants_path;
        second.aside.clone_from(&first.aside);
        second.deadline = first.deadline;
        second.started = first.started;
        // Whatever becomes of it, it is not repeated.
        second.retries = u32::MAX;
        // Elsewhere; where the first is only when there is nowhere else.
        second.tried_nodes.clone_from(&first.tried_nodes);
        second.tried_pods.clone_from(&first.tried_pods);
        match (&first.pod, first.counted) {
            (Some(pod), _) => second.tried_pods.push(pod.address),
            (None, Some(node)) => second.tried_nodes.push((first.choice, node)),
            (None, None) => {}
        }
        second.may_try_again = true;
        Some(second)
    }

    /// The first attempt has failed, or its answer is no better than none: the second goes on alone. False when there is none.
    pub(crate) fn leave_to_hedge(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let is_open = exchange.is_replayable() && exchange.deadline > self.now && !self.is_cut;
        let Some(hedge) = exchange.hedge.filter(|_| is_open) else { return false };
        self.change_places(id, hedge);
        true
    }

    /// As [`Core::leave_to_hedge`], when this status is one that the route repeats calls for.
    pub(crate) fn leave_failure_to_hedge(&mut self, id: ExchangeId, status: u16) -> bool {
        self.exchanges.get(id).is_some_and(|exchange| exchange.is_failure(status)) && self.leave_to_hedge(id)
    }

    /// A final head came to a second attempt: it has the caller from now on, unless the answer is no better than none. Whether it goes on.
    pub(crate) fn hedge_is_answered(&mut self, id: ExchangeId, (status, fields): (u16, Headers<'_>)) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let Origin::Hedge(first) = exchange.origin else { return true };
        let said = if exchange.is_grpc { grpc::status_in_http(fields) } else { None };
        if exchange.is_failure(said.unwrap_or(status)) {
            self.abandon(id);
            return false;
        }
        self.tally.hedges_won.add(1);
        self.change_places(first, id);
        true
    }

    /// The answer to the first attempt counts: the second is given up.
    pub(crate) fn drop_hedge(&mut self, id: ExchangeId) {
        let hedge = self.exchanges.get_mut(id).and_then(|exchange| {
            exchange.hedge_at = Time::NEVER;
            exchange.hedge.take()
        });
        if let Some(hedge) = hedge {
            self.abandon(hedge);
        }
    }

    /// The second attempt has the caller, and the first, which had, is given up.
    fn change_places(&mut self, first: ExchangeId, second: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(first) else { return };
        let origin = std::mem::replace(&mut exchange.origin, Origin::Hedge(second));
        exchange.hedge = None;
        let send = exchange.response.send;
        let Some(exchange) = self.exchanges.get_mut(second) else { return };
        exchange.origin = origin;
        exchange.response.send = send;
        match origin {
            Origin::Client(client) => {
                if let Some(client) = self.net.client(client) {
                    client.exchange = Some(second);
                }
            }
            Origin::Session(conn, stream) => self.add_session_stream(conn, stream, second),
            Origin::Stream(..) | Origin::Mirror | Origin::Hedge(_) => {}
        }
        self.abandon(first);
    }
}
