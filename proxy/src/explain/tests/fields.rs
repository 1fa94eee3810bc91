//! That an explanation tells every field of a route that matters to a call: whatever changes in a document, the explanation changes. The documents name
//! each field, so that one that is new has to be thought of here.

use serde_json::{Value, json};
use vicino_crds::contract::{
    CompiledAdaptive, CompiledBackend, CompiledBreaker, CompiledConcurrency, CompiledHedge, CompiledPort,
    CompiledRetry, CompiledRoute, CompiledRule, CompiledRulePort, write,
};
use vicino_crds::mesh::IdentityMode;
use vicino_crds::route::{
    Affinity, AffinityType, LoadBalancer, LoadBalancerType, PortProtocol, RateLimit, RateLimitKey,
    RateLimitKeyType, SetCookie,
};
use vicino_crds::rule::{
    Cors, DirectResponse, Fault, FaultAbort, FaultDelay, HeaderField, HeaderMatch, HeaderModifier, PathMatch,
    PathMatchType, PathModifier, PathModifierType, QueryParamMatch, RequestMirror, RequestRedirect,
    RouteMatch, RouteRule, Scheme, UrlRewrite, ValueMatchType,
};

use super::super::*;
use crate::config::build::{Built, build};
use crate::config::bundle::{BundleKind, RawBundle};
use crate::config::inputs::Identity;
use crate::config::{Change, Inputs, Slice};
use crate::explain::policy::{Caller, Pods};

fn backend(service: &str, weight: u32) -> CompiledBackend {
    let modifier = || HeaderModifier {
        set: vec![HeaderField { name: "x-set".into(), value: "a".into() }],
        add: vec![HeaderField { name: "x-add".into(), value: "a".into() }],
        remove: vec!["x-remove".into()],
    };
    CompiledBackend {
        namespace: "shop".into(),
        service: service.into(),
        port: 80,
        port_name: "http".into(),
        weight,
        node_local: true,
        request_header_modifier: Some(modifier()),
        response_header_modifier: Some(modifier()),
    }
}

fn retry() -> CompiledRetry {
    CompiledRetry {
        attempts: 2,
        codes: vec![502, 503],
        non_idempotent: true,
        attempt_milliseconds: 50,
        backoff_milliseconds: 5,
        budget_percent: 20,
        min_per_second: 10,
    }
}

fn hedge() -> CompiledHedge {
    CompiledHedge { delay_milliseconds: 40, budget_percent: 5, min_per_second: 1 }
}

fn rate_limit() -> RateLimit {
    let key = RateLimitKey { kind: RateLimitKeyType::Header, name: Some("x-user".into()) };
    RateLimit { requests_per_second: 100, burst: Some(20), key: Some(key) }
}

/// A route without rules that says everything.
fn plain() -> CompiledRoute {
    CompiledRoute {
        version: 4,
        namespace: "shop".into(),
        service: "web".into(),
        generation: 3,
        alias: None,
        cluster_ips: vec!["10.96.0.7".into()],
        ports: vec![CompiledPort {
            port: 80,
            protocol: PortProtocol::Http,
            backends: vec![backend("web", 3), backend("api", 1)],
            overrides: vec![CompiledBackend { weight: 0, ..backend("api", 0) }],
        }],
        connect_timeout_milliseconds: 1000,
        request_timeout_milliseconds: 2000,
        idle_timeout_milliseconds: 3000,
        requeues: 1,
        affinity: Some(Affinity {
            kind: AffinityType::Cookie,
            name: Some("sid".into()),
            set_cookie: Some(SetCookie { max_age_seconds: Some(60) }),
            max_load_percent: Some(150),
        }),
        load_balancer: Some(LoadBalancer { kind: LoadBalancerType::RoundRobin }),
        concurrency: Some(CompiledConcurrency {
            per_pod: 10,
            queue_length: 100,
            queue_timeout_milliseconds: 1000,
            queue_standing_timeout_milliseconds: 50,
            adaptive: Some(CompiledAdaptive { target_milliseconds: 100, min_per_pod: 2 }),
        }),
        rate_limit: Some(rate_limit()),
        circuit_breaker: Some(CompiledBreaker {
            codes: vec![500, 503],
            consecutive_failures: 5,
            failure_percent: 30,
            minimum_calls: 20,
            ejection_milliseconds: 10_000,
            max_ejection_milliseconds: 60_000,
            max_ejected_percent: 50,
        }),
        retry: Some(retry()),
        hedge: Some(hedge()),
        rules: Vec::new(),
        inbound: Some(IdentityMode::Strict),
    }
}

/// A rule that says everything but what it answers.
fn forwarding() -> RouteRule {
    let value = || "x".to_owned();
    let modifier = || HeaderModifier {
        set: vec![HeaderField { name: "x-set".into(), value: value() }],
        add: vec![HeaderField { name: "x-add".into(), value: value() }],
        remove: vec!["x-remove".into()],
    };
    RouteRule {
        name: Some("all".into()),
        matches: vec![RouteMatch {
            grpc: None,
            path: Some(PathMatch { kind: PathMatchType::PathPrefix, value: "/v1".into() }),
            headers: vec![HeaderMatch {
                kind: ValueMatchType::Exact,
                name: "x-canary".into(),
                value: "yes".into(),
            }],
            query_params: vec![QueryParamMatch {
                kind: ValueMatchType::Exact,
                name: "q".into(),
                value: "1".into(),
            }],
            method: Some("GET".into()),
        }],
        // These four are compiled apart.
        backends: Vec::new(),
        timeouts: None,
        retry: None,
        hedge: None,
        rate_limit: Some(rate_limit()),
        failure_codes: Some(vec![500, 503]),
        request_header_modifier: Some(modifier()),
        response_header_modifier: Some(modifier()),
        request_mirror: Some(RequestMirror { name: "api".into(), namespace: None, port: None, percent: 10 }),
        cors: Some(Cors {
            allow_origins: vec!["https://*.example".into(), "https://shop.example".into()],
            allow_methods: vec!["PUT".into()],
            allow_headers: vec!["x-a".into()],
            expose_headers: vec!["x-b".into()],
            allow_credentials: true,
            max_age_seconds: 5,
        }),
        url_rewrite: Some(UrlRewrite {
            hostname: Some("inner.example".into()),
            path: Some(PathModifier {
                kind: PathModifierType::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some("/new".into()),
            }),
        }),
        request_redirect: None,
        direct_response: None,
        fault: Some(Fault {
            delay: Some(FaultDelay { milliseconds: 40, percent: 10 }),
            abort: Some(FaultAbort { status_code: 503, percent: 1 }),
        }),
    }
}

fn with_rule(rule: RouteRule) -> CompiledRoute {
    let ports = vec![CompiledRulePort {
        port: 80,
        backends: vec![backend("web", 3), backend("api", 1)],
        mirror: Some(CompiledBackend { port: 80, port_name: "http".into(), ..mirror() }),
    }];
    let compiled = CompiledRule {
        ports: if rule.answers() { Vec::new() } else { ports },
        rule,
        connect_timeout_milliseconds: 1000,
        request_timeout_milliseconds: 200,
        idle_timeout_milliseconds: 300,
        retry: Some(retry()),
        hedge: Some(hedge()),
    };
    CompiledRoute { rules: vec![compiled], ..plain() }
}

fn mirror() -> CompiledBackend {
    CompiledBackend { namespace: "shop".into(), service: "api".into(), ..CompiledBackend::default() }
}

/// What is called beside `web`, by a route that says nothing.
fn other() -> CompiledRoute {
    let itself = CompiledBackend {
        service: "api".into(),
        port: 80,
        port_name: "http".into(),
        weight: 1,
        ..CompiledBackend::default()
    };
    CompiledRoute {
        service: "api".into(),
        cluster_ips: Vec::new(),
        ports: vec![CompiledPort {
            port: 80,
            protocol: PortProtocol::Http,
            backends: vec![itself],
            overrides: Vec::new(),
        }],
        connect_timeout_milliseconds: 1000,
        requeues: 1,
        affinity: None,
        load_balancer: None,
        concurrency: None,
        circuit_breaker: None,
        inbound: None,
        ..plain()
    }
}

fn slice(service: &str, number: u8) -> Slice {
    let slice = json!({
        "metadata": { "name": service, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [format!("10.1.0.{number}")], "nodeName": "node1", "conditions": { "ready": true } }],
    });
    Slice::trim(&serde_json::from_value(slice).unwrap())
}

/// What a call gets by two documents, which proxies have to take.
fn explained(web: &CompiledRoute, api: &CompiledRoute) -> Explanation {
    let identity = Identity { node: "node1".into(), mesh: "default".into(), mesh_uid: "u1".into() };
    let (mut inputs, mut notices) = (Inputs::new(identity), Vec::new());
    let data = [("web.yaml".to_owned(), write(web)), ("api.yaml".to_owned(), write(api))].into();
    let kind = BundleKind::Routes { namespace: "shop".into() };
    inputs.apply(Change::Bundle(RawBundle { name: "routes".into(), kind, data }), &mut notices);
    inputs.apply(Change::AllSlices(vec![slice("web", 1), slice("api", 2)]), &mut notices);
    assert_eq!(notices, []);
    let built = build(&inputs, &Built::default());
    let call = Call {
        method: "GET".to_owned(),
        host: "web".to_owned(),
        path: "/v1/x?q=1".to_owned(),
        headers: vec!["x-canary: yes".to_owned()],
        from: "shop".to_owned(),
    };
    explain(&built.snapshot, &call, (&Caller::default(), &Pods::default())).unwrap()
}

/// Pointers to all that has no parts.
fn leaves(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, &format!("{at}/{name}"), all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| leaves(value, &format!("{at}/{i}"), all));
        }
        _ => all.push(at.to_owned()),
    }
}

/// Another value that may be there.
fn another(value: &Value) -> Value {
    match value {
        Value::Bool(value) => json!(!value),
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::String(text) => match &**text {
            "HTTP" => json!("HTTP/2"),
            "RoundRobin" => json!("Random"),
            "Strict" => json!("Permissive"),
            "Exact" => json!("RegularExpression"),
            "PathPrefix" => json!("Exact"),
            "https" => json!("http"),
            "GET" | "PUT" => json!("DELETE"),
            text => json!(format!("{text}x")),
        },
        _ => panic!("{value} has no other"),
    }
}

/// Changes each field below `under` but those that `without` says, whole or, with two names and more, in part, and looks whether the explanation of a call says so.
fn all_matter(route: &CompiledRoute, under: &str, without: &[&str]) {
    let whole = serde_json::to_value(route).unwrap();
    let read = |value: Value| serde_json::from_value::<CompiledRoute>(value).unwrap();
    assert_eq!(&read(whole.clone()), route);
    let before = explained(route, &other());
    let mut all = Vec::new();
    leaves(&whole, "", &mut all);
    let is_meant = |at: &str, part: &str| at == part || (part[1..].contains('/') && at.contains(part));
    all.retain(|at| at.starts_with(under) && !without.iter().any(|part| is_meant(at, part)));
    assert!(!all.is_empty());
    let silent = all.into_iter().filter(|at| {
        let mut whole = whole.clone();
        let value = whole.pointer_mut(at).unwrap();
        *value = another(value);
        explained(&read(whole), &other()) == before
    });
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn whatever_changes_in_a_route_changes_what_is_said_of_a_call() {
    // What a document is about and where it comes from; by what else the Service is called; what only calls get that ask for it; and what goes with a name
    // or without (looked at below).
    let without = [
        "/version",
        "/generation",
        "/namespace",
        "/service",
        "/clusterIps/0",
        "/affinity/type",
        "/rateLimit/key/type",
        "/overrides/0/port",
        "/overrides/0/weight",
        "/overrides/0/nodeLocal",
        "/overrides/0/request",
        "/overrides/0/response",
    ];
    all_matter(&plain(), "", &without);
}

#[test]
fn whatever_changes_in_a_rule_changes_what_is_said_of_a_call() {
    // Compiled apart; the same as the route's; with another field; and what makes no difference to a copy.
    let without = [
        "/requestMirror/name",
        "/rules/0/ports/0/port",
        "/path/type",
        "/rateLimit/key/type",
        "/mirror/weight",
        "/mirror/portName",
    ];
    all_matter(&with_rule(forwarding()), "/rules", &without);
    let unchanged = RouteRule { url_rewrite: None, ..forwarding() };
    all_matter(&with_rule(unchanged), "/rules/0/rule/matches/0/path/type", &[]);
    let answering = |rule: RouteRule| {
        let rule =
            RouteRule { request_mirror: None, url_rewrite: None, fault: None, failure_codes: None, ..rule };
        CompiledRoute {
            rules: with_rule(rule)
                .rules
                .into_iter()
                .map(|rule| CompiledRule { retry: None, hedge: None, ..rule })
                .collect(),
            ..plain()
        }
    };
    let redirect = RequestRedirect {
        scheme: Some(Scheme::Https),
        hostname: Some("shop.example".into()),
        path: Some(PathModifier {
            kind: PathModifierType::ReplaceFullPath,
            replace_full_path: Some("/new".into()),
            replace_prefix_match: None,
        }),
        port: Some(8443),
        status_code: 301,
    };
    let redirecting = answering(RouteRule { request_redirect: Some(redirect), ..forwarding() });
    all_matter(&redirecting, "/rules/0/rule", &["/rateLimit/key/type", "/path/type"]);
    let response = DirectResponse { status_code: 403, body: Some("no".into()) };
    let responding = answering(RouteRule { direct_response: Some(response), ..forwarding() });
    all_matter(&responding, "/rules/0/rule", &["/rateLimit/key/type"]);
}

/// One change after the other to a route.
type Changes = [fn(&mut CompiledRoute)];

fn each_matters(route: &CompiledRoute, changes: &Changes, explained: impl Fn(&CompiledRoute) -> Explanation) {
    let before = explained(route);
    for (i, change) in changes.iter().enumerate() {
        let mut changed = route.clone();
        change(&mut changed);
        assert_ne!(explained(&changed), before, "{i}");
    }
}

#[test]
fn what_goes_with_other_fields_and_what_is_absent_is_said_too() {
    let key = |kind, name: Option<&str>| Some(RateLimitKey { kind, name: name.map(Into::into) });
    let affinity = |kind, name: Option<&str>| Affinity {
        kind,
        name: name.map(Into::into),
        set_cookie: None,
        max_load_percent: None,
    };
    let header = CompiledRoute { affinity: Some(affinity(AffinityType::Header, Some("sid"))), ..plain() };
    let limited = |route: &mut CompiledRoute, key| route.rate_limit.as_mut().unwrap().key = key;
    let of = |route: &CompiledRoute| explained(route, &other());
    let mut seen = vec![of(&header), of(&plain())];
    for kind in [
        (AffinityType::QueryParam, Some("sid")),
        (AffinityType::Cookie, Some("sid")),
        (AffinityType::Source, None),
    ] {
        seen.push(of(&CompiledRoute { affinity: Some(affinity(kind.0, kind.1)), ..plain() }));
    }
    for kind in [None, key(RateLimitKeyType::Source, None), key(RateLimitKeyType::ServiceAccount, None)] {
        let mut route = plain();
        limited(&mut route, kind);
        seen.push(of(&route));
    }
    for (i, one) in seen.iter().enumerate() {
        assert!(!seen[..i].contains(one), "{i}: {one:?}");
    }
    let changes: &Changes = &[
        |route| route.affinity = None,
        |route| route.affinity.as_mut().unwrap().set_cookie = None,
        |route| route.affinity.as_mut().unwrap().set_cookie = Some(SetCookie::default()),
        |route| route.affinity.as_mut().unwrap().max_load_percent = None,
        |route| route.load_balancer = None,
        |route| route.concurrency = None,
        |route| route.concurrency.as_mut().unwrap().adaptive = None,
        |route| route.concurrency.as_mut().unwrap().queue_standing_timeout_milliseconds = 0,
        |route| route.rate_limit = None,
        |route| route.circuit_breaker = None,
        |route| route.retry = None,
        |route| route.hedge = None,
        |route| route.inbound = None,
        |route| route.ports[0].overrides.clear(),
        |route| route.ports[0].backends[0].weight = 3_001,
    ];
    each_matters(&plain(), changes, of);
}

/// A share of the calls goes there, and its pods' node goes by its own route.
#[test]
fn what_the_route_of_another_backend_says_is_said_too() {
    let changes: &Changes = &[
        |route| route.affinity = plain().affinity,
        |route| route.load_balancer = plain().load_balancer,
        |route| route.concurrency = plain().concurrency,
        |route| route.circuit_breaker = plain().circuit_breaker,
        |route| route.inbound = plain().inbound,
        |route| route.requeues = 2,
        |route| route.connect_timeout_milliseconds = 50,
        |route| route.ports[0].protocol = PortProtocol::Http2,
    ];
    each_matters(&other(), changes, |api| explained(&plain(), api));
}
