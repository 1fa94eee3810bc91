//! What the proxy was told → what becomes of connections to each address of its pods; pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vicino_crds::contract::CompiledRoute;
use vicino_crds::mesh::IdentityMode;
use vicino_crds::node::{Neighbour, PLAIN_PORTS_MAX};
use vicino_engine::snapshot::ServiceName;

use crate::config::inputs::{Inputs, ServiceKey, ServiceSlices};

/// Entries of one plan; pods and ports beyond them are not guarded one by one, see [`Plan::left_out`].
pub const ENTRIES_MAX: usize = 16_384;

/// What a connection is looked up by: the port's entry before the address's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Address of a pod.
    pub address: IpAddr,
    /// One of its ports; None for all that have no entry of their own.
    pub port: Option<u16>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stance {
    /// It is reset, and counted.
    Refuse,
    /// It passes, and is counted.
    Pass,
    /// It passes, and is nobody's affair.
    Exempt,
}

impl From<IdentityMode> for Stance {
    fn from(mode: IdentityMode) -> Self {
        match mode {
            IdentityMode::Strict => Self::Refuse,
            IdentityMode::Permissive => Self::Pass,
        }
    }
}

/// What holds for one entry, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What becomes of connections.
    pub stance: Stance,
    /// Services that have this port at this pod, in order; for a whole address one without a name, of the pod's namespace.
    pub services: Arc<[ServiceName]>,
}

/// What is to be in force on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By address and port.
    pub items: BTreeMap<Entry, Item>,
    /// Ports of pods whose Services ask for different things, so that Permissive holds.
    pub conflicts: BTreeSet<SocketAddr>,
    /// Entries beyond [`ENTRIES_MAX`].
    pub left_out: usize,
}

impl Plan {
    /// Whether there is anything that is to be refused.
    pub fn is_strict(&self) -> bool {
        self.left_out > 0 || self.items.values().any(|item| item.stance == Stance::Refuse)
    }
}

/// Ports of own pods by Service, kept from one plan to the next for Services that did not change.
#[derive(Debug, Default)]
pub struct LocalPorts(HashMap<ServiceKey, (ServiceSlices, Vec<SocketAddr>)>);

impl LocalPorts {
    fn follow(&mut self, inputs: &Inputs) {
        let node = &*inputs.identity().node;
        let mut before = std::mem::take(&mut self.0);
        for (key, slices) in inputs.services().iter().filter(|((_, service), _)| !service.is_empty()) {
            let known = before.remove(key).filter(|(from, _)| Arc::ptr_eq(from, slices));
            self.0.insert(key.clone(), known.unwrap_or_else(|| (slices.clone(), ports(slices, node))));
        }
    }
}

fn ports(slices: &ServiceSlices, node: &str) -> Vec<SocketAddr> {
    let mut all = BTreeSet::new();
    for slice in slices.values() {
        for endpoint in slice.endpoints.iter().filter(|endpoint| *endpoint.node == *node) {
            all.extend(slice.ports.iter().map(|port| SocketAddr::new(endpoint.address, port.port)));
        }
    }
    all.into_iter().collect()
}

/// What the inputs come to. Depends on them alone; `local` only makes it cheaper.
pub fn plan<'a>(
    inputs: &Inputs,
    routes: impl Iterator<Item = &'a CompiledRoute>,
    local: &mut LocalPorts,
) -> Plan {
    let Some(node) = inputs.mesh_node() else { return Plan::default() };
    local.follow(inputs);
    let modes = routes.filter(|route| route.alias.is_none());
    let modes: BTreeMap<(&str, &str), Option<IdentityMode>> =
        modes.map(|route| ((&*route.namespace, &*route.service), route.inbound)).collect();
    let mut ports: BTreeMap<SocketAddr, Vec<(ServiceName, Option<IdentityMode>)>> = BTreeMap::new();
    for ((namespace, service), (_, addresses)) in &local.0 {
        let Some(mode) = modes.get(&(&**namespace, &**service)).filter(|_| !addresses.is_empty()) else {
            continue;
        };
        let name = ServiceName { namespace: Arc::from(&**namespace), name: Arc::from(&**service) };
        for address in addresses {
            ports.entry(*address).or_default().push((name.clone(), *mode));
        }
    }
    let mut plan = Plan::default();
    for pod in &node.spec.pods {
        if let Some(mode) = pod.inbound {
            of_pod(pod, mode, &ports, &mut plan);
        }
    }
    plan.left_out = plan.items.len().saturating_sub(ENTRIES_MAX);
    while plan.items.len() > ENTRIES_MAX {
        plan.items.pop_last();
    }
    plan
}

type Ports = BTreeMap<SocketAddr, Vec<(ServiceName, Option<IdentityMode>)>>;

fn of_pod(pod: &Neighbour, mode: IdentityMode, ports: &Ports, plan: &mut Plan) {
    let of_namespace =
        |name: &str| ServiceName { namespace: Arc::from(&*pod.namespace), name: Arc::from(name) };
    let nobody: Arc<[ServiceName]> = [of_namespace("")].into();
    for address in pod.ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let all = Item { stance: mode.into(), services: nobody.clone() };
        plan.items.insert(Entry { address, port: None }, all);
        let of_address = SocketAddr::new(address, 0)..=SocketAddr::new(address, u16::MAX);
        for (at, services) in ports.range(of_address) {
            // A Service selects pods of its own namespace; slices that somebody writes by hand may name any address.
            let mut own: Vec<_> =
                services.iter().filter(|(name, _)| *name.namespace == *pod.namespace).collect();
            own.sort();
            let wanted: BTreeSet<IdentityMode> = own.iter().map(|(_, own)| own.unwrap_or(mode)).collect();
            let Some(mildest) = wanted.first() else { continue };
            if wanted.len() > 1 {
                plan.conflicts.insert(*at);
            }
            let services = own.into_iter().map(|(name, _)| name.clone()).collect();
            let entry = Entry { address, port: Some(at.port()) };
            plan.items.insert(entry, Item { stance: (*mildest).into(), services });
        }
        let plain = pod.plain_ports.iter().take(PLAIN_PORTS_MAX);
        for port in plain.filter_map(|port| u16::try_from(*port).ok()) {
            let item = Item { stance: Stance::Exempt, services: nobody.clone() };
            plan.items.insert(Entry { address, port: Some(port) }, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use vicino_crds::MeshNodeSpec;
    use vicino_crds::contract::{CompiledAlias, CompiledRoute};
    use vicino_crds::mesh::IdentityMode::{self, Permissive, Strict};
    use vicino_crds::node::Neighbour;

    use super::{ENTRIES_MAX, LocalPorts, Plan, plan};
    use crate::config::inputs::{Identity, Inputs};
    use crate::config::slice::{Condition, Hints, Slice, SliceEndpoint, SliceKey, SlicePort};
    use crate::config::{Change, OwnNode};

    fn pod(name: &str, ip: &str, inbound: Option<IdentityMode>) -> Neighbour {
        Neighbour {
            uid: name.to_owned(),
            namespace: "demo".to_owned(),
            name: name.to_owned(),
            service_account: "default".to_owned(),
            ips: vec![ip.to_owned()],
            labels: BTreeMap::new(),
            inbound,
            plain_ports: Vec::new(),
            plain_ports_problem: None,
            network_since: None,
        }
    }

    fn route(service: &str, inbound: Option<IdentityMode>) -> CompiledRoute {
        let alias = CompiledAlias { namespace: String::new(), service: String::new() };
        let route = CompiledRoute::of_alias("demo", service, alias);
        CompiledRoute { alias: None, inbound, ..route }
    }

    fn slice(namespace: &str, service: &str, port: u16, at: &[(&str, &str)]) -> Change {
        let endpoints = at.iter().map(|(node, ip)| SliceEndpoint {
            address: ip.parse().unwrap(),
            uid: Arc::from(*ip),
            node: Arc::from(*node),
            hostname: "".into(),
            condition: Condition::Down,
            hints: Hints::default(),
        });
        Change::Slice(Slice {
            key: SliceKey::new(namespace, &format!("{service}-{port}")),
            service: service.into(),
            ports: vec![SlicePort { name: "".into(), port }],
            endpoints: endpoints.collect(),
        })
    }

    fn plan_of(pods: Vec<Neighbour>, slices: Vec<Change>, routes: &[CompiledRoute]) -> Plan {
        let mut inputs =
            Inputs::new(Identity { node: "n1".into(), mesh: "default".into(), mesh_uid: "".into() });
        let spec = MeshNodeSpec { mesh: "default".to_owned(), pods, ..MeshNodeSpec::default() };
        for change in slices.into_iter().chain([Change::MeshNode(OwnNode { generation: 1, spec })]) {
            inputs.apply(change, &mut Vec::new());
        }
        let mut local = LocalPorts::default();
        let first = plan(&inputs, routes.iter(), &mut local);
        assert_eq!(first, plan(&inputs, routes.iter(), &mut local), "what is kept changes nothing");
        first
    }

    fn check(plan: &Plan, expected: &Expect) {
        let mut text = String::new();
        for (entry, item) in &plan.items {
            let port = entry.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
            let services: Vec<_> =
                item.services.iter().map(|s| format!("{}/{}", s.namespace, s.name)).collect();
            let _ = writeln!(text, "{} {port} {:?} {}", entry.address, item.stance, services.join(","));
        }
        for conflict in &plan.conflicts {
            let _ = writeln!(text, "conflict {conflict}");
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn pods_of_the_mesh_have_its_mode_and_others_none() {
        let pods = vec![
            pod("a", "10.0.0.1", Some(Strict)),
            pod("b", "fd00::2", Some(Permissive)),
            pod("c", "10.0.0.3", None),
        ];
        check(
            &plan_of(pods, vec![], &[]),
            &expect![[r#"
                10.0.0.1 * Refuse demo/
                fd00::2 * Pass demo/
            "#]],
        );
    }

    #[test]
    fn routes_differ_from_the_mesh_at_their_own_ports_only() {
        let pods = vec![pod("a", "10.0.0.1", Some(Strict)), pod("b", "10.0.0.2", Some(Permissive))];
        let slices = vec![
            slice("demo", "moving", 8080, &[("n1", "10.0.0.1"), ("n2", "10.0.0.9")]),
            slice("demo", "careful", 8080, &[("n1", "10.0.0.2")]),
            slice("demo", "usual", 9000, &[("n1", "10.0.0.1"), ("n1", "10.0.0.2")]),
            slice("demo", "outside", 7000, &[("n1", "10.0.0.1")]),
        ];
        let routes =
            [route("moving", Some(Permissive)), route("careful", Some(Strict)), route("usual", None)];
        check(
            &plan_of(pods, slices, &routes),
            &expect![[r#"
                10.0.0.1 * Refuse demo/
                10.0.0.1 8080 Pass demo/moving
                10.0.0.1 9000 Refuse demo/usual
                10.0.0.2 * Pass demo/
                10.0.0.2 8080 Refuse demo/careful
                10.0.0.2 9000 Pass demo/usual
            "#]],
        );
    }

    #[test]
    fn where_services_of_a_port_differ_permissive_holds_and_is_told() {
        let slices = vec![
            slice("demo", "moving", 8080, &[("n1", "10.0.0.1")]),
            slice("demo", "usual", 8080, &[("n1", "10.0.0.1")]),
        ];
        let routes = [route("moving", Some(Permissive)), route("usual", None)];
        let plan = plan_of(vec![pod("a", "10.0.0.1", Some(Strict))], slices, &routes);
        assert!(plan.is_strict(), "its other ports");
        check(
            &plan,
            &expect![[r#"
                10.0.0.1 * Refuse demo/
                10.0.0.1 8080 Pass demo/moving,demo/usual
                conflict 10.0.0.1:8080
            "#]],
        );
    }

    #[test]
    fn ports_of_the_annotation_are_nobodys_affair() {
        let scraped =
            Neighbour { plain_ports: vec![9090, 0x1_0000, -1], ..pod("a", "10.0.0.1", Some(Strict)) };
        let slices = vec![slice("demo", "metrics", 9090, &[("n1", "10.0.0.1")])];
        check(
            &plan_of(vec![scraped], slices, &[route("metrics", Some(Strict))]),
            &expect![[r#"
                10.0.0.1 * Refuse demo/
                10.0.0.1 9090 Exempt demo/
            "#]],
        );
    }

    #[test]
    fn a_service_of_another_namespace_opens_no_port() {
        let slices = vec![slice("evil", "moving", 8080, &[("n1", "10.0.0.1")])];
        let evil = CompiledRoute { namespace: "evil".to_owned(), ..route("moving", Some(Permissive)) };
        check(
            &plan_of(vec![pod("a", "10.0.0.1", Some(Strict))], slices, &[evil]),
            &expect![[r#"
                10.0.0.1 * Refuse demo/
            "#]],
        );
    }

    #[test]
    fn more_than_the_bound_is_left_out_and_said() {
        let slices = (1..=2).map(|i| {
            let at: Vec<String> =
                (0..ENTRIES_MAX / 2).map(|n| format!("10.{}.{}.1", n / 256, n % 256)).collect();
            let at: Vec<_> = at.iter().map(|ip| ("n1", ip.as_str())).collect();
            slice("demo", &format!("s{i}"), i, &at)
        });
        let pods = (0..ENTRIES_MAX / 2)
            .map(|n| pod("p", &format!("10.{}.{}.1", n / 256, n % 256), Some(Permissive)));
        let plan = plan_of(pods.collect(), slices.collect(), &[route("s1", None), route("s2", None)]);
        assert_eq!((plan.items.len(), plan.left_out), (ENTRIES_MAX, ENTRIES_MAX / 2));
        assert!(plan.is_strict(), "to be on the safe side");
    }
}
