//! Name and port → Service and port, request head → rule: pure functions of the snapshot, the caller's namespace and the head.

use std::net::IpAddr;
use std::sync::Arc;

use vicino_wire::head::{Authority, RequestHead};

use crate::reply::Reason;
use crate::rules::{Pick, Rules};
use crate::snapshot::{Backend, NamedPod, Service, ServicePort, Snapshot};

/// Port of an authority without one.
pub const PORT_DEFAULT: u16 = 80;

/// Longest DNS name, in bytes, its final dot included.
pub(crate) const NAME_BYTES_MAX: usize = 254;

/// What an authority names.
#[derive(Clone, Debug)]
pub struct Route {
    /// The Service.
    pub service: Arc<Service>,
    /// Index into its ports.
    pub port_index: usize,
    /// The only pod that is meant.
    pub pod: Option<Pod>,
}

/// A pod that was called by its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name within the Service.
    pub name: Arc<str>,
    /// Name of the Service's port in EndpointSlices.
    pub port_name: Arc<str>,
    /// Where it is.
    pub at: NamedPod,
}

impl Route {
    /// The port that was asked for.
    pub fn port(&self) -> &ServicePort {
        &self.service.ports[self.port_index]
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The Service and port.
    pub route: Route,
    /// The rule; None when the route has none, so that the request goes to the port's backends.
    pub pick: Option<Pick>,
}

/// What a request of a caller of `namespace` gets. The data path does the same in two steps, and keeps what the first came to.
pub fn decide(snapshot: &Snapshot, namespace: &str, head: &RequestHead<'_>) -> Result<Decision, Reason> {
    let route = route(snapshot, namespace, head.authority)?;
    let pick = if route.pod.is_some() { None } else { pick(&route.service.rules, head)? };
    Ok(Decision { route, pick })
}

/// The rule that a request falls under; None when there are no rules.
#[inline]
pub(crate) fn pick(rules: &Rules, head: &RequestHead<'_>) -> Result<Option<Pick>, Reason> {
    if rules.is_empty() {
        return Ok(None);
    }
    rules.pick(head).map(Some).ok_or(Reason::NoMatchingRule)
}

/// What `authority` names for a caller of `namespace`: `web`, `web.demo`, `web.demo.svc`, `web.demo.svc.<cluster domain>` (a final dot
/// and the case do not matter; a Service of type ExternalName is the one that it stands for), a pod of that Service by its own name before these (`web-0.web`, as DNS has it for a StatefulSet), or a cluster IP; port 80 unless it says another.
pub fn route(snapshot: &Snapshot, namespace: &str, authority: &str) -> Result<Route, Reason> {
    let authority = Authority::parse(authority).ok_or(Reason::NotInMesh)?;
    let port = authority.port.unwrap_or(PORT_DEFAULT);
    let index = |service: &Service| service.ports.iter().position(|p| p.port == port);
    let service = if let Ok(address) = authority.host.parse::<IpAddr>() {
        let name = snapshot.cluster_ips.get(&address.to_canonical()).ok_or(Reason::NotInMesh)?;
        snapshot.service(&name.namespace, &name.name).ok_or(Reason::NoSuchService)?
    } else {
        let mut lower = [0; NAME_BYTES_MAX];
        let lower = lower.get_mut(..authority.host.len()).ok_or(Reason::NotInMesh)?;
        lower.copy_from_slice(authority.host.as_bytes());
        lower.make_ascii_lowercase();
        let host = std::str::from_utf8(lower).map_err(|_| Reason::NotInMesh)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        // The resolver of a pod looks into its own namespace first.
        if let Some((pod, rest)) = host.split_once('.')
            && let Some((namespace, name)) = service_name(snapshot, namespace, rest)
            && let Some(service) = snapshot.service(namespace, name)
            && let Some(pod) = of_pod(snapshot, service, (port, pod))
        {
            let port_index = index(service).ok_or(Reason::NoSuchPort)?;
            return Ok(Route { service: Arc::clone(service), port_index, pod: Some(pod) });
        }
        let (namespace, name) = service_name(snapshot, namespace, host).ok_or(Reason::NotInMesh)?;
        snapshot.service_or_alias(namespace, name).ok_or(Reason::NoSuchService)?
    };
    let port_index = index(service).ok_or(Reason::NoSuchPort)?;
    Ok(Route { service: Arc::clone(service), port_index, pod: None })
}

/// The pod of that name behind a port of a Service.
fn of_pod(snapshot: &Snapshot, service: &Service, (port, pod): (u16, &str)) -> Option<Pod> {
    let set = snapshot.endpoints.get(&service.name.namespace)?.get(&service.name.name)?;
    let of_port = service.ports.iter().find(|one| one.port == port)?;
    let is_own = |backend: &&Backend| backend.service == service.name && backend.port == port;
    let port_name = of_port.all_backends().find(is_own).map(|backend| &backend.port_name);
    // A route that leads elsewhere says nothing of the Service's own ports; one with a single port needs no telling.
    let only = || set.ports.keys().next().filter(|_| set.ports.len() == 1);
    let port_name = port_name.or_else(only)?;
    let (name, at) = set.ports.get(port_name)?.named.get_key_value(pod)?;
    Some(Pod { name: Arc::clone(name), port_name: Arc::clone(port_name), at: at.clone() })
}

/// Namespace and name of the Service that a host in lower case names for a caller of `namespace`; None when it is no name of the cluster's.
pub fn service_name<'h>(
    snapshot: &Snapshot,
    namespace: &'h str,
    host: &'h str,
) -> Option<(&'h str, &'h str)> {
    let (name, rest) = host.split_once('.').unwrap_or((host, ""));
    let (namespace, rest) = match rest.split_once('.') {
        _ if rest.is_empty() => (namespace, ""),
        None => (rest, ""),
        Some((namespace, rest)) => (namespace, rest),
    };
    let is_cluster_name = match rest.split_once('.') {
        _ if rest.is_empty() || rest == "svc" => true,
        Some(("svc", domain)) => domain.eq_ignore_ascii_case(&snapshot.cluster_domain),
        _ => false,
    };
    is_cluster_name.then_some((namespace, name))
}

/// What follows the last dot of a name; nothing when there is none.
pub(crate) fn last_label(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, last)| last)
}

/// Whether the resolver of a pod would find a name in lower case, which is no Service of the mesh, below the cluster's domain only.
pub fn is_of_cluster_alone(snapshot: &Snapshot, name: &str) -> bool {
    let domain = snapshot.cluster_domain.to_ascii_lowercase();
    let rest = name.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.'));
    let is_in_full = !domain.is_empty() && rest.is_some_and(|rest| matches!(last_label(rest), "svc" | "pod"));
    match name.matches('.').count() {
        0 => true,
        _ if last_label(name) == "svc" => true,
        1 => false,
        _ => is_in_full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{EndpointSet, PortEndpoints, ServiceName};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot { cluster_domain: "cluster.local".into(), ..Snapshot::default() };
        for (namespace, name, ports) in [("demo", "web", [80, 8080]), ("shop", "web", [81, 443])] {
            let name = ServiceName { namespace: namespace.into(), name: name.into() };
            let ports = ports.map(|port| ServicePort { port, ..ServicePort::default() }).into();
            let service = Service { name: name.clone(), ports, ..Service::default() };
            let names = snapshot.services.entry(Arc::clone(&name.namespace)).or_default();
            names.insert(Arc::clone(&name.name), Arc::new(service));
            snapshot.cluster_ips.insert("10.96.0.7".parse().unwrap(), name);
        }
        for (name, (namespace, to)) in
            [("alias", ("shop", "web")), ("twice", ("demo", "alias")), ("loop", ("demo", "loop"))]
        {
            let to = ServiceName { namespace: namespace.into(), name: to.into() };
            snapshot.aliases.entry("demo".into()).or_default().insert(name.into(), to);
        }
        snapshot
    }

    #[test]
    fn names_ports_and_addresses() {
        let snapshot = snapshot();
        for (authority, expected) in [
            ("web", Ok("demo/web:80")),
            ("web:8080", Ok("demo/web:8080")),
            ("WEB.Demo", Ok("demo/web:80")),
            ("web.shop:443", Ok("shop/web:443")),
            ("web.shop.svc:81", Ok("shop/web:81")),
            ("web.demo.svc.cluster.local", Ok("demo/web:80")),
            ("web.demo.svc.Cluster.Local.:8080", Ok("demo/web:8080")),
            ("web.", Ok("demo/web:80")),
            ("alias:443", Ok("shop/web:443")),
            ("Twice.demo.svc.cluster.local:81", Ok("shop/web:81")),
            ("alias", Err(Reason::NoSuchPort)),
            ("loop", Err(Reason::NoSuchService)),
            ("10.96.0.7:81", Ok("shop/web:81")),
            ("[::ffff:10.96.0.7]:81", Ok("shop/web:81")),
            ("web.shop", Err(Reason::NoSuchPort)),
            ("web:81", Err(Reason::NoSuchPort)),
            ("api", Err(Reason::NoSuchService)),
            ("web.prod", Err(Reason::NoSuchService)),
            ("example.com", Err(Reason::NoSuchService)),
            ("web.demo.svc.other.local", Err(Reason::NotInMesh)),
            ("web.demo.pod", Err(Reason::NotInMesh)),
            ("www.example.com", Err(Reason::NotInMesh)),
            ("169.254.169.254", Err(Reason::NotInMesh)),
            ("[::1]:80", Err(Reason::NotInMesh)),
            ("", Err(Reason::NotInMesh)),
        ] {
            let found = route(&snapshot, "demo", authority)
                .map(|r| format!("{}/{}:{}", r.service.name.namespace, r.service.name.name, r.port().port));
            assert_eq!(found, expected.map(str::to_owned), "{authority}");
        }
    }

    #[test]
    fn pods_have_names_of_their_own() {
        let mut snapshot = snapshot();
        let pod = |node: &str, ip: &str, is_usable| NamedPod {
            node: node.into(),
            address: ip.parse().unwrap(),
            is_usable,
        };
        let named = [("web-0", pod("n1", "10.1.0.1", true)), ("web-1", pod("n2", "10.1.1.1", false))];
        let named = named.map(|(name, pod)| (name.into(), pod)).into();
        let port = PortEndpoints { named, ..PortEndpoints::default() };
        let set = EndpointSet { ports: [("http".into(), port)].into() };
        snapshot.endpoints.entry("demo".into()).or_default().insert("web".into(), Arc::new(set));
        // A Service that has the name of a pod, in a namespace that has the name of its Service.
        let twin = ServiceName { namespace: "web".into(), name: "web-0".into() };
        let ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
        let twin = Service { name: twin, ports, ..Service::default() };
        snapshot.services.entry("web".into()).or_default().insert("web-0".into(), Arc::new(twin));
        for (from, authority, expected) in [
            ("demo", "web-0.web", Ok("demo/web:80 web-0 on n1")),
            ("demo", "WEB-1.web.:80", Ok("demo/web:80 web-1 on n2")),
            ("shop", "web-0.web.demo", Ok("demo/web:80 web-0 on n1")),
            ("shop", "web-0.web.demo.svc:8080", Ok("demo/web:8080 web-0 on n1")),
            ("shop", "web-0.web.demo.svc.cluster.local", Ok("demo/web:80 web-0 on n1")),
            ("demo", "web-0.web:81", Err(Reason::NoSuchPort)),
            ("shop", "web-0.web", Ok("web/web-0:80")),
            ("demo", "web-2.web", Err(Reason::NoSuchService)),
            // DNS has no names below an alias.
            ("demo", "web-0.alias", Err(Reason::NoSuchService)),
            ("demo", "web-0.web.demo.svc.other.local", Err(Reason::NotInMesh)),
            ("demo", "web-0", Err(Reason::NoSuchService)),
        ] {
            let found = route(&snapshot, from, authority).map(|route| {
                let ServiceName { namespace, name } = &route.service.name;
                let pod = route.pod.as_ref().map(|pod| format!(" {} on {}", pod.name, pod.at.node));
                format!("{namespace}/{name}:{}{}", route.port().port, pod.unwrap_or_default())
            });
            assert_eq!(found, expected.map(str::to_owned), "{authority} from {from}");
        }
    }
}
