//! One compiled document → the engine's plain data; units and types change, meaning does not.

use std::net::SocketAddr;
use std::sync::Arc;

use vicino_crds::contract::{
    CompiledBackend, CompiledBreaker, CompiledHedge, CompiledNode, CompiledPort, CompiledRetry,
    CompiledRoute, CompiledRule,
};
use vicino_crds::mesh::IdentityMode;
use vicino_crds::route::{
    Affinity as CrdAffinity, AffinityType, LoadBalancerType, PortProtocol, RateLimit as CrdRateLimit,
    RateLimitKeyType, SetCookie as CrdSetCookie,
};
use vicino_crds::rule::{
    Cors as CrdCors, Fault as CrdFault, GrpcMatch, HeaderField, HeaderModifier, PathMatch, PathMatchType,
    PathModifier, PathModifierType, RequestRedirect, RouteMatch, Scheme, ValueMatchType, matcher,
};
use vicino_engine::adaptive::Adaptive;
use vicino_engine::affinity::{Affinity, SetCookie};
use vicino_engine::balance::Algorithm;
use vicino_engine::breaker::Breaker;
use vicino_engine::rate::{RateKey, RateLimit};
use vicino_engine::retry::{Hedge, Retry};
use vicino_engine::rules::{
    Action, Cors, Fault, HeaderEdit, OriginTest, PathEdit, PathTest, Pattern, Redirect, Rule, Rules, Test,
    ValueTest,
};
use vicino_engine::snapshot::{
    Backend, Concurrency, Edits, Node, Protocol, RuleBackends, Service, ServiceName, ServicePort, Times,
};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

fn nanoseconds(milliseconds: u32) -> u64 {
    u64::from(milliseconds) * NANOSECONDS_PER_MILLISECOND
}

/// From milliseconds.
fn times(connect: u32, request: u32, idle: u32) -> Times {
    Times { connect_ns: nanoseconds(connect), request_ns: nanoseconds(request), idle_ns: nanoseconds(idle) }
}

/// The route of a Service.
pub(super) fn service(route: &CompiledRoute) -> Service {
    let namespace: Arc<str> = Arc::from(&*route.namespace);
    let name = ServiceName { namespace: namespace.clone(), name: Arc::from(&*route.service) };
    Service {
        ports: route.ports.iter().enumerate().map(|port| service_port(port, route, &name)).collect(),
        times: times(
            route.connect_timeout_milliseconds,
            route.request_timeout_milliseconds,
            route.idle_timeout_milliseconds,
        ),
        requeues: route.requeues,
        is_strict: route.inbound == Some(IdentityMode::Strict),
        retry: route.retry.as_ref().map(retry),
        hedge: route.hedge.as_ref().map(hedge),
        affinity: route.affinity.as_ref().map(affinity),
        affinity_load_percent: affinity_load_percent(route),
        algorithm: route.load_balancer.as_ref().map(|balancer| algorithm(balancer.kind)).unwrap_or_default(),
        concurrency: route.concurrency.as_ref().map(|concurrency| Concurrency {
            per_pod: concurrency.per_pod,
            queue_length: concurrency.queue_length,
            queue_timeout_ns: nanoseconds(concurrency.queue_timeout_milliseconds),
            standing_timeout_ns: nanoseconds(concurrency.queue_standing_timeout_milliseconds),
            adaptive: concurrency.adaptive.map(|adaptive| Adaptive {
                target_ns: nanoseconds(adaptive.target_milliseconds),
                per_pod_min: adaptive.min_per_pod.max(1),
            }),
        }),
        rate_limit: route.rate_limit.as_ref().map(rate_limit),
        breaker: route.circuit_breaker.as_ref().map(breaker),
        rules: Rules::new(route.rules.iter().map(rule).collect()),
        name,
    }
}

fn service_port(
    (index, port): (usize, &CompiledPort),
    route: &CompiledRoute,
    owner: &ServiceName,
) -> ServicePort {
    let of_rule = |rule: &CompiledRule| {
        let Some(port) = rule.ports.get(index) else { return RuleBackends::default() };
        let mirror = port.mirror.as_ref().map(|mirror| backend(mirror, owner));
        RuleBackends { backends: backends(&port.backends, owner), mirror }
    };
    ServicePort {
        port: port.port,
        protocol: match port.protocol {
            PortProtocol::Http => Protocol::Http,
            PortProtocol::Http1 => Protocol::Http1,
            PortProtocol::Http2 => Protocol::Http2,
            PortProtocol::Tcp => Protocol::Opaque,
        },
        backends: backends(&port.backends, owner),
        overrides: backends(&port.overrides, owner),
        of_rules: route.rules.iter().map(of_rule).collect(),
    }
}

fn rate_limit(limit: &CrdRateLimit) -> RateLimit {
    let per_second = u32::try_from(limit.requests_per_second).unwrap_or(1).max(1);
    let key = limit.key.as_ref().map(|key| match key.kind {
        RateLimitKeyType::Header => RateKey::Header(key.name.as_deref().unwrap_or_default().into()),
        RateLimitKeyType::Source => RateKey::Source,
        RateLimitKeyType::ServiceAccount => RateKey::ServiceAccount,
    });
    let burst = limit.burst.and_then(|burst| u32::try_from(burst).ok()).unwrap_or(per_second);
    RateLimit { per_second, burst, key }
}

fn breaker(compiled: &CompiledBreaker) -> Breaker {
    Breaker {
        codes: compiled.codes.clone(),
        consecutive_failures: compiled.consecutive_failures,
        failure_percent: compiled.failure_percent,
        minimum_calls: compiled.minimum_calls,
        ejection_ns: nanoseconds(compiled.ejection_milliseconds),
        ejection_max_ns: nanoseconds(compiled.max_ejection_milliseconds),
        ejected_percent: compiled.max_ejected_percent,
    }
}

fn backends(all: &[CompiledBackend], owner: &ServiceName) -> Vec<Backend> {
    all.iter().map(|one| backend(one, owner)).collect()
}

fn backend(of: &CompiledBackend, owner: &ServiceName) -> Backend {
    let is_own = of.namespace.is_empty() && *of.service == *owner.name;
    let (request, response) = (&of.request_header_modifier, &of.response_header_modifier);
    let edits = || Edits {
        request: request.as_ref().map(edit).unwrap_or_default(),
        response: response.as_ref().map(edit).unwrap_or_default(),
    };
    Backend {
        service: ServiceName {
            namespace: match &*of.namespace {
                "" => owner.namespace.clone(),
                other => Arc::from(other),
            },
            name: if is_own { owner.name.clone() } else { Arc::from(&*of.service) },
        },
        port: of.port,
        port_name: Arc::from(&*of.port_name),
        weight: of.weight,
        is_node_local: of.node_local,
        edits: (request.is_some() || response.is_some()).then(|| Arc::new(edits())),
    }
}

fn rule(compiled: &CompiledRule) -> (Rule, Vec<Test>) {
    let rule = &compiled.rule;
    let rewrite = rule.url_rewrite.as_ref();
    let action = match (&rule.request_redirect, &rule.direct_response) {
        (Some(redirect), _) => Action::Redirect(self::redirect(redirect)),
        (_, Some(response)) => Action::Respond {
            status: number(response.status_code),
            body: response.body.as_deref().unwrap_or_default().into(),
        },
        _ => Action::Forward,
    };
    let what = Rule {
        name: rule.name.as_deref().unwrap_or_default().into(),
        times: times(
            compiled.connect_timeout_milliseconds,
            compiled.request_timeout_milliseconds,
            compiled.idle_timeout_milliseconds,
        ),
        rate_limit: rule.rate_limit.as_ref().map(rate_limit),
        retry: compiled.retry.as_ref().map(retry),
        hedge: compiled.hedge.as_ref().map(hedge),
        failures: rule.failure_codes.as_deref().map(|codes| codes.iter().map(|code| number(*code)).collect()),
        mirror_percent: rule.request_mirror.as_ref().map_or(0, |mirror| percent(mirror.percent)),
        cors: rule.cors.as_ref().map(cors),
        request: rule.request_header_modifier.as_ref().map(edit).unwrap_or_default(),
        response: rule.response_header_modifier.as_ref().map(edit).unwrap_or_default(),
        host: rewrite.and_then(|rewrite| rewrite.hostname.as_deref()).map(Into::into),
        path: rewrite.and_then(|rewrite| rewrite.path.as_ref()).and_then(path_edit),
        action,
        fault: rule.fault.as_ref().map(fault).unwrap_or_default(),
    };
    (what, rule.matches.iter().map(test).collect())
}

fn affinity_load_percent(route: &CompiledRoute) -> u32 {
    let percent = route.affinity.as_ref().and_then(|affinity| affinity.max_load_percent);
    percent.and_then(|percent| u32::try_from(percent).ok()).unwrap_or(0)
}

fn affinity(affinity: &CrdAffinity) -> Affinity {
    let name = affinity.name.as_deref().unwrap_or_default().into();
    match affinity.kind {
        AffinityType::Header => Affinity::Header(name),
        AffinityType::Cookie => {
            let max_age = |set: &CrdSetCookie| set.max_age_seconds.and_then(|s| u32::try_from(s).ok());
            let set = affinity.set_cookie.as_ref();
            Affinity::Cookie(name, set.map(|set| SetCookie { max_age_s: max_age(set) }))
        }
        AffinityType::QueryParam => Affinity::Query(name),
        AffinityType::Source => Affinity::Source,
    }
}

fn cors(of: &CrdCors) -> Cors {
    let list = |texts: &[String]| texts.iter().map(|text| Box::from(&**text)).collect();
    let origin = |text: &String| match text.split_once('*') {
        Some(("", "")) => OriginTest::Any,
        Some((before, after)) => OriginTest::Between(before.into(), after.into()),
        None => OriginTest::Exact(text.as_str().into()),
    };
    Cors {
        origins: of.allow_origins.iter().map(origin).collect(),
        methods: list(&of.allow_methods),
        headers: list(&of.allow_headers),
        expose: list(&of.expose_headers),
        is_with_credentials: of.allow_credentials,
        max_age_s: u32::try_from(of.max_age_seconds).unwrap_or(0),
    }
}

fn percent(of: i32) -> u8 {
    u8::try_from(of.clamp(0, 100)).unwrap_or(0)
}

fn algorithm(kind: LoadBalancerType) -> Algorithm {
    match kind {
        LoadBalancerType::LeastRequest => Algorithm::LeastRequest,
        LoadBalancerType::PeakEwma => Algorithm::PeakEwma,
        LoadBalancerType::RoundRobin => Algorithm::RoundRobin,
        LoadBalancerType::Random => Algorithm::Random,
    }
}

fn retry(retry: &CompiledRetry) -> Retry {
    Retry {
        attempts: retry.attempts,
        codes: retry.codes.clone(),
        is_for_any_method: retry.non_idempotent,
        attempt_ns: nanoseconds(retry.attempt_milliseconds),
        backoff_ns: nanoseconds(retry.backoff_milliseconds),
        budget_percent: retry.budget_percent,
        min_per_second: retry.min_per_second,
    }
}

fn hedge(hedge: &CompiledHedge) -> Hedge {
    Hedge {
        delay_ns: nanoseconds(hedge.delay_milliseconds),
        budget_percent: hedge.budget_percent,
        min_per_second: hedge.min_per_second,
    }
}

pub(super) fn path_test(path: &PathMatch) -> PathTest {
    match path.kind {
        PathMatchType::Exact => PathTest::Exact((*path.value).into()),
        PathMatchType::PathPrefix => PathTest::prefix(&path.value),
        PathMatchType::RegularExpression => PathTest::Regex(pattern(&path.value)),
    }
}

/// A gRPC call is POST with this path.
pub(super) fn grpc_test(grpc: &GrpcMatch) -> PathTest {
    match &grpc.method {
        Some(method) => PathTest::Exact(format!("/{}/{method}", grpc.service).into()),
        None => PathTest::prefix(&format!("/{}", grpc.service)),
    }
}

pub(super) fn value_test(kind: ValueMatchType, text: &str) -> ValueTest {
    match kind {
        ValueMatchType::Exact => ValueTest::Exact(text.into()),
        ValueMatchType::RegularExpression => ValueTest::Regex(pattern(text)),
    }
}

fn test(one: &RouteMatch) -> Test {
    let path = one.path.as_ref().map(path_test);
    let grpc = one.grpc.as_ref().map(grpc_test);
    let method = if grpc.is_some() { Some("POST") } else { one.method.as_deref() };
    let value = value_test;
    let headers = one.headers.iter().map(|header| ((*header.name).into(), value(header.kind, &header.value)));
    let query = one.query_params.iter().map(|param| ((*param.name).into(), value(param.kind, &param.value)));
    Test {
        path: grpc.or(path).unwrap_or_default(),
        method: method.map(Into::into),
        headers: headers.collect(),
        query: query.collect(),
    }
}

fn pattern(text: &str) -> Pattern {
    let regex = matcher(text).expect("a document is read only when its expressions are sound");
    Pattern { text: text.into(), regex }
}

fn edit(modifier: &HeaderModifier) -> HeaderEdit {
    let fields = |fields: &[HeaderField]| {
        fields.iter().map(|field| ((*field.name).into(), (*field.value).into())).collect()
    };
    HeaderEdit {
        remove: modifier.remove.iter().map(|name| (**name).into()).collect(),
        set: fields(&modifier.set),
        add: fields(&modifier.add),
    }
}

fn path_edit(path: &PathModifier) -> Option<PathEdit> {
    match path.kind {
        PathModifierType::ReplaceFullPath => {
            path.replace_full_path.as_deref().map(|text| PathEdit::Full(text.into()))
        }
        PathModifierType::ReplacePrefixMatch => {
            path.replace_prefix_match.as_deref().map(|text| PathEdit::Prefix(text.into()))
        }
    }
}

fn redirect(redirect: &RequestRedirect) -> Redirect {
    Redirect {
        status: number(redirect.status_code),
        scheme: redirect.scheme.map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }),
        host: redirect.hostname.as_deref().map(Into::into),
        port: redirect.port.map(number),
        path: redirect.path.as_ref().and_then(path_edit),
    }
}

fn fault(fault: &CrdFault) -> Fault {
    let percent = |percent: i32| u8::try_from(percent).unwrap_or(0).min(100);
    Fault {
        delay_ns: fault
            .delay
            .as_ref()
            .map_or(0, |delay| u64::try_from(delay.milliseconds).unwrap_or(0) * NANOSECONDS_PER_MILLISECOND),
        delay_percent: fault.delay.as_ref().map_or(0, |delay| percent(delay.percent)),
        abort_status: fault.abort.as_ref().map_or(0, |abort| number(abort.status_code)),
        abort_percent: fault.abort.as_ref().map_or(0, |abort| percent(abort.percent)),
    }
}

/// The schema and the document's check keep these in range.
fn number(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// A neighbourhood.
pub(super) fn node(node: &CompiledNode) -> Node {
    let addresses = node.addresses.iter().filter_map(|text| text.parse().ok());
    Node {
        name: Arc::from(&*node.name),
        addresses: addresses.map(|ip| SocketAddr::new(ip, node.port)).collect(),
        zone: Arc::from(&*node.zone),
        ready: node.ready,
        secure: node.secure,
    }
}
