//! Whether policies let a call go to the pod that was chosen for it: asked where it is delivered, at L2 and, for pods of the caller's own node, at L1; before
//! it waits for one there, too.

use std::net::IpAddr;
use std::sync::Arc;

use vicino_wire::hop::{Frame, Kind, RequestFrame, decode};

use super::{Exchange, ExchangeId, Origin};
use crate::account::{Account, Party};
use crate::connection::Kind as ConnKind;
use crate::core::{Core, Event};
use crate::policy::{Action, Call, Decision, Verdict, in_words};
use crate::reply::Reason;
use crate::snapshot::{PodSlot, Snapshot};
use crate::tally::Tally;

impl Core {
    /// Whether a call has come over a hop of which nobody knows who is at its other end, to a Service that takes no such calls.
    pub(super) fn is_from_anyone(&self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let Origin::Stream(hop, _) = exchange.origin else { return false };
        let kind = self.net.get(hop).map(|conn| &conn.kind);
        let is_anyone = matches!(kind, Some(ConnKind::Hop(hop)) if *hop.party() == Party::Anyone);
        let to = &exchange.plan.choices[exchange.choice].service;
        // Looked up for such hops alone.
        is_anyone && self.snapshot.service(&to.namespace, &to.name).is_some_and(|service| service.is_strict)
    }

    /// Why a call is refused whichever of these pods it would be given, which is told then. Asked of calls that would have to wait, so that
    /// those that may not call take no place in line from those that may.
    pub(crate) fn refusal(&mut self, id: ExchangeId, pods: &[Arc<PodSlot>]) -> Option<Reason> {
        if self.is_from_anyone(id) {
            Some(Reason::NoIdentity)
        } else {
            (!self.is_allowed(id, pods, false)).then_some(Reason::PolicyDenied)
        }
    }

    /// Whether a call may go to one of these pods. What is refused is told, and, of a call that `is_delivered`, what would be by policies in audit.
    pub(super) fn is_allowed(&mut self, id: ExchangeId, pods: &[Arc<PodSlot>], is_delivered: bool) -> bool {
        if self.snapshot.policies.is_open() {
            return true;
        }
        let snapshot = Arc::clone(&self.snapshot);
        let Some(exchange) = self.exchanges.get(id) else { return false };
        if exchange.plan.outside.is_some() {
            // Policies are about Services; what may be called outside was asked when the address was chosen.
            return true;
        }
        let kept = &exchange.request.kept[..exchange.request.body_at];
        // It was written here, or read.
        let Ok(Some((Frame::Request { request, .. }, _))) = decode(kept) else { return false };
        let (caller, source) = self.caller_of(exchange, &request);
        let namespace = &exchange.plan.choices[exchange.choice].service.namespace;
        // Where no policy selects pods, one is as good as another.
        let is_any = pods.len() > 1 && !snapshot.policies.selects_pods(namespace);
        let pods = if is_any { &pods[..1] } else { pods };
        let (is_allowed, events) =
            judge((&snapshot, &self.tally), exchange, (&request, caller, source), (pods, is_delivered));
        for event in events.into_iter().flatten() {
            if let Event::PolicyDecision { is_audit: true, .. } = event {
                self.tally.policy_audits.add(1);
            }
            self.event(event);
        }
        is_allowed
    }

    /// Who calls, as far as that is proved, and from where. An address that only somebody unknown tells, or a node from elsewhere, is none.
    fn caller_of(
        &self,
        exchange: &Exchange,
        request: &RequestFrame<'_>,
    ) -> (Option<&Account>, Option<IpAddr>) {
        let Origin::Stream(hop, _) = exchange.origin else {
            return (self.accounts.get(exchange.account), request.caller);
        };
        let Some(conn) = self.net.get(hop) else { return (None, None) };
        let ConnKind::Hop(hop) = &conn.kind else { return (None, None) };
        match hop.party() {
            Party::Workload(account) => (Some(account), request.caller),
            // Its word on addresses counts only where it speaks from its own. Asked for each call, since a node that is new
            // may dial before its addresses are known here.
            Party::Node(node) => {
                let is_at_home = self.snapshot.node_at(conn.peer.ip().to_canonical()) == Some(node);
                (None, request.caller.filter(|_| is_at_home))
            }
            Party::Anyone => (None, None),
        }
    }
}

/// Whether it is allowed at one of the pods, and what is to be told of that: see [`Core::is_allowed`].
fn judge(
    (snapshot, tally): (&Snapshot, &Tally),
    exchange: &Exchange,
    (request, caller, source): (&RequestFrame<'_>, Option<&Account>, Option<IpAddr>),
    (pods, is_delivered): (&[Arc<PodSlot>], bool),
) -> (bool, [Option<Event>; 2]) {
    let choice = &exchange.plan.choices[exchange.choice];
    let (mut head, mut fields) = (request.head, Vec::new());
    if let Some(edits) = &choice.edits {
        edits.request.apply(head.headers, &mut fields);
        head.headers = (&fields[..]).into();
    }
    // The other side says which port it means by name and by number; only the name decides where the call goes.
    let told = &choice.service;
    let port = snapshot.port_number(&told.namespace, &told.name, &choice.port_name).unwrap_or(choice.port);
    let call = Call {
        caller: caller.map(|account| account.identity(&snapshot.trust_domain)),
        source,
        namespace: &told.namespace,
        service: &told.name,
        port,
        pod: "",
        head: (exchange.kind == Kind::Http).then_some(&head),
    };
    let at = |pod: &Arc<PodSlot>| snapshot.policies.judge(&Call { pod: &pod.uid, ..call });
    let Some((first, others)) = pods.split_first() else { return (true, [None, None]) };
    let first = at(first);
    let allowed = || others.iter().map(at).find(Verdict::is_allowed);
    let verdict = if first.is_allowed() { first } else { allowed().unwrap_or(first) };
    if verdict.is_allowed() && !is_delivered {
        return (true, [None, None]);
    }
    let count = |decision: Decision<'_>, is_audit| {
        if decision.action == Action::Deny {
            tally.policy(decision.by.map(|by| by.policy), is_audit);
        }
    };
    count(verdict.decision, false);
    if let Some(decision) = verdict.audit {
        count(decision, true);
    }
    let told = |decision: Decision<'_>, is_audit| Event::PolicyDecision {
        caller: in_words(call.caller, source),
        source,
        to: choice.service.clone(),
        port,
        is_allowed: decision.action == Action::Allow,
        by: decision.by.map(|by| {
            let policy = &by.policy;
            format!("{}/{} {}", policy.namespace, policy.name, rule_of(by.rule, by.rule_name()))
        }),
        is_audit,
    };
    let denied = (!verdict.is_allowed()).then(|| told(verdict.decision, false));
    (verdict.is_allowed(), [denied, verdict.audit.map(|decision| told(decision, true))])
}

/// A rule by its name, or else by its place.
fn rule_of(index: usize, name: &str) -> String {
    if name.is_empty() { format!("rules[{index}]") } else { name.to_owned() }
}
