//! The contract, golden: these documents are what released proxies read; a change here is a change for them.

use super::*;
use crate::route::{RateLimitKey, RateLimitKeyType};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn route() -> CompiledRoute {
    CompiledRoute {
        version: 1,
        namespace: "demo".into(),
        service: "quotes".into(),
        generation: 3,
        alias: None,
        cluster_ips: vec!["10.0.0.7".into()],
        ports: vec![CompiledPort {
            port: 80,
            protocol: PortProtocol::Http,
            backends: vec![CompiledBackend {
                service: "quotes".into(),
                port: 80,
                port_name: "http".into(),
                weight: 1,
                ..CompiledBackend::default()
            }],
            overrides: Vec::new(),
        }],
        connect_timeout_milliseconds: 1000,
        request_timeout_milliseconds: 0,
        idle_timeout_milliseconds: 0,
        requeues: 1,
        affinity: None,
        load_balancer: None,
        concurrency: None,
        rate_limit: None,
        circuit_breaker: None,
        retry: None,
        hedge: None,
        rules: Vec::new(),
        inbound: None,
    }
}

fn with_rules() -> CompiledRoute {
    let mut route = route();
    let rule = "
name: canary
matches:
- path: {value: /v1}
  headers: [{name: x-canary, value: 'yes'}]
requestHeaderModifier: {set: [{name: x-tier, value: canary}]}
";
    let compiled = CompiledRule {
        rule: serde_saphyr::from_str(rule).unwrap(),
        ports: vec![CompiledRulePort { port: 80, backends: route.ports[0].backends.clone(), mirror: None }],
        connect_timeout_milliseconds: 1000,
        request_timeout_milliseconds: 200,
        idle_timeout_milliseconds: 0,
        hedge: None,
        retry: Some(CompiledRetry {
            attempts: 2,
            codes: vec![503],
            non_idempotent: true,
            attempt_milliseconds: 50,
            backoff_milliseconds: 5,
            budget_percent: 20,
            min_per_second: 10,
        }),
    };
    let answer = CompiledRule {
        rule: serde_saphyr::from_str("directResponse: {statusCode: 410, body: gone}").unwrap(),
        ports: Vec::new(),
        connect_timeout_milliseconds: 1000,
        request_timeout_milliseconds: 0,
        idle_timeout_milliseconds: 0,
        retry: None,
        hedge: None,
    };
    route.rules = vec![compiled, answer];
    let key = RateLimitKey { kind: RateLimitKeyType::Header, name: Some("x-user".to_owned()) };
    route.rate_limit = Some(RateLimit { requests_per_second: 100, burst: Some(20), key: Some(key) });
    route.circuit_breaker = Some(CompiledBreaker {
        codes: vec![503],
        consecutive_failures: 5,
        failure_percent: 30,
        minimum_calls: 20,
        ejection_milliseconds: 10_000,
        max_ejection_milliseconds: 60_000,
        max_ejected_percent: 50,
    });
    route.version = CompiledRoute::version_of(&route.ports, &route.rules);
    route
}

fn golden<D: Document + PartialEq + std::fmt::Debug>(document: &D, expected: &Expect) {
    let text = write(document);
    expected.assert_eq(&text);
    let back = read::<D>(text.as_bytes()).unwrap();
    assert_eq!(&back.document, document);
    assert!(back.unknown.is_empty(), "{:?}", back.unknown);
}

#[test]
fn a_backend_that_is_node_local_says_so_and_others_say_nothing() {
    let mut route = route();
    route.ports[0].backends[0].node_local = true;
    let text = write(&route);
    assert!(text.contains("\n    weight: 1\n    nodeLocal: true\n"), "{text}");
    assert!(read::<CompiledRoute>(text.as_bytes()).unwrap().document.ports[0].backends[0].node_local);
    let said = text.replace("nodeLocal: true", "nodeLocal: false");
    assert_eq!(read::<CompiledRoute>(said.as_bytes()).unwrap().unknown, Vec::<String>::new());
}

/// Who does not know of other namespaces and of changes by backend would send calls elsewhere, or as they are.
#[test]
fn a_backend_elsewhere_or_with_changes_needs_a_newer_reader() {
    let mut foreign = route();
    foreign.ports[0].backends[0].namespace = "other".to_owned();
    let mut changed = route();
    let modifier = "{set: [{name: x-tier, value: gold}]}";
    changed.ports[0].backends[0].request_header_modifier = Some(serde_saphyr::from_str(modifier).unwrap());
    let mut mirrored = with_rules();
    mirrored.rules[0].ports[0].mirror = Some(foreign.ports[0].backends[0].clone());
    for mut route in [foreign, changed, mirrored] {
        refused(
            &write(&route),
            &expect![
                "version: must be 3 or above, since there are backends of another namespace or that change heads"
            ],
        );
        route.version = CompiledRoute::version_of(&route.ports, &route.rules);
        assert_eq!(route.version, 3);
        assert_eq!(read::<CompiledRoute>(write(&route).as_bytes()).unwrap().document, route);
    }
    let mut wrong = route();
    wrong.version = 3;
    let modifier = "{remove: [host]}";
    wrong.ports[0].backends[0].response_header_modifier = Some(serde_saphyr::from_str(modifier).unwrap());
    let problem = read::<CompiledRoute>(write(&wrong).as_bytes()).unwrap_err().to_string();
    assert!(
        problem.starts_with("ports[0].backends[0].responseHeaderModifier.remove[0]: \"host\""),
        "{problem}"
    );
}

#[test]
fn golden_route() {
    golden(
        &route(),
        &expect![[r#"
        version: 1
        namespace: demo
        service: quotes
        generation: 3
        clusterIps:
        - "10.0.0.7"
        ports:
        - port: 80
          protocol: HTTP
          backends:
          - service: quotes
            port: 80
            portName: http
            weight: 1
        connectTimeoutMilliseconds: 1000
        requestTimeoutMilliseconds: 0
        requeues: 1
        ...
    "#]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a whole document")]
fn golden_rules() {
    golden(
        &with_rules(),
        &expect![[r#"
            version: 2
            namespace: demo
            service: quotes
            generation: 3
            clusterIps:
            - "10.0.0.7"
            ports:
            - port: 80
              protocol: HTTP
              backends:
              - service: quotes
                port: 80
                portName: http
                weight: 1
            connectTimeoutMilliseconds: 1000
            requestTimeoutMilliseconds: 0
            requeues: 1
            rateLimit:
              requestsPerSecond: 100
              burst: 20
              key:
                type: Header
                name: x-user
            circuitBreaker:
              codes:
              - 503
              consecutiveFailures: 5
              failurePercent: 30
              minimumCalls: 20
              ejectionMilliseconds: 10000
              maxEjectionMilliseconds: 60000
              maxEjectedPercent: 50
            rules:
            - rule:
                name: canary
                matches:
                - path:
                    type: PathPrefix
                    value: /v1
                  headers:
                  - type: Exact
                    name: x-canary
                    value: "yes"
                requestHeaderModifier:
                  set:
                  - name: x-tier
                    value: canary
              ports:
              - port: 80
                backends:
                - service: quotes
                  port: 80
                  portName: http
                  weight: 1
              connectTimeoutMilliseconds: 1000
              requestTimeoutMilliseconds: 200
              retry:
                attempts: 2
                codes:
                - 503
                nonIdempotent: true
                attemptMilliseconds: 50
                backoffMilliseconds: 5
                budgetPercent: 20
                minPerSecond: 10
            - rule:
                directResponse:
                  statusCode: 410
                  body: gone
              connectTimeoutMilliseconds: 1000
              requestTimeoutMilliseconds: 0
            ...
        "#]],
    );
}

#[test]
fn rules_need_their_version_and_backends_for_every_port() {
    let text = write(&with_rules());
    refused(
        &text.replace("version: 2", "version: 1"),
        &expect![
            "version: must be 2 or above, since there are rules, or ports of another protocol than HTTP"
        ],
    );
    let mut route = with_rules();
    route.rules[0].ports[0].port = 81;
    refused(
        &write(&route),
        &expect![
            "rules[0].ports: must be the ports of the route in its order, or none when the rule answers by itself"
        ],
    );
    route.rules[0].ports[0].port = 80;
    route.rules[0].ports[0].backends[0].weight = 0;
    refused(
        &write(&route),
        &expect!["rules[0].ports[0].backends: must have a backend with a weight above 0"],
    );
    route.rules[0].ports[0].backends[0].weight = 1;
    route.rules[0].rule.matches[0].path.as_mut().unwrap().value = "v1".into();
    refused(
        &write(&route),
        &expect!["rules[0].matches[0].path.value: must be an absolute path: it begins with '/'"],
    );
}

#[test]
fn golden_node() {
    let node = CompiledNode {
        version: 1,
        name: "node1".into(),
        addresses: vec!["10.1.0.1".into(), "fd00::1".into()],
        port: 4141,
        zone: "zone-a".into(),
        ready: true,
        secure: false,
        pod_cidrs: Vec::new(),
    };
    golden(
        &node,
        &expect![[r#"
        version: 1
        name: node1
        addresses:
        - "10.1.0.1"
        - fd00::1
        port: 4141
        zone: zone-a
        ready: true
        ...
    "#]],
    );
}

#[test]
fn golden_bootstrap() {
    let bootstrap = Bootstrap {
        version: 1,
        mesh: "default".into(),
        cluster_domain: "cluster.local".into(),
        workers: 0,
        log_level: "info".into(),
        drain_seconds: 30,
        identity: Some(CompiledIdentity { trust_domain: "shop.example".into(), strict: false }),
        default_action: PolicyAction::Allow,
    };
    golden(
        &bootstrap,
        &expect![[r#"
        version: 1
        mesh: default
        clusterDomain: cluster.local
        workers: 0
        logLevel: info
        drainSeconds: 30
        identity:
          trustDomain: shop.example
        ...
    "#]],
    );
}

#[test]
fn a_strict_bootstrap_is_for_proxies_that_know_it() {
    let of = |version: i32, domain: &str| {
        let text = format!(
            "version: {version}\nmesh: m\nclusterDomain: d\nworkers: 0\nlogLevel: info\ndrainSeconds: 1\nidentity: {{trustDomain: {domain:?}, strict: true}}\n...\n"
        );
        read::<Bootstrap>(text.as_bytes()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(of(4, "shop.example"), Ok(()));
    assert_eq!(
        of(3, "shop.example"),
        Err("version: must be 4 or above, since identity.strict is true or defaultAction is Deny".to_owned())
    );
    assert!(of(4, "Shop").unwrap_err().starts_with("identity.trustDomain: must have"));
    let denying = |version: i32| {
        let text = format!(
            "version: {version}\nmesh: m\nclusterDomain: d\nworkers: 0\nlogLevel: info\ndrainSeconds: 1\ndefaultAction: Deny\n...\n"
        );
        read::<Bootstrap>(text.as_bytes()).is_ok()
    };
    assert_eq!((denying(3), denying(4)), (false, true));
}

const POLICY: &str = "\
version: 4
namespace: demo
name: quotes
generation: 2
target:
  service:
    name: quotes
    port: 80
mode: Enforce
rules:
- name: readers
  action: Allow
  from:
  - serviceAccounts:
    - name: frontend
  to:
  - methods:
    - GET
    paths:
    - type: PathPrefix
      value: /today
...
";

#[test]
fn golden_policy() {
    let policy = read::<CompiledPolicy>(POLICY.as_bytes()).unwrap().document;
    assert_eq!(write(&policy), POLICY);
}

#[test]
fn a_policy_that_is_not_understood_whole_is_refused() {
    let refused = |from: &str, to: &str| {
        read::<CompiledPolicy>(POLICY.replace(from, to).as_bytes()).unwrap_err().to_string()
    };
    let unknown = refused("  to:\n", "  until: noon\n  to:\n");
    assert!(unknown.contains("unknown field `until`"), "{unknown}");
    let unknown = refused("mode:", "weather: fine\nmode:");
    assert!(unknown.contains("unknown field `weather`"), "{unknown}");
    assert_eq!(refused("version: 4", "version: 3"), "version: must be 4 or above, since it is a policy");
    assert_eq!(
        refused("value: /today", "value: today"),
        "rules[0].to[0].paths[0].value: must be an absolute path: it begins with '/'"
    );
    assert_eq!(
        refused("version: 4", "version: 6"),
        "document has contract version 6, this proxy reads up to 5: upgrade the proxy first"
    );
}

#[test]
fn a_policy_that_proxies_of_version_4_cannot_enforce_says_so() {
    let with = |version: i32, from: &str, to: &str| {
        let text = POLICY.replace(from, to).replace("version: 4", &format!("version: {version}"));
        let policy = read::<CompiledPolicy>(text.as_bytes()).map_err(|error| error.to_string())?.document;
        Ok::<_, String>(CompiledPolicy::version_of(&policy.target, &policy.rules))
    };
    assert_eq!(with(4, "", ""), Ok(4));
    let selects = "  pods:\n    matchExpressions:\n    - key: app\n      operator: Exists\n";
    for (from, to) in [
        ("  service:\n    name: quotes\n    port: 80\n", selects),
        ("    - name: frontend\n", "    - name: frontend\n    notIpBlocks:\n    - cidr: 10.1.0.0/16\n"),
    ] {
        assert_eq!(with(5, from, to), Ok(5));
        let problem = "version: must be 5 or above, since it has matchExpressions or notIpBlocks";
        assert_eq!(with(4, from, to), Err(problem.to_owned()));
    }
}

const EGRESS: &str = "\
version: 4
mesh: default
mode: Deny
allow:
- hosts:
  - \"*.example.com\"
  ports:
  - 443
- ipBlocks:
  - cidr: 203.0.113.0/24
  from:
  - namespaces:
    - demo
nodeAddresses:
- \"10.0.0.9\"
...
";

#[test]
fn golden_egress() {
    let egress = read::<CompiledEgress>(EGRESS.as_bytes()).unwrap().document;
    assert_eq!(write(&egress), EGRESS);
    let plain = CompiledEgress::new("default", &EgressSpec { mode: EgressMode::Allow, allow: Vec::new() });
    golden(
        &plain,
        &expect![[r#"
            version: 4
            mesh: default
            mode: Allow
            ...
        "#]],
    );
}

#[test]
fn what_may_be_called_outside_is_refused_when_it_is_not_understood_whole() {
    let refused = |from: &str, to: &str| {
        read::<CompiledEgress>(EGRESS.replace(from, to).as_bytes()).unwrap_err().to_string()
    };
    let unknown = refused("  ports:", "  until: noon\n  ports:");
    assert!(unknown.contains("unknown field `until`"), "{unknown}");
    assert_eq!(refused("version: 4", "version: 3"), "version: must be 4 or above, since it is a policy");
    assert_eq!(refused("10.0.0.9", "node9"), "nodeAddresses[0]: must be an IPv4 or IPv6 address");
    assert_eq!(
        refused("*.example.com", "*.com"),
        "allow[0].hosts[0]: \"*.com\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com"
    );
}

fn refused(text: &str, expected: &Expect) {
    expected.assert_eq(&read::<CompiledRoute>(text.as_bytes()).unwrap_err().to_string());
}

#[test]
fn every_prefix_of_a_document_is_half_written() {
    let text = write(&route());
    for end in 0..text.len() - "...\n".len() {
        assert!(read::<CompiledRoute>(&text.as_bytes()[..end]).is_err(), "{end} bytes were taken for whole");
    }
}

#[test]
fn refusing_what_comes_around_the_mesh_needs_its_version_and_allowing_it_does_not() {
    use crate::mesh::IdentityMode::{Permissive, Strict};
    for (version, inbound, is_read) in
        [(1, None, true), (1, Some(Permissive), true), (3, Some(Strict), false), (4, Some(Strict), true)]
    {
        let document = CompiledRoute { version, inbound, ..route() };
        let read = read::<CompiledRoute>(write(&document).as_bytes());
        assert_eq!(read.is_ok(), is_read, "{version} {inbound:?}: {read:?}");
        assert_eq!(CompiledRoute::version_for(1, inbound), if inbound == Some(Strict) { 4 } else { 1 });
    }
}

#[test]
fn a_newer_version_is_refused_and_an_unknown_field_reported() {
    let text = write(&route());
    refused(
        &text.replace("version: 1", "version: 99"),
        &expect!["document has contract version 99, this proxy reads up to 5: upgrade the proxy first"],
    );
    let text = text.replace("requeues: 1", "requeues: 1\nmirror:\n  percent: 3");
    assert_eq!(read::<CompiledRoute>(text.as_bytes()).unwrap().unknown, ["mirror"]);
    let text = text.replace("  protocol: HTTP\n", "  protocol: HTTP\n  color: red\n");
    assert_eq!(read::<CompiledRoute>(text.as_bytes()).unwrap().unknown, ["mirror", "ports[0].color"]);
}

#[test]
fn contradictions_are_named() {
    let text = write(&route());
    refused(
        &text.replace("weight: 1", "weight: 0"),
        &expect!["ports[0].backends: must have a backend with a weight above 0"],
    );
    refused(&text.replace("namespace: demo", "namespace: ''"), &expect!["namespace: must not be empty"]);
    let bounded = |percent: i32| {
        text.replace(
            "requeues: 1",
            &format!("requeues: 1\naffinity: {{type: Source, maxLoadPercent: {percent}}}"),
        )
    };
    assert!(read::<CompiledRoute>(bounded(101).as_bytes()).is_ok());
    refused(
        &bounded(100),
        &expect!["affinity.maxLoadPercent: must be above 100, or there would be calls that no pod may have"],
    );
}

#[test]
fn a_digest_separates_keys_from_values() {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    assert_ne!(digest(&map(&[("a", "bc")])), digest(&map(&[("ab", "c")])));
    assert_ne!(digest(&map(&[])), digest(&map(&[("", "")])));
    assert_eq!(digest(&map(&[("a", "b")])).len(), 16);
}

proptest! {
    #[test]
    fn what_is_written_is_read(service in "[a-z][a-z0-9-]{0,20}", port in 1u16.., weight in 1u32.., name in "[ -~]{0,20}", requeues: u32) {
        let mut route = route();
        route.service = service;
        route.requeues = requeues;
        route.ports[0].port = port;
        route.ports[0].backends[0].weight = weight;
        route.ports[0].backends[0].port_name = name;
        prop_assert_eq!(read::<CompiledRoute>(write(&route).as_bytes()).unwrap().document, route);
    }

    #[test]
    fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read::<CompiledRoute>(&bytes);
    }
}
