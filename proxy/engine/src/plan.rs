//! What a route comes to on this worker: backends with node numbers and counters looked up once for each snapshot, not for each call.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vicino_wire::head::RequestHead;
use vicino_wire::hop::Destination;

use crate::affinity::{self, Affinity};
use crate::balance::{Algorithm, pick_weighted};
use crate::breaker::Breaker;
use crate::deadline::Time;
use crate::hash::{self, FastMap};
use crate::hop::node::{NodeIndex, Nodes};
use crate::latency::Latencies;
use crate::outside::Outside;
use crate::queue::{Limit, Queue};
use crate::random::Random;
use crate::rate::{LimitOf, RateLimit};
use crate::reply::Reason;
use crate::retry::{Budgets, Hedge, Hedges, Retries, Retry};
use crate::route::{Pod, Route, pick};
use crate::rules::{HeaderEdit, NotAllowed, Pick, Rule, Rules, overridden};
use crate::snapshot::{
    Backend, Edits, NodeEndpoints, PodSlot, PortEndpoints, Protocol, RuleBackends, ServiceName, Snapshot,
    Times,
};
use crate::tally::{Direction, ServiceTally, Tally};

/// Most plans that are kept; beyond, all are made anew.
const PLANS_MAX: usize = 4096;
/// For calls from a hop of which the route has not come here yet.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const REQUEUES_DEFAULT: u32 = 1;
/// For a connection to a host outside the mesh, which may be far.
const CONNECT_TIMEOUT_OUTSIDE: Duration = Duration::from_secs(5);
/// Further addresses of such a host that are tried.
const REQUEUES_OUTSIDE: u32 = 3;
/// What all hosts outside the mesh count as; no Service has no namespace.
pub(crate) const OUTSIDE: &str = "egress";

/// Pods of one node behind one backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) node: NodeIndex,
    pub(crate) pods: u32,
    /// What tells the node from others, on every proxy alike.
    pub(crate) place: u64,
    /// As many as there are, whether calls from here are meant for them or not.
    pub(crate) pods_in_all: u32,
    /// Whether it is the own node.
    pub(crate) is_own: bool,
    /// Whether these are pods that calls from here are meant for; the others are asked when none of those can be.
    pub(crate) is_near: bool,
}

/// One backend, ready to be picked from.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) weight: u32,
    /// Tells backends apart in the counts of calls in flight.
    pub(crate) key: u64,
    pub(crate) service: ServiceName,
    pub(crate) port: u16,
    pub(crate) port_name: Arc<str>,
    /// The only pod that is meant.
    pub(crate) pod: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    /// The near ones first.
    pub(crate) shares: Vec<Share>,
    /// Sums of the near shares' pods, up to each.
    pub(crate) cumulative: Vec<u32>,
    pub(crate) pods: Vec<Arc<PodSlot>>,
    /// By what one of them is chosen.
    pub(crate) algorithm: Algorithm,
    /// The port's line, and whose turn it is.
    pub(crate) queue: Arc<Queue>,
    /// How many calls each of them takes.
    pub(crate) limit: Option<Arc<Limit>>,
    /// When each of them is left out.
    pub(crate) breaker: Option<Breaker>,
    /// What changes in heads on the way there and back.
    pub(crate) edits: Option<Arc<Edits>>,
}

impl Choice {
    /// Whether it matters how long calls take.
    pub(crate) fn is_by_latency(&self) -> bool {
        self.algorithm == Algorithm::PeakEwma
    }

    /// How much speaks against each pod, by index, for one more call.
    pub(crate) fn load_of_pods(&self, now: Time) -> impl Fn(usize, &PodSlot) -> u64 + '_ {
        let count = self.pods.len();
        let turn = match self.algorithm {
            Algorithm::RoundRobin => self.queue.turn_of_pods.fetch_add(1, Ordering::Relaxed) as usize,
            _ => 0,
        };
        move |i, pod| match self.algorithm {
            Algorithm::LeastRequest => u64::from(pod.in_flight()),
            Algorithm::PeakEwma => pod.latency.get().load(pod.in_flight(), 1, now),
            Algorithm::RoundRobin => ((i + count - turn % count) % count) as u64,
            Algorithm::Random => 0,
        }
    }

    /// How much speaks against the pods of a node together, of which so many calls from here are in flight.
    #[inline]
    pub(crate) fn load_of_node(
        &self,
        share: Share,
        in_flight: u32,
        (latencies, now): (&Latencies, Time),
    ) -> u64 {
        match self.algorithm {
            Algorithm::LeastRequest => u64::from(in_flight),
            Algorithm::PeakEwma => latencies.get(self.key, share.node).load(in_flight, share.pods, now),
            Algorithm::RoundRobin | Algorithm::Random => 0,
        }
    }

    /// A turn of the nodes.
    pub(crate) fn next_turn(&self) -> u32 {
        self.queue.turn_of_nodes.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination {
            namespace: &self.service.namespace,
            service: &self.service.name,
            port: self.port,
            port_name: &self.port_name,
            pod: self.pod,
        }
    }

    /// As it is when only one of its pods is meant, which is on one of these nodes; that pod is called whatever breakers say.
    fn only(self, pod: IpAddr, node: Option<NodeIndex>) -> Choice {
        let mut shares = self.shares;
        shares.retain(|share| Some(share.node) == node);
        for share in &mut shares {
            (share.pods, share.is_near) = (1, true);
        }
        let mut pods = self.pods;
        pods.retain(|slot| slot.address.ip() == pod);
        let cumulative = (1..).take(shares.len()).collect();
        Choice { pod: Some(pod), shares, cumulative, pods, breaker: None, ..self }
    }
}

/// What calls to one port of one Service get, under one snapshot.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) choices: Vec<Choice>,
    /// The last so many of them are those that a call may ask for; they have no weight.
    pub(crate) overrides: usize,
    pub(crate) connect_timeout: Duration,
    /// None: no limit.
    pub(crate) request_timeout: Option<Duration>,
    /// A call in which nothing comes for so long is over; None: no limit.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) requeues: u32,
    /// What is spoken is no HTTP.
    pub(crate) is_opaque: bool,
    /// Which calls go to the same pod.
    pub(crate) affinity: Option<Affinity>,
    /// See [`Service::affinity_load_percent`](crate::snapshot::Service::affinity_load_percent).
    pub(crate) affinity_load_percent: u32,
    pub(crate) retries: Option<Retries>,
    pub(crate) hedges: Option<Hedges>,
    /// The limit on calls a second, and whose it is.
    pub(crate) rate: Option<(RateLimit, LimitOf)>,
    pub(crate) tally: Arc<ServiceTally>,
    /// The rule that this is the plan of.
    pub(crate) rule: Option<Arc<Rule>>,
    /// Bytes and fields that a backend's changes add to a request's head at most.
    pub(crate) edits_max: (usize, usize),
    /// Where copies of some calls go.
    pub(crate) mirror: Option<Mirror>,
    /// The route's rules, and the plan of each.
    pub(crate) rules: Option<Box<RulePlans>>,
    /// The host outside the mesh that is called; its choice has no pods.
    pub(crate) outside: Option<Box<Outside>>,
}

/// Copies of so many of a hundred calls.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) percent: u64,
    pub(crate) plan: Rc<Plan>,
}

/// What calls get that fall under a rule.
#[derive(Debug)]
pub(crate) struct RulePlans {
    /// This worker's own.
    rules: Rules,
    plans: Vec<Rc<Plan>>,
}

/// Which calls are repeated, and which are sent once more.
type Again<'a> = (Option<&'a Retry>, Option<Hedge>);

/// A plan, and what it was asked for with.
type Known = (Box<[Box<str>]>, Rc<Plan>);

impl Plan {
    /// For one choice, and nothing of what a route may say.
    fn plain(choice: Choice, tally: Arc<ServiceTally>) -> Plan {
        Plan {
            choices: vec![choice],
            overrides: 0,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            request_timeout: None,
            idle_timeout: None,
            requeues: REQUEUES_DEFAULT,
            is_opaque: false,
            affinity: None,
            affinity_load_percent: 0,
            retries: None,
            hedges: None,
            rate: None,
            tally,
            rule: None,
            edits_max: (0, 0),
            mirror: None,
            rules: None,
            outside: None,
        }
    }

    /// The plan for a request, and the rule that it falls under.
    #[inline]
    pub(crate) fn of<'p>(
        self: &'p Rc<Plan>,
        head: &RequestHead<'_>,
    ) -> Result<(&'p Rc<Plan>, Option<Pick>), Reason> {
        let Some(of_rules) = &self.rules else { return Ok((self, None)) };
        let pick = pick(&of_rules.rules, head)?;
        Ok((pick.map_or(self, |pick| &of_rules.plans[pick.rule]), pick))
    }

    /// The key of a call; None when calls of this plan do not belong together, or this one has none.
    #[inline]
    pub(crate) fn key(&self, head: &RequestHead<'_>, caller: Option<IpAddr>) -> Option<u64> {
        self.affinity.as_ref()?.key(head, caller)
    }

    /// The choice that a call asks for by `vicino-route`; None when that is about other Services.
    pub(crate) fn overridden(&self, wishes: &[u8]) -> Option<Result<usize, NotAllowed>> {
        let first = self.choices.len() - self.overrides;
        let allowed = self.choices[first..].iter().map(|choice| &choice.service);
        let found = overridden(wishes, &self.tally.service, allowed)?;
        Some(found.map(|index| first + index))
    }

    /// A choice by weight, whether it has endpoints or not; of calls with the same key, the same one. None when none has a weight.
    #[inline]
    pub(crate) fn draw(&self, key: Option<u64>, random: &mut Random) -> Option<usize> {
        match (&self.choices[..], key) {
            ([only], _) => (only.weight > 0).then_some(0),
            (choices, Some(key)) => {
                affinity::pick(key, choices.iter().map(|choice| Some((choice.key, choice.weight))))
            }
            (choices, None) => pick_weighted(choices.iter().map(|c| u64::from(c.weight)), random),
        }
    }
}

/// Plans of the snapshot in force, by what they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    by_texts: FastMap<u64, Known>,
}

impl Plans {
    /// Forgets all: another snapshot is in force.
    pub(crate) fn clear(&mut self) {
        self.by_texts.clear();
    }

    /// The plan that was made for these texts.
    #[inline]
    pub(crate) fn get(&self, texts: &[&str]) -> Option<&Rc<Plan>> {
        let (key, plan) = self.by_texts.get(&hash::of_texts(texts))?;
        let is_same = key.len() == texts.len() && key.iter().zip(texts).all(|(a, b)| **a == **b);
        is_same.then_some(plan)
    }

    pub(crate) fn put(&mut self, texts: &[&str], plan: &Rc<Plan>) {
        if self.by_texts.len() >= PLANS_MAX {
            self.by_texts.clear();
        }
        let key = texts.iter().map(|text| Box::from(*text)).collect();
        self.by_texts.insert(hash::of_texts(texts), (key, Rc::clone(plan)));
    }
}

/// The plan of L1 for a route.
pub(crate) fn outbound(
    snapshot: &Snapshot,
    route: &Route,
    (nodes, budgets): (&mut Nodes, &mut Budgets),
    (of_all, now): (&Tally, Time),
) -> Plan {
    let (service, port) = (&route.service, route.port());
    let tally = of_all.service(&service.name, Direction::Outbound);
    let rate = |rule: Option<(usize, &Rule)>| {
        let own = rule.and_then(|(nth, rule)| {
            let of = if rule.name.is_empty() { LimitOf::Nth(nth) } else { LimitOf::Named(rule.name.clone()) };
            Some((rule.rate_limit.clone()?, of))
        });
        own.or_else(|| Some((service.rate_limit.clone()?, LimitOf::Route)))
    };
    let limit = |ns: u64| (ns > 0).then(|| Duration::from_nanos(ns));
    let mut plan = |backends: &[Backend], times: Times, (retry, hedge): Again<'_>| Plan {
        choices: backends.iter().chain(&port.overrides).map(|b| choice(snapshot, b, nodes)).collect(),
        overrides: port.overrides.len(),
        edits_max: edits_max(backends),
        connect_timeout: Duration::from_nanos(times.connect_ns),
        request_timeout: limit(times.request_ns),
        idle_timeout: limit(times.idle_ns),
        requeues: service.requeues,
        is_opaque: port.protocol == Protocol::Opaque,
        affinity: service.affinity.clone(),
        affinity_load_percent: service.affinity_load_percent,
        retries: retry.map(|policy| budgets.retries(&service.name, policy, now)),
        hedges: hedge.map(|policy| budgets.hedges(&service.name, policy, now)),
        rate: rate(None),
        tally: Arc::clone(&tally),
        rule: None,
        mirror: None,
        rules: None,
        outside: None,
    };
    let times = service.times;
    if let Some(pod) = &route.pod {
        let plan = plan(&[], times, (service.retry.as_ref(), None));
        return of_pod(snapshot, route, (pod, nodes), plan);
    }
    let mut whole = plan(&port.backends, times, (service.retry.as_ref(), service.hedge));
    if !service.rules.is_empty() {
        let of_rules = service.rules.list().iter().zip(&port.of_rules).enumerate();
        let plans = of_rules.map(|(nth, (rule, RuleBackends { backends, mirror }))| {
            let times = rule.times;
            let mirror = mirror.as_ref().map(|backend| {
                let plan = plan(std::slice::from_ref(backend), times, (None, None));
                let tally = of_all.service(&backend.service, Direction::Outbound);
                let plan = Rc::new(Plan { affinity: None, rate: None, tally, ..plan });
                Mirror { percent: u64::from(rule.mirror_percent), plan }
            });
            let plan = plan(backends, times, (rule.retry.as_ref(), rule.hedge));
            Rc::new(Plan { rule: Some(Arc::clone(rule)), rate: rate(Some((nth, rule))), mirror, ..plan })
        });
        let plans = plans.collect();
        whole.rules = Some(Box::new(RulePlans { rules: service.rules.clone(), plans }));
    }
    whole
}

/// The plan for one pod, whichever backends the route has and whatever its rules say.
fn of_pod(snapshot: &Snapshot, route: &Route, (pod, nodes): (&Pod, &mut Nodes), plan: Plan) -> Plan {
    let backend = Backend {
        service: route.service.name.clone(),
        port: route.port().port,
        port_name: Arc::clone(&pod.port_name),
        weight: 1,
        is_node_local: false,
        edits: None,
    };
    let node = pod.at.is_usable.then(|| nodes.index(&pod.at.node));
    let choice = choice(snapshot, &backend, nodes).only(pod.at.address, node);
    Plan { choices: vec![choice], overrides: 0, affinity: None, ..plan }
}

/// Addresses of pods, and of whoever called them, are nobody's business outside.
fn addresses_removed() -> Edits {
    let request = HeaderEdit { remove: vec!["x-forwarded-for".into()], ..HeaderEdit::default() };
    Edits { request, ..Edits::default() }
}

/// The plan for calls to a host outside the mesh.
pub(crate) fn outside(host: Outside, tally: &Tally) -> Plan {
    let service = ServiceName { namespace: "".into(), name: OUTSIDE.into() };
    let choice = Choice {
        weight: 1,
        key: 0,
        service: service.clone(),
        port: host.port,
        port_name: "".into(),
        pod: None,
        protocol: Protocol::Http,
        shares: Vec::new(),
        cumulative: Vec::new(),
        pods: Vec::new(),
        algorithm: Algorithm::default(),
        queue: Arc::default(),
        limit: None,
        breaker: None,
        edits: Some(Arc::new(addresses_removed())),
    };
    Plan {
        connect_timeout: CONNECT_TIMEOUT_OUTSIDE,
        requeues: REQUEUES_OUTSIDE,
        outside: Some(Box::new(host)),
        ..Plan::plain(choice, tally.service(&service, Direction::Outbound))
    }
}

/// The plan of L2 for a destination that a hop named. None when no slice names it, or no route of the mesh: what is outside the mesh is
/// not reached through it, whoever asks.
pub(crate) fn inbound(
    snapshot: &Snapshot,
    to: &Destination<'_>,
    nodes: &mut Nodes,
    tally: &Tally,
) -> Option<Plan> {
    snapshot.endpoints(to.namespace, to.service, to.port_name)?;
    if !snapshot.carries(to.namespace, to.service) {
        return None;
    }
    let name = ServiceName { namespace: to.namespace.into(), name: to.service.into() };
    let backend = Backend {
        service: name,
        port: to.port,
        port_name: to.port_name.into(),
        weight: 1,
        is_node_local: false,
        edits: None,
    };
    let choice = choice(snapshot, &backend, nodes);
    let choice = match to.pod {
        Some(pod) => {
            let own = nodes.index(&snapshot.node);
            choice.only(pod, Some(own))
        }
        None => choice,
    };
    let service = snapshot.service(to.namespace, to.service);
    let tally = tally.service(&backend.service, Direction::Inbound);
    let plan = Plan::plain(choice, tally);
    let Some(service) = service else { return Some(plan) };
    Some(Plan {
        connect_timeout: Duration::from_nanos(service.times.connect_ns),
        requeues: service.requeues,
        affinity: service.affinity.clone(),
        affinity_load_percent: service.affinity_load_percent,
        ..plan
    })
}

fn edits_max(backends: &[Backend]) -> (usize, usize) {
    // Lengths of a field, and whatever framing it has on the hop.
    const FRAMING_BYTES: usize = 8;
    let edits = backends.iter().filter_map(|backend| backend.edits.as_ref());
    let sizes = edits.map(|edits| {
        let new = edits.request.set.iter().chain(&edits.request.add);
        let bytes = new.clone().map(|(name, value)| name.len() + value.len() + FRAMING_BYTES).sum();
        (bytes, new.count())
    });
    sizes.fold((0, 0), |a: (usize, usize), b| (a.0.max(b.0), a.1.max(b.1)))
}

/// The limit that the Service's own route sets, whichever route leads to it.
fn limit(snapshot: &Snapshot, backend: &Backend, endpoints: &PortEndpoints) -> Option<Arc<Limit>> {
    let Backend { service, port_name, .. } = backend;
    let route = snapshot.service(&service.namespace, &service.name)?;
    let limit = Limit {
        service: service.clone(),
        port_name: Arc::clone(port_name),
        concurrency: route.concurrency?,
        has_breaker: route.breaker.is_some(),
        queue: Arc::clone(&endpoints.queue),
    };
    Some(Arc::new(limit))
}

fn choice(snapshot: &Snapshot, backend: &Backend, nodes: &mut Nodes) -> Choice {
    let Backend { service, port, port_name, weight, is_node_local, edits } = backend;
    let none = PortEndpoints::default();
    let endpoints = snapshot.endpoints(&service.namespace, &service.name, port_name).unwrap_or(&none);
    let is_reached = |n: &&NodeEndpoints| !is_node_local || n.node == snapshot.node;
    let is_near = |n: &&NodeEndpoints| n.near > 0;
    let (near, far): (Vec<_>, Vec<_>) = endpoints.nodes.iter().filter(is_reached).partition(is_near);
    let mut sum: u32 = 0;
    let cumulative = near.iter().map(|n| {
        sum = sum.saturating_add(n.near);
        sum
    });
    let cumulative = cumulative.collect();
    let shares = near.into_iter().chain(far).map(|n| Share {
        node: nodes.index(&n.node),
        pods: if n.near > 0 { n.near } else { n.pods },
        pods_in_all: n.pods,
        place: hash::of_texts(&[&n.node]),
        is_own: n.node == snapshot.node,
        is_near: n.near > 0,
    });
    let route = snapshot.service(&service.namespace, &service.name);
    let known = route.and_then(|route| route.ports.iter().find(|known| known.port == *port));
    Choice {
        protocol: known.map_or(Protocol::Http, |port| port.protocol),
        weight: *weight,
        key: hash::of_texts(&[&service.namespace, &service.name, port_name]),
        service: service.clone(),
        port: *port,
        port_name: Arc::clone(port_name),
        pod: None,
        shares: shares.collect(),
        cumulative,
        pods: endpoints.local.clone(),
        algorithm: route.map(|route| route.algorithm).unwrap_or_default(),
        queue: Arc::clone(&endpoints.queue),
        limit: limit(snapshot, backend, endpoints),
        breaker: route.and_then(|route| route.breaker.clone()),
        edits: edits.clone(),
    }
}
