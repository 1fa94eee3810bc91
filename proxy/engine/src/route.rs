//! Name and port → Service and port, request head → rule: pure functions of the snapshot, the caller's namespace and the head.

use std::net::IpAddr;
use std::sync::Arc;

use vicino_wire::head::{Authority, RequestHead};

use crate::reply::Reason;
use crate::rules::{Pick, Rules};
use crate::snapshot::{Service, ServicePort, Snapshot};

/// Port of an authority without one.
pub const PORT_DEFAULT: u16 = 80;

/// Longest DNS name, in bytes, its final dot included.
const NAME_BYTES_MAX: usize = 254;

/// What an authority names.
#[derive(Clone, Debug)]
pub struct Route {
    /// The Service.
    pub service: Arc<Service>,
    /// Index into its ports.
    pub port_index: usize,
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
    let pick = pick(&route.service.rules, head)?;
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
/// and the case do not matter) or a cluster IP; port 80 unless it says another.
pub fn route(snapshot: &Snapshot, namespace: &str, authority: &str) -> Result<Route, Reason> {
    let authority = Authority::parse(authority).ok_or(Reason::NotInMesh)?;
    let service = match authority.host.parse::<IpAddr>() {
        Ok(address) => {
            let name = snapshot.cluster_ips.get(&address.to_canonical()).ok_or(Reason::NotInMesh)?;
            snapshot.service(&name.namespace, &name.name).ok_or(Reason::NoSuchService)?
        }
        Err(_) => named(snapshot, namespace, authority.host)?,
    };
    let port = authority.port.unwrap_or(PORT_DEFAULT);
    let port_index = service.ports.iter().position(|p| p.port == port).ok_or(Reason::NoSuchPort)?;
    Ok(Route { service: Arc::clone(service), port_index })
}

fn named<'s>(snapshot: &'s Snapshot, namespace: &str, host: &str) -> Result<&'s Arc<Service>, Reason> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..host.len()).ok_or(Reason::NotInMesh)?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    let host = std::str::from_utf8(lower).map_err(|_| Reason::NotInMesh)?;
    let host = host.strip_suffix('.').unwrap_or(host);
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
    if !is_cluster_name {
        return Err(Reason::NotInMesh);
    }
    snapshot.service(namespace, name).ok_or(Reason::NoSuchService)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ServiceName;

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
}
