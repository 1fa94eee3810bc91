//! Verdicts on routes: Service + MeshRoute + mesh defaults → compiled route, or what is wrong; looks at no generated object.

use std::collections::BTreeMap;

use vicino_crds::contract::{
    self, CompiledAdaptive, CompiledAlias, CompiledBackend, CompiledBreaker, CompiledConcurrency,
    CompiledHedge, CompiledPort, CompiledRetry, CompiledRoute, CompiledRule, DOCUMENT_BYTES_MAX,
};
use vicino_crds::mesh::RouteDefaults;
use vicino_crds::route::{
    Backend, CircuitBreaker, Hedge, Override, PortProtocol, Retry, RoutePort, Timeouts, check,
};
use vicino_crds::rule::{HeaderModifier, RequestMirror, check_modifiers};
use vicino_crds::{MeshRouteSpec, names};

use super::{MeshVerdict, Outcome, Problem, RouteVerdict, list};
use crate::world::{Key, Route, Row, Service, ServicePort, World};

mod rules;

/// Every Service of a meshed namespace, and every MeshRoute.
pub(super) fn all(world: &World, meshes: &BTreeMap<String, MeshVerdict>) -> BTreeMap<Key, RouteVerdict> {
    let mut verdicts = BTreeMap::new();
    for (namespace, row) in world.namespaces.iter() {
        let mesh = row.value.mesh.as_deref().filter(|_| !row.value.deleting);
        let Some((mesh, verdict)) = mesh.and_then(|mesh| meshes.get_key_value(mesh)) else { continue };
        for (key, service) in world.services.in_namespace(&namespace.name) {
            if !service.value.skip && !service.value.deleting && unsupported(&service.value).is_none() {
                verdicts.insert(key.clone(), of_service(world, (mesh, verdict), key, &service.value));
            }
        }
    }
    for (key, _) in world.routes.iter() {
        if !verdicts.contains_key(key) {
            verdicts.insert(key.clone(), without_service(world, key));
        }
    }
    verdicts
}

/// Services of meshed namespaces that are another name for a Service of the cluster. Whoever calls one could call the other, so that no ReferenceGrant is asked for.
pub(super) fn aliases(
    world: &World,
    meshes: &BTreeMap<String, MeshVerdict>,
) -> BTreeMap<Key, (String, CompiledAlias)> {
    let mut aliases = BTreeMap::new();
    for (namespace, row) in world.namespaces.iter() {
        let mesh = row.value.mesh.as_deref().filter(|_| !row.value.deleting);
        let Some(MeshVerdict::Accepted(mesh)) = mesh.and_then(|mesh| meshes.get(mesh)) else { continue };
        for (key, service) in world.services.in_namespace(&namespace.name) {
            let of = service.value.external_name.as_deref();
            let alias = of.and_then(|name| stands_for(name, &mesh.spec.cluster_domain));
            if let Some(alias) = alias.filter(|_| !service.value.skip && !service.value.deleting) {
                aliases.insert(key.clone(), (mesh.name.clone(), alias));
            }
        }
    }
    aliases
}

/// The Service of the cluster that a DNS name is of; it has to be whole, as a CNAME's is.
fn stands_for(name: &str, cluster_domain: &str) -> Option<CompiledAlias> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let rest = name.strip_suffix(&cluster_domain.to_ascii_lowercase())?.strip_suffix(".svc.")?;
    let (service, namespace) = rest.split_once('.')?;
    let is_label = |text: &str| !text.is_empty() && !text.contains('.');
    (is_label(service) && is_label(namespace))
        .then(|| CompiledAlias { namespace: namespace.to_owned(), service: service.to_owned() })
}

/// Why the mesh cannot carry calls to a Service. It gets no MeshRoute: one that never becomes ready would only keep
/// `kubectl wait meshroute --all` waiting.
fn unsupported(service: &Service) -> Option<&'static str> {
    if service.external_name.is_some() {
        Some(
            "the Service is of type ExternalName: calls to it get what the MeshRoute of the Service says that it stands for; remove this one",
        )
    } else if service.ports.is_empty() {
        Some(
            "the Service has no TCP port, and the mesh carries TCP only: give it one, or remove this MeshRoute",
        )
    } else {
        None
    }
}

fn of_service(
    world: &World,
    (mesh, verdict): (&String, &MeshVerdict),
    key: &Key,
    service: &Service,
) -> RouteVerdict {
    let defaults = match verdict {
        MeshVerdict::Accepted(accepted) => Ok(&accepted.spec.defaults),
        MeshVerdict::Rejected(problem) | MeshVerdict::Blocked(problem) => Err(problem.reason),
        MeshVerdict::Deleting => Err("Deleting"),
    };
    let outcome = match defaults {
        Ok(defaults) => judge(world, key, service, defaults),
        Err(why) => {
            let message = format!("the ServiceMesh {mesh:?} is not in force ({why}): see its status");
            Outcome::Kept(Problem::new("MeshNotAccepted", "", message))
        }
    };
    RouteVerdict { mesh: Some(mesh.clone()), wanted: true, outcome }
}

fn judge(world: &World, key: &Key, service: &Service, defaults: &RouteDefaults) -> Outcome {
    let default = MeshRouteSpec::default();
    let (generation, spec) = match world.routes.get(key) {
        None => (0, &default),
        Some(Row { value: Route { generation, spec: Ok(spec), .. }, .. }) => (*generation, spec),
        Some(Row { value: Route { spec: Err(problem), .. }, .. }) => {
            let message = format!("cannot be read by this version of the operator: {problem}");
            return Outcome::Kept(Problem::new("InvalidSpec", "spec", message));
        }
    };
    let times = Times::of(defaults).with(spec.timeouts.as_ref());
    let compiled = || {
        check(spec)
            .map_err(|flaw| Problem::new("InvalidSpec", &format!("spec.{}", flaw.field), flaw.problem))?;
        let ports = ports(world, key, service, spec)?;
        Ok((ports, rules::compile(world, key, service, (spec, times))?))
    };
    match compiled() {
        Ok((ports, rules)) => {
            let requeues = unsigned(spec.requeues.unwrap_or(defaults.requeues));
            let route = compile(key, service, (generation, spec), (times, requeues), (ports, rules));
            too_large(&route).map_or(Outcome::Compiled(Box::new(route)), Outcome::Kept)
        }
        Err(problem) => Outcome::Kept(problem),
    }
}

/// Milliseconds.
#[derive(Clone, Copy)]
struct Times {
    connect: u32,
    request: u32,
    idle: u32,
}

/// The schema keeps these at 0 or above, and so does [`check`].
fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn retry(spec: &Retry) -> CompiledRetry {
    CompiledRetry {
        attempts: unsigned(spec.attempts),
        codes: spec.codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
        non_idempotent: spec.non_idempotent,
        attempt_milliseconds: spec.attempt_milliseconds.map_or(0, unsigned),
        backoff_milliseconds: unsigned(spec.backoff_milliseconds),
        budget_percent: unsigned(spec.budget_percent),
        min_per_second: unsigned(spec.min_per_second),
    }
}

fn hedge(spec: &Hedge) -> CompiledHedge {
    CompiledHedge {
        delay_milliseconds: unsigned(spec.delay_milliseconds),
        budget_percent: unsigned(spec.budget_percent),
        min_per_second: unsigned(spec.min_per_second),
    }
}

fn breaker(spec: &CircuitBreaker) -> CompiledBreaker {
    CompiledBreaker {
        codes: spec.codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
        consecutive_failures: unsigned(spec.consecutive_failures),
        failure_percent: spec.failure_percent.map_or(0, unsigned),
        minimum_calls: unsigned(spec.minimum_calls),
        ejection_milliseconds: unsigned(spec.ejection_milliseconds),
        max_ejection_milliseconds: unsigned(spec.max_ejection_milliseconds),
        max_ejected_percent: unsigned(spec.max_ejected_percent),
    }
}

impl Times {
    fn of(defaults: &RouteDefaults) -> Self {
        Self {
            connect: unsigned(defaults.connect_timeout_milliseconds),
            request: unsigned(defaults.request_timeout_milliseconds),
            idle: 0,
        }
    }

    /// These where `own` says none.
    fn with(self, own: Option<&Timeouts>) -> Self {
        let connect = own.and_then(|own| own.connect_milliseconds);
        let request = own.and_then(|own| own.request_milliseconds);
        Self {
            connect: connect.map_or(self.connect, unsigned),
            request: request.map_or(self.request, unsigned),
            idle: own.and_then(|own| own.idle_milliseconds).map_or(self.idle, unsigned),
        }
    }
}

fn compile(
    key: &Key,
    service: &Service,
    (generation, spec): (i64, &MeshRouteSpec),
    (times, requeues): (Times, u32),
    (ports, rules): (Vec<CompiledPort>, Vec<CompiledRule>),
) -> CompiledRoute {
    let inbound = spec.identity.as_ref().map(|identity| identity.mode);
    CompiledRoute {
        version: CompiledRoute::version_for(CompiledRoute::version_of(&ports, &rules), inbound),
        namespace: key.namespace.clone(),
        service: key.name.clone(),
        generation,
        alias: None,
        cluster_ips: service.cluster_ips.clone(),
        ports,
        connect_timeout_milliseconds: times.connect,
        request_timeout_milliseconds: times.request,
        idle_timeout_milliseconds: times.idle,
        requeues,
        affinity: spec.affinity.clone(),
        load_balancer: spec.load_balancer.clone(),
        concurrency: spec.concurrency.as_ref().map(|concurrency| CompiledConcurrency {
            per_pod: unsigned(concurrency.per_pod),
            queue_length: unsigned(concurrency.queue.length),
            queue_timeout_milliseconds: unsigned(concurrency.queue.timeout_milliseconds),
            queue_standing_timeout_milliseconds: concurrency
                .queue
                .standing_timeout_milliseconds
                .map_or(0, unsigned),
            adaptive: concurrency.adaptive.as_ref().map(|adaptive| CompiledAdaptive {
                target_milliseconds: unsigned(adaptive.target_milliseconds),
                min_per_pod: unsigned(adaptive.min_per_pod).max(1),
            }),
        }),
        rate_limit: spec.rate_limit.clone(),
        circuit_breaker: spec.circuit_breaker.as_ref().map(breaker),
        retry: spec.retry.as_ref().map(retry),
        hedge: spec.hedge.as_ref().map(hedge),
        rules,
        inbound,
    }
}

/// What the changes to heads that a backend makes come to in a document at most.
fn edits(backend: &CompiledBackend) -> usize {
    const ENTRY_BYTES_MAX: usize = 64;
    let of = |modifier: &HeaderModifier| {
        let fields = modifier.set.iter().chain(&modifier.add);
        let fields = fields.map(|field| 2 * (field.name.len() + field.value.len()) + ENTRY_BYTES_MAX);
        fields.sum::<usize>() + modifier.remove.iter().map(|name| name.len() + ENTRY_BYTES_MAX).sum::<usize>()
    };
    let both = [&backend.request_header_modifier, &backend.response_header_modifier];
    both.into_iter().flatten().map(of).sum()
}

/// A document that proxies would refuse, and the check with them, to the harm of every other Service of the mesh.
fn too_large(route: &CompiledRoute) -> Option<Problem> {
    // What a port and a backend come to at most besides their names, so that hardly any route has to be written to be measured.
    const ENTRY_BYTES_MAX: usize = 160;
    let bound: usize =
        route.backends().map(|b| 2 * ENTRY_BYTES_MAX + b.service.len() + b.port_name.len() + edits(b)).sum();
    if bound <= DOCUMENT_BYTES_MAX / 2 && route.rules.is_empty() {
        return None;
    }
    let size = contract::write(route).len();
    let message = format!(
        "the compiled route has {size} bytes, and proxies read at most {DOCUMENT_BYTES_MAX}: give the Service fewer ports, or the route fewer or shorter backends and rules"
    );
    (size > DOCUMENT_BYTES_MAX).then(|| Problem::new("TooLarge", "spec", message))
}

fn ports(
    world: &World,
    key: &Key,
    service: &Service,
    spec: &MeshRouteSpec,
) -> Result<Vec<CompiledPort>, Problem> {
    let spoken = spoken(key, service, &spec.ports)?;
    let port = |port: &ServicePort| {
        let backends = backends(world, key, (service, port), ("spec", &spec.backends))?;
        let protocol = spoken.get(&port.port).copied().unwrap_or(port.protocol);
        Ok(CompiledPort { port: port.port, protocol, backends, overrides: Vec::new() })
    };
    let mut ports = service.ports.iter().map(port).collect::<Result<Vec<_>, _>>()?;
    for (i, wanted) in spec.overrides.iter().enumerate() {
        overriding(world, (key, service), (&format!("spec.overrides[{i}]"), wanted), &mut ports)?;
    }
    Ok(ports)
}

/// What the MeshRoute says of ports, instead of the Service.
fn spoken(key: &Key, service: &Service, said: &[RoutePort]) -> Result<BTreeMap<u16, PortProtocol>, Problem> {
    let mut spoken = BTreeMap::new();
    for (i, RoutePort { port, protocol }) in said.iter().enumerate() {
        let field = format!("spec.ports[{i}].port");
        let Some(known) = service.ports.iter().find(|known| i32::from(known.port) == *port) else {
            let exist: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
            let message = format!(
                "the Service {:?} has no TCP port {port}; its TCP ports: {}",
                key.name,
                exist.join(", ")
            );
            return Err(Problem::new("PortNotFound", &field, message));
        };
        if spoken.insert(known.port, *protocol).is_some() {
            let message = format!("the port {port} is listed twice: say once what it speaks");
            return Err(Problem::new("InvalidSpec", &field, message));
        }
    }
    Ok(spoken)
}

/// Adds what calls may ask for to the ports that it has a port for.
fn overriding(
    world: &World,
    (key, service): (&Key, &Service),
    (field, wanted): (&str, &Override),
    ports: &mut [CompiledPort],
) -> Result<(), Problem> {
    let each = service.ports.iter().zip(ports);
    let mut missing = Ok(());
    let mut has_one = false;
    for (port, compiled) in each {
        match backend(world, &key.namespace, (field, wanted.into()), port) {
            Ok(to) => {
                has_one = true;
                compiled.overrides.push(CompiledBackend { weight: 0, ..to });
            }
            Err(problem) if problem.reason == "BackendPortNotFound" => missing = Err(problem),
            Err(problem) => return Err(problem),
        }
    }
    if has_one { Ok(()) } else { missing }
}

/// Where calls to one port go by the `backends` of the spec's part at `at`; to the Service itself when there are none.
fn backends(
    world: &World,
    key: &Key,
    (service, port): (&Service, &ServicePort),
    (at, all): (&str, &[Backend]),
) -> Result<Vec<CompiledBackend>, Problem> {
    if all.is_empty() {
        return Ok(vec![to(&key.name, service, port)]);
    }
    let each = all.iter().enumerate();
    each.map(|(i, wanted)| {
        let field = format!("{at}.backends[{i}]");
        if let Some(twin) = all[..i].iter().position(|other| is_same(other, wanted, &key.namespace)) {
            let message = format!(
                "is the Service and port that {at}.backends[{twin}] is: name it once, with the sum of their weights"
            );
            return Err(Problem::new("InvalidBackend", &field, message));
        }
        let (request, response) = (&wanted.request_header_modifier, &wanted.response_header_modifier);
        check_modifiers(&field, request.as_ref(), response.as_ref())
            .map_err(|flaw| Problem::new("InvalidBackend", &flaw.field, flaw.problem))?;
        Ok(CompiledBackend {
            weight: u32::try_from(wanted.weight).unwrap_or(0),
            request_header_modifier: request.clone(),
            response_header_modifier: response.clone(),
            ..backend(world, &key.namespace, (&field, Named::from(wanted)), port)?
        })
    })
    .collect()
}

/// Whether two backends of a route in `own` are one.
fn is_same(a: &Backend, b: &Backend, own: &str) -> bool {
    let namespace = |of: &Backend| of.namespace.clone().unwrap_or_else(|| own.to_owned());
    (&a.name, a.port) == (&b.name, b.port) && namespace(a) == namespace(b)
}

fn to(name: &str, service: &Service, port: &ServicePort) -> CompiledBackend {
    CompiledBackend {
        namespace: String::new(),
        service: name.to_owned(),
        port: port.port,
        port_name: port.name.clone(),
        weight: 1,
        node_local: service.node_local,
        request_header_modifier: None,
        response_header_modifier: None,
    }
}

/// A Service and its port, as a MeshRoute names them.
#[derive(Clone, Copy)]
struct Named<'a> {
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<i32>,
}

impl<'a> From<&'a Backend> for Named<'a> {
    fn from(of: &'a Backend) -> Self {
        Self { name: &of.name, namespace: of.namespace.as_deref(), port: of.port }
    }
}

impl<'a> From<&'a Override> for Named<'a> {
    fn from(of: &'a Override) -> Self {
        Self { name: &of.name, namespace: of.namespace.as_deref(), port: of.port }
    }
}

impl<'a> From<&'a RequestMirror> for Named<'a> {
    fn from(of: &'a RequestMirror) -> Self {
        Self { name: &of.name, namespace: of.namespace.as_deref(), port: of.port }
    }
}

fn backend(
    world: &World,
    namespace: &str,
    (field, wanted): (&str, Named<'_>),
    called: &ServicePort,
) -> Result<CompiledBackend, Problem> {
    let name = format!("{field}.name");
    let foreign = wanted.namespace.filter(|other| *other != namespace);
    let key = Key::new(foreign.unwrap_or(namespace), wanted.name);
    // Before anything is said of what is there.
    if !world.is_granted(namespace, &key) {
        let message = format!(
            "no ReferenceGrant of the namespace {:?} lets MeshRoutes of the namespace {namespace:?} refer to its Service {:?}: create one there, from group {} kind MeshRoute to kind Service",
            key.namespace,
            key.name,
            names::GROUP
        );
        return Err(Problem::new("RefNotPermitted", &format!("{field}.namespace"), message));
    }
    let Some(target) = world.services.get(&key) else {
        let others = world.services.in_namespace(&key.namespace).map(|(key, _)| key.name.as_str());
        let message = format!(
            "there is no Service {:?} in the namespace {:?}; its Services: {}",
            key.name,
            key.namespace,
            list(others)
        );
        return Err(Problem::new("BackendNotFound", &name, message));
    };
    if let Some(stands_for) = &target.value.external_name {
        let message = format!(
            "the Service {:?} is of type ExternalName and has no endpoints: name the Service itself that it stands for, {stands_for:?}, if that is one of the cluster's",
            key.name
        );
        return Err(Problem::new("UnsupportedBackend", &name, message));
    }
    let number = wanted.port.map_or(Some(called.port), |port| u16::try_from(port).ok());
    let Some(port) = target.value.ports.iter().find(|port| Some(port.port) == number) else {
        let field = format!("{field}.port");
        let asked = match wanted.port {
            Some(port) => format!("{port}"),
            None => format!("{}, which is the port that was called", called.port),
        };
        let exist: Vec<_> = target.value.ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!(
            "the Service {:?} has no TCP port {asked}; its TCP ports: {}",
            key.name,
            exist.join(", ")
        );
        return Err(Problem::new("BackendPortNotFound", &field, message));
    };
    let namespace = foreign.unwrap_or_default().to_owned();
    Ok(CompiledBackend { namespace, ..to(&key.name, &target.value, port) })
}

/// A MeshRoute that no Service of a meshed namespace wants.
fn without_service(world: &World, key: &Key) -> RouteVerdict {
    let namespace = world.namespaces.get(&Key::cluster(&key.namespace)).map(|row| &row.value);
    let named = namespace.and_then(|namespace| namespace.mesh.clone());
    let mesh = named.clone().filter(|mesh| world.meshes.get(&Key::cluster(mesh)).is_some());
    let service = world.services.get(key).map(|row| &row.value).filter(|service| !service.deleting);
    let (reason, message) = match (&mesh, &named, service) {
        _ if namespace.is_some_and(|namespace| namespace.deleting) => {
            ("NamespaceTerminating", "the namespace is being deleted".to_owned())
        }
        (None, Some(named), _) => (
            "MeshNotFound",
            format!(
                "the namespace names the ServiceMesh {named:?}, which does not exist: create it, or change the label"
            ),
        ),
        (None, None, _) => (
            "NamespaceNotMeshed",
            format!(
                "the namespace is in no mesh: label it with {}: <name of a ServiceMesh>",
                names::LABEL_MESH
            ),
        ),
        (Some(_), _, Some(service)) if !service.skip && unsupported(service).is_some() => {
            ("UnsupportedService", unsupported(service).unwrap_or_default().to_owned())
        }
        (Some(_), _, Some(_)) => (
            "ServiceSkipped",
            format!(
                "the Service is annotated with {}: \"true\": remove the annotation, or this MeshRoute",
                names::ANNOTATION_SKIP
            ),
        ),
        (Some(_), _, None) => (
            "ServiceNotFound",
            format!(
                "there is no Service {:?} in the namespace {:?}: create it, or name the MeshRoute after the Service that it is for",
                key.name, key.namespace
            ),
        ),
    };
    RouteVerdict { mesh, wanted: false, outcome: Outcome::Nothing(Problem::new(reason, "", message)) }
}
