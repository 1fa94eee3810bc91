//! Who may call what: a pure function of the policies of a snapshot and a view of the call; it refuses nothing itself.
//!
//! A rule with `Deny` of any policy that is about the call wins, then one with `Allow`, then the mesh's default. So neither the
//! order of rules nor that of policies matters for what becomes of a call. Policies in audit decide nothing: the verdict says
//! beside what they would change.
//!
//! What is judged is the call as it is delivered: the caller's proven identity, the Service and port whose endpoint takes it, the
//! pod, and the head as it is forwarded, after all changes to it. Whatever is not known counts against the call: an
//! address that nobody saw, a pod that is not known, bytes that are no HTTP, and a path that cannot be read. A path that an
//! application may read in several ways is judged by each of them ([`Readings`]).
//!
//! Pods are selected by their labels, which come with the neighbours of the own node; selecting is done when policies
//! are put together, for these pods only. So a document is the same for every node and grows with no pod, a policy is in force as
//! soon as its document is, and the pods of other nodes, which are never delivered to here, cost nothing. (Lists of pods in documents would
//! be rewritten everywhere with every pod that comes; lists of policies at pods would have to arrive together with the
//! documents to be right.)
//!
//! Judging allocates nothing, but for paths that have more than one reading. Without policies and with the default
//! `Allow` it costs two comparisons.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vicino_wire::head::RequestHead;

use crate::rules::{PathTest, ValueTest, split_query};

mod readings;
mod selector;

pub use readings::{PATH_BYTES_MAX, READINGS_MAX, Readings};
pub use selector::{Requirement, Selector};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

/// The policies of all namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// For calls that no rule is about.
    default: Action,
    /// Of the mesh's identities.
    trust_domain: Arc<str>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// For pods of the own node whose namespace has policies that select pods, by UID: which of these select it, as indices.
    pods: HashMap<Arc<str>, Box<[usize]>>,
}

/// The policies of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
struct Namespace {
    /// By name.
    policies: Vec<Arc<Policy>>,
    /// Indices of those that are about every Service.
    everywhere: Vec<usize>,
    /// Indices of those that are about one Service, by its name.
    services: HashMap<Box<str>, Vec<usize>>,
    /// Indices of those that select pods.
    selecting: Vec<usize>,
    /// Whether any rule does.
    looks_at_paths: bool,
}

/// One policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its namespace, and that of all that it is about.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// It decides nothing.
    pub is_audit: bool,
    /// What it is about.
    pub target: Target,
    /// In its own order.
    pub rules: Vec<Rule>,
}

/// What a policy is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Every Service of its namespace.
    #[default]
    Namespace,
    /// One Service, and perhaps only one of its ports.
    Service {
        /// Its name.
        name: Box<str>,
        /// The port.
        port: Option<u16>,
    },
    /// Pods with such labels.
    Pods(Selector),
}

/// Calls, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// For people; empty when it has none.
    pub name: Box<str>,
    /// What becomes of them.
    pub action: Action,
    /// Who calls, at least one of these; anybody when there is none.
    pub from: Vec<Source>,
    /// What is called, at least one of these; anything when there is none.
    pub to: Vec<Operation>,
}

/// Callers of whom everything is true that is said; an empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Namespace and name.
    pub service_accounts: Vec<(Box<str>, Box<str>)>,
    /// Of service accounts.
    pub namespaces: Vec<Box<str>>,
    /// When there is none, that of the mesh.
    pub trust_domains: Vec<TrustDomain>,
    /// None of these, as far as is proven.
    pub not_service_accounts: Vec<(Box<str>, Box<str>)>,
    /// None of these, as far as is proven.
    pub not_namespaces: Vec<Box<str>>,
    /// Within one of these, and none of the blocks that are left out of it.
    pub ip_blocks: Vec<(IpNet, Vec<IpNet>)>,
    /// Within none of these, but for the blocks that are left out of it.
    pub not_ip_blocks: Vec<(IpNet, Vec<IpNet>)>,
    /// Nothing is proven.
    pub is_unidentified: bool,
}

/// A pattern of trust domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustDomain {
    /// This one.
    Exact(Box<str>),
    /// Any that begins and ends so.
    Between(Box<str>, Box<str>),
}

/// Calls of which everything is true that is said; an empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// Of the Service.
    pub ports: Vec<u16>,
    /// None of these.
    pub not_ports: Vec<u16>,
    /// As they are written.
    pub methods: Vec<Box<str>>,
    /// None of these.
    pub not_methods: Vec<Box<str>>,
    /// At least one of these.
    pub paths: Vec<PathTest>,
    /// None of these.
    pub not_paths: Vec<PathTest>,
    /// All of these.
    pub headers: Vec<(Box<str>, ValueTest)>,
}

/// A proven identity: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Trust domain.
    pub trust_domain: &'a str,
    /// Namespace of the service account.
    pub namespace: &'a str,
    /// Name of the service account.
    pub service_account: &'a str,
}

impl fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { trust_domain, namespace, service_account } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

/// Who calls, in the words of logs.
pub(crate) fn in_words(caller: Option<Identity<'_>>, source: Option<IpAddr>) -> String {
    match (caller, source) {
        (Some(identity), _) => identity.to_string(),
        (None, Some(source)) => format!("unidentified, from {source}"),
        (None, None) => "unidentified".to_owned(),
    }
}

/// A call as it is about to be delivered.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who calls; None when nothing is proven.
    pub caller: Option<Identity<'a>>,
    /// The calling pod's address, as its node's L1 saw it; None when nobody did.
    pub source: Option<IpAddr>,
    /// Namespace of the Service whose endpoint takes the call.
    pub namespace: &'a str,
    /// Name of that Service.
    pub service: &'a str,
    /// Port of that Service.
    pub port: u16,
    /// UID of the pod that takes the call; empty or unknown: policies that select pods are taken at their worst.
    pub pod: &'a str,
    /// The head as it is forwarded; None for bytes that are not looked at.
    pub head: Option<&'a RequestHead<'a>>,
}

/// What is made of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict<'p> {
    /// What becomes of it.
    pub decision: Decision<'p>,
    /// What would become of it if policies in audit decided as well, where that is something else.
    pub audit: Option<Decision<'p>>,
}

/// What becomes of a call, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision<'p> {
    /// What becomes of it.
    pub action: Action,
    /// The rule that says so; None: the mesh's default does.
    pub by: Option<Cause<'p>>,
}

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cause<'p> {
    /// The policy.
    pub policy: &'p Policy,
    /// Index of the rule.
    pub rule: usize,
}

impl Cause<'_> {
    /// Name of the rule; empty when it has none.
    pub fn rule_name(&self) -> &str {
        self.policy.rules.get(self.rule).map_or("", |rule| &rule.name)
    }
}

impl Verdict<'_> {
    /// Whether the call goes on.
    pub fn is_allowed(&self) -> bool {
        self.decision.action == Action::Allow
    }
}

/// A pod of the own node.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl Target {
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Target::Pods(selector) => selector.selects(labels),
            Target::Namespace | Target::Service { .. } => false,
        }
    }
}

impl Policy {
    fn looks_at_paths(&self) -> bool {
        let looks = |operation: &Operation| !operation.paths.is_empty() || !operation.not_paths.is_empty();
        self.rules.iter().flat_map(|rule| &rule.to).any(looks)
    }
}

impl Policies {
    /// Puts policies together, in whatever order they come, for deliveries to these pods.
    pub fn new<'a>(
        default: Action,
        trust_domain: Arc<str>,
        policies: impl IntoIterator<Item = Arc<Policy>>,
        pods: impl IntoIterator<Item = Pod<'a>>,
    ) -> Self {
        let mut namespaces: HashMap<Arc<str>, Namespace> = HashMap::new();
        for policy in policies {
            namespaces.entry(policy.namespace.clone()).or_default().policies.push(policy);
        }
        for namespace in namespaces.values_mut() {
            namespace.policies.sort_by(|a, b| a.name.cmp(&b.name));
            for (index, policy) in namespace.policies.iter().enumerate() {
                namespace.looks_at_paths |= policy.looks_at_paths();
                match &policy.target {
                    Target::Namespace => namespace.everywhere.push(index),
                    Target::Service { name, .. } => {
                        namespace.services.entry(name.clone()).or_default().push(index);
                    }
                    Target::Pods(_) => namespace.selecting.push(index),
                }
            }
        }
        let selected = |pod: Pod<'_>| {
            let namespace = namespaces.get(pod.namespace).filter(|all| !all.selecting.is_empty())?;
            let selects = |index: &&usize| namespace.policies[**index].target.selects(pod.labels);
            Some((Arc::from(pod.uid), namespace.selecting.iter().filter(selects).copied().collect()))
        };
        let pods = pods.into_iter().filter(|pod| !pod.uid.is_empty()).filter_map(selected).collect();
        Self { default, trust_domain, namespaces, pods }
    }

    /// Whether every call is allowed, so that nobody need judge it.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.default == Action::Allow && self.namespaces.is_empty()
    }

    /// Whether what becomes of a call to a namespace may depend on the pod.
    pub fn selects_pods(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|namespace| !namespace.selecting.is_empty())
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.namespaces.values().map(|namespace| namespace.policies.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Judges a call.
    #[inline]
    pub fn judge(&self, call: &Call<'_>) -> Verdict<'_> {
        match self.namespaces.get(call.namespace) {
            Some(namespace) => self.judge_in(namespace, call),
            None => Verdict { decision: Decision { action: self.default, by: None }, audit: None },
        }
    }

    fn judge_in<'p>(&'p self, namespace: &'p Namespace, call: &Call<'_>) -> Verdict<'p> {
        let readings = match call.head {
            Some(head) if namespace.looks_at_paths => Readings::of(split_query(head.path).0),
            // Nobody asks.
            Some(_) => Readings::Plain("/"),
            None => Readings::Unreadable,
        };
        // Allowed only when each reading is.
        let (mut enforced, mut audited): (Option<Decision<'_>>, Option<Decision<'_>>) = (None, None);
        let worse = |before: Option<Decision<'p>>, now: Decision<'p>| match before {
            Some(before) if before.action == Action::Deny || now.action == Action::Allow => Some(before),
            _ => Some(now),
        };
        for path in readings.iter() {
            let found = self.find(namespace, call, path);
            enforced = worse(enforced, found.decide(self.default, false));
            audited = worse(audited, found.decide(self.default, true));
        }
        let default = Decision { action: self.default, by: None };
        let decision = enforced.unwrap_or(default);
        Verdict { decision, audit: audited.filter(|audited| audited.action != decision.action) }
    }

    /// The first rule of each kind that is about the call, its path read so.
    fn find<'p>(&'p self, namespace: &'p Namespace, call: &Call<'_>, path: Option<&str>) -> Found<'p> {
        let mut found = Found::default();
        let of_service = namespace.services.get(call.service).map(Vec::as_slice).unwrap_or_default();
        let known = self.pods.get(call.pod);
        let of_pod = known.map_or(&namespace.selecting[..], |selected| selected);
        let all = namespace.everywhere.iter().chain(of_service).map(|index| (*index, true));
        for (index, is_sure) in all.chain(of_pod.iter().map(|index| (*index, known.is_some()))) {
            let policy = &*namespace.policies[index];
            if let Target::Service { port: Some(port), .. } = policy.target
                && port != call.port
            {
                continue;
            }
            for (rule, what) in policy.rules.iter().enumerate() {
                let is_meant = is_sure || what.action == Action::Deny;
                let slot = found.slot(policy.is_audit, what.action);
                if is_meant && slot.is_none() && what.is_about(call, path, &self.trust_domain) {
                    *slot = Some(Cause { policy, rule });
                }
            }
        }
        found
    }
}

/// The first rule of each kind.
#[derive(Default)]
struct Found<'p> {
    deny: Option<Cause<'p>>,
    allow: Option<Cause<'p>>,
    audit_deny: Option<Cause<'p>>,
    audit_allow: Option<Cause<'p>>,
}

impl<'p> Found<'p> {
    fn slot(&mut self, is_audit: bool, action: Action) -> &mut Option<Cause<'p>> {
        match (is_audit, action) {
            (false, Action::Deny) => &mut self.deny,
            (false, Action::Allow) => &mut self.allow,
            (true, Action::Deny) => &mut self.audit_deny,
            (true, Action::Allow) => &mut self.audit_allow,
        }
    }

    fn decide(&self, default: Action, with_audit: bool) -> Decision<'p> {
        let also = |cause: Option<Cause<'p>>| cause.filter(|_| with_audit);
        let deny = self.deny.or(also(self.audit_deny));
        let allow = self.allow.or(also(self.audit_allow));
        match (deny, allow) {
            (Some(by), _) => Decision { action: Action::Deny, by: Some(by) },
            (None, Some(by)) => Decision { action: Action::Allow, by: Some(by) },
            (None, None) => Decision { action: default, by: None },
        }
    }
}

impl Rule {
    /// `path` is None when it cannot be read.
    fn is_about(&self, call: &Call<'_>, path: Option<&str>, own: &str) -> bool {
        let from = |source: &Source| source.is_met(call, own, self.action);
        let to = |operation: &Operation| operation.is_met(call, path, self.action);
        (self.from.is_empty() || self.from.iter().any(from)) && (self.to.is_empty() || self.to.iter().any(to))
    }
}

impl Source {
    /// Whether a caller of this identity and address is meant, for a rule that allows; `own` is the mesh's trust domain.
    pub(crate) fn admits(&self, caller: Option<Identity<'_>>, source: Option<IpAddr>, own: &str) -> bool {
        let call = Call { caller, source, namespace: "", service: "", port: 0, pod: "", head: None };
        self.is_met(&call, own, Action::Allow)
    }

    fn is_met(&self, call: &Call<'_>, own: &str, action: Action) -> bool {
        if self.is_unidentified && call.caller.is_some() {
            return false;
        }
        let source = call.source.map(|source| source.to_canonical());
        let is_within = |blocks: &[(IpNet, Vec<IpNet>)], wanted: bool| {
            let within = |source| blocks.iter().any(|block| is_in(block, source));
            blocks.is_empty() || source.map_or(action == Action::Deny, |source| within(source) == wanted)
        };
        if !is_within(&self.ip_blocks, true) || !is_within(&self.not_ip_blocks, false) {
            return false;
        }
        let names_somebody = !self.service_accounts.is_empty()
            || !self.namespaces.is_empty()
            || !self.trust_domains.is_empty();
        if !names_somebody && self.not_service_accounts.is_empty() && self.not_namespaces.is_empty() {
            return true;
        }
        // Who is in no way known is none of those who are named, and none of those who are left out.
        let unknown = !names_somebody && action == Action::Deny;
        let Some(caller) = call.caller else { return unknown };
        let is_home = match &self.trust_domains[..] {
            [] => caller.trust_domain == own,
            patterns => patterns.iter().any(|pattern| pattern.is_met(caller.trust_domain)),
        };
        if !is_home {
            return unknown;
        }
        let is_account = |(namespace, name): &(Box<str>, Box<str>)| {
            **namespace == *caller.namespace && **name == *caller.service_account
        };
        let has_namespace = |all: &[Box<str>]| all.iter().any(|one| **one == *caller.namespace);
        (self.service_accounts.is_empty() || self.service_accounts.iter().any(is_account))
            && (self.namespaces.is_empty() || has_namespace(&self.namespaces))
            && !self.not_service_accounts.iter().any(is_account)
            && !has_namespace(&self.not_namespaces)
    }
}

/// Whether an address is within a block, and in none of those that are left out of it.
pub(crate) fn is_in((block, except): &(IpNet, Vec<IpNet>), address: IpAddr) -> bool {
    block.contains(&address) && !except.iter().any(|part| part.contains(&address))
}

impl TrustDomain {
    fn is_met(&self, domain: &str) -> bool {
        match self {
            TrustDomain::Exact(text) => **text == *domain,
            TrustDomain::Between(before, after) => {
                domain.strip_prefix(&**before).is_some_and(|rest| rest.ends_with(&**after))
            }
        }
    }
}

impl Operation {
    fn is_met(&self, call: &Call<'_>, path: Option<&str>, action: Action) -> bool {
        if !(self.ports.is_empty() || self.ports.contains(&call.port)) || self.not_ports.contains(&call.port)
        {
            return false;
        }
        let says_paths = !self.paths.is_empty() || !self.not_paths.is_empty();
        let says_methods = !self.methods.is_empty() || !self.not_methods.is_empty();
        if !says_paths && !says_methods && self.headers.is_empty() {
            return true;
        }
        let Some(head) = call.head else { return action == Action::Deny };
        let has_method = |all: &[Box<str>]| all.iter().any(|one| **one == *head.method);
        if !(self.methods.is_empty() || has_method(&self.methods))
            || has_method(&self.not_methods)
            || !self.headers.iter().all(|header| has_header(head, header, action))
        {
            return false;
        }
        match path {
            _ if !says_paths => true,
            None => action == Action::Deny,
            Some(path) => {
                let is_path = |test: &PathTest| test.is_met(path);
                (self.paths.is_empty() || self.paths.iter().any(is_path))
                    && !self.not_paths.iter().any(is_path)
            }
        }
    }
}

/// Of a field that is there twice, an application may see either.
fn has_header(head: &RequestHead<'_>, (name, test): &(Box<str>, ValueTest), action: Action) -> bool {
    let mut values = head.headers.get_all(name).peekable();
    match action {
        Action::Deny => values.any(|value| test.is_met(value)),
        Action::Allow => values.peek().is_some() && values.all(|value| test.is_met(value)),
    }
}

#[cfg(test)]
mod tests;
