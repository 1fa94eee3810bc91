//! What policies make of a call: the engine's own judge, asked for every pod that may take the call.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vicino_engine::policy::{Action, Call, Cause, Decision as Decided, Identity, Verdict};
use vicino_engine::route::{Decision, Route};
use vicino_engine::rules::{OVERRIDE_FIELD, Pick, overridden};
use vicino_engine::snapshot::{Backend, Protocol, Snapshot};
use vicino_wire::head::{Header, RequestHead};

/// Among the UIDs of a Service's pods: pods of other nodes, of which nothing more is known.
pub const ELSEWHERE: &str = "";

/// UIDs of the pods behind each Service, by namespace and name.
pub type Pods = BTreeMap<(String, String), Vec<String>>;

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Trust domain, namespace and service account, when they are proven.
    pub identity: Option<[String; 3]>,
    /// Its address, when it is known.
    pub address: Option<IpAddr>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some([trust_domain, namespace, account]) => {
                write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
            }
            None => f.write_str("nobody"),
        }
    }
}

/// A verdict on some of the pods that a call may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// `namespace/name` of the Service whose pods these are.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// As whom the call is made.
    pub caller: String,
    /// Pods for which this is so, of all that are known.
    pub pods: [usize; 2],
    /// These are pods of other nodes: rules that select pods by their labels are judged there, so here their Deny counts and their Allow does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_elsewhere: bool,
    /// Whether the call goes on.
    pub is_allowed: bool,
    /// `namespace/policy`; absent: the mesh's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Name of the rule, or its index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What policies in audit would make of it instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, port, caller, pods: [some, all], is_elsewhere, is_allowed, policy, rule, audit } =
            self;
        let action = if *is_allowed { "allowed" } else { "denied (403)" };
        let by = match (policy, rule) {
            (Some(policy), Some(rule)) => format!("by {policy}, rule {rule}"),
            _ => "by the mesh's default, since no rule is about it".to_owned(),
        };
        write!(f, "{service}:{port} {action} {by}, called as {caller}")?;
        if *is_elsewhere {
            f.write_str(", at pods of other nodes, as far as can be told without their labels")?;
        } else if some != all {
            write!(f, ", at {some} of {all} pods")?;
        }
        match audit {
            Some(audit) => write!(f, "; with policies in audit {audit}"),
            None => Ok(()),
        }
    }
}

/// The verdicts on a call that is delivered somewhere; none while there are no policies.
pub fn judged(
    snapshot: &Snapshot,
    decision: &Decision,
    (head, caller): (&RequestHead<'_>, &Caller),
    pods: &Pods,
) -> Vec<Judged> {
    let Decision { route, pick } = decision;
    if snapshot.policies.is_open() {
        return Vec::new();
    }
    let (mut fields, mut path) = (Vec::new(), String::new());
    let head = forwarded(decision, *head, (&mut fields, &mut path));
    let is_opaque = route.port().protocol == Protocol::Opaque;
    let mut all = Vec::new();
    for backend in delivered(route, *pick, &head) {
        let service = &backend.service;
        let of_service = pods.get(&(service.namespace.to_string(), service.name.to_string()));
        let unknown = [String::new()];
        let is_asked = of_service.is_some();
        let of_service = of_service.map_or(&unknown[..], |pods| pods);
        let is_elsewhere = |pod: &String| is_asked && pod == ELSEWHERE;
        let known = of_service.iter().filter(|pod| !is_elsewhere(pod)).count();
        let mut groups: Vec<Judged> = Vec::new();
        for pod in of_service {
            let verdict = snapshot.policies.judge(&Call {
                caller: caller.identity.as_ref().map(identity),
                source: caller.address,
                namespace: &service.namespace,
                service: &service.name,
                port: backend.port,
                pod,
                head: Some(&head).filter(|_| !is_opaque),
            });
            let judged = said(&verdict, backend, caller, (is_elsewhere(pod), known));
            let is_same = |group: &Judged| {
                let Judged { pods, is_elsewhere, .. } = judged;
                Judged { pods, is_elsewhere, ..group.clone() } == judged
            };
            match groups.iter_mut().find(|group| is_same(group)) {
                Some(group) if !judged.is_elsewhere => group.pods[0] += 1,
                // So it is for every pod.
                Some(group) if group.pods[0] == known => {}
                _ => groups.push(judged),
            }
        }
        all.extend(groups);
    }
    all
}

fn identity([trust_domain, namespace, service_account]: &[String; 3]) -> Identity<'_> {
    Identity { trust_domain, namespace, service_account }
}

/// The head as the application gets it; `fields` and `path` are where its parts lie.
fn forwarded<'a>(
    Decision { route, pick }: &'a Decision,
    head: RequestHead<'a>,
    (fields, path): (&'a mut Vec<Header<'a>>, &'a mut String),
) -> RequestHead<'a> {
    match pick {
        Some(pick) => route.service.rules.list()[pick.rule].edit_request(head, *pick, (fields, path)),
        None => head,
    }
}

/// Where a call may go that is not answered by its rule.
pub(super) fn destinations<'d>(decision: &'d Decision, head: &RequestHead<'_>) -> Vec<&'d Backend> {
    let (mut fields, mut path) = (Vec::new(), String::new());
    let head = forwarded(decision, *head, (&mut fields, &mut path));
    delivered(&decision.route, decision.pick, &head)
}

/// Where a call with this head, as it is forwarded, may go.
fn delivered<'r>(route: &'r Route, pick: Option<Pick>, head: &RequestHead<'_>) -> Vec<&'r Backend> {
    let overrides = &route.port().overrides;
    let wish = head.headers.get(OVERRIDE_FIELD).and_then(|value| {
        overridden(value, &route.service.name, overrides.iter().map(|backend| &backend.service))
    });
    match (wish, pick) {
        (Some(Ok(index)), _) => vec![&overrides[index]],
        (Some(Err(_)), _) => Vec::new(),
        (None, None) => route.port().backends.iter().filter(|backend| backend.weight > 0).collect(),
        (None, Some(pick)) => {
            let of_rule = route.port().of_rules.get(pick.rule).map(|rule| &rule.backends[..]);
            of_rule.unwrap_or_default().iter().filter(|backend| backend.weight > 0).collect()
        }
    }
}

fn said(
    verdict: &Verdict<'_>,
    backend: &Backend,
    caller: &Caller,
    (is_elsewhere, known): (bool, usize),
) -> Judged {
    let by = verdict.decision.by;
    Judged {
        service: format!("{}/{}", backend.service.namespace, backend.service.name),
        port: backend.port,
        caller: caller.to_string(),
        pods: [usize::from(!is_elsewhere), known],
        is_elsewhere,
        is_allowed: verdict.is_allowed(),
        policy: by.map(|by| policy(&by)),
        rule: by.map(|by| rule(&by)),
        audit: verdict.audit.map(|audit| audited(&audit)),
    }
}

fn policy(by: &Cause<'_>) -> String {
    format!("{}/{}", by.policy.namespace, by.policy.name)
}

fn rule(by: &Cause<'_>) -> String {
    match by.rule_name() {
        "" => format!("rules[{}]", by.rule),
        name => name.to_owned(),
    }
}

fn audited(decided: &Decided<'_>) -> String {
    let action = if decided.action == Action::Allow { "allowed" } else { "denied" };
    match decided.by {
        Some(by) => format!("{action} by {}, rule {}", policy(&by), rule(&by)),
        None => format!("{action} by the mesh's default"),
    }
}
