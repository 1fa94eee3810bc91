//! What is refused, and in which words.

use expect_test::{Expect, expect};

use super::{MeshVerdict, Outcome, validate};
use crate::fixture::{SHOP, converge, load, planned, world};
use crate::world::{Key, Kind, ObjectId, World};

/// Every problem in `world`, one line each.
fn check(world: &World, expect: &Expect) {
    let validated = validate(world);
    let mut lines = Vec::new();
    for (name, verdict) in &validated.meshes {
        match verdict {
            MeshVerdict::Accepted(_) | MeshVerdict::Rejected(_) | MeshVerdict::Blocked(_) => {
                let problem = verdict.problem().into_iter();
                lines.extend(problem.map(|p| format!("mesh {name}: {}: {}", p.reason, p.text())));
            }
            MeshVerdict::Deleting => lines.push(format!("mesh {name}: deleting")),
        }
    }
    for (key, verdict) in &validated.routes {
        if let Some(problem) = verdict.outcome.problem() {
            let kept = if matches!(verdict.outcome, super::Outcome::Kept(_)) { " (kept)" } else { "" };
            lines.push(format!("route {key}{kept}: {}: {}", problem.reason, problem.text()));
        }
    }
    for (name, problem) in &validated.namespaces {
        lines.push(format!("namespace {name}: {}: {}", problem.reason, problem.text()));
    }
    expect.assert_eq(&lines.join("\n"));
}

fn shop_with(more: &str) -> World {
    let mut world = world(SHOP);
    load(&mut world, more);
    world
}

fn route(name: &str, spec: &str) -> World {
    shop_with(&format!(
        "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    ))
}

#[test]
fn nothing_is_wrong_with_the_defaults() {
    check(&world(SHOP), &expect![[""]]);
}

#[test]
fn an_egress_that_cannot_be_says_which_field() {
    let with = |egress: &str| {
        shop_with(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {{name: default, generation: 2}}
spec: {{egress: {egress}}}
"
        ))
    };
    check(&with("{mode: Allow}"), &expect![[""]]);
    check(&with("{allow: [{hosts: ['*.example.com'], from: [{namespaces: [shop]}]}]}"), &expect![[""]]);
    check(
        &with("{allow: [{hosts: [api.example.com, 10.0.0.1]}]}"),
        &expect![
            "mesh default: InvalidEgress: spec.egress.allow[0].hosts[1]: is an address: write it in ipBlocks"
        ],
    );
    check(
        &with("{allow: [{hosts: [a.b]}, {ipBlocks: [{cidr: 10.1.2.3/16}]}]}"),
        &expect![[
            r#"mesh default: InvalidEgress: spec.egress.allow[1].ipBlocks[0].cidr: "10.1.2.3/16" begins within a block: write 10.1.0.0/16, or /32 for that one address"#
        ]],
    );
    check(
        &with("{allow: [{hosts: [a.b], from: [{serviceAccounts: [{name: web}]}]}]}"),
        &expect![
            "mesh default: InvalidEgress: spec.egress.allow[0].from[0].serviceAccounts[0].namespace: must be said: a ServiceMesh has no namespace of its own"
        ],
    );
    let labels = ["x".repeat(63), "y".repeat(63), "z".repeat(63)].join(".");
    let hosts: Vec<_> = (0..32).map(|i| format!("h{i}.{labels}.example.com")).collect();
    let rule = format!("{{hosts: [{}]}}", hosts.join(", "));
    check(
        &with(&format!("{{allow: [{}]}}", vec![rule; 64].join(", "))),
        &expect![
            "mesh default: InvalidEgress: spec.egress.allow: has 448490 bytes when it is written for proxies, at most 131072 are accepted: write patterns (*.example.com) and blocks of addresses instead of many names"
        ],
    );
}

#[test]
fn backends_that_do_not_exist() {
    check(
        &route("web", "{backends: [{name: web}, {name: wbe}]}"),
        &expect![[
            r#"route shop/web (kept): BackendNotFound: spec.backends[1].name: there is no Service "wbe" in the namespace "shop"; its Services: "web", "web-v2""#
        ]],
    );
    check(
        &route("web", "{backends: [{name: web, port: 81}]}"),
        &expect![[
            r#"route shop/web (kept): BackendPortNotFound: spec.backends[0].port: the Service "web" has no TCP port 81; its TCP ports: 80, 8080"#
        ]],
    );
    check(
        &route("web", "{backends: [{name: web-v2}]}"),
        &expect![[
            r#"route shop/web (kept): BackendPortNotFound: spec.backends[0].port: the Service "web-v2" has no TCP port 8080, which is the port that was called; its TCP ports: 80"#
        ]],
    );
}

#[test]
fn a_spec_of_another_version_of_the_schema() {
    check(
        &route("web", "{retries: 3}"),
        &expect![
            "route shop/web (kept): InvalidSpec: spec: cannot be read by this version of the operator: unknown field `retries`, expected one of `backends`, `ports`, `overrides`, `rules`, `timeouts`, `affinity`, `loadBalancer`, `concurrency`, `rateLimit`, `circuitBreaker`, `retry`, `hedge`, `requeues`, `identity`"
        ],
    );
    let mesh = "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default}
spec: {weather: {}}
";
    check(
        &shop_with(mesh),
        &expect![[r#"
            mesh default: InvalidSpec: spec: cannot be read by this version of the operator: unknown field `weather`, expected one of `proxy`, `interception`, `identity`, `defaults`, `policy`, `egress`, `clusterDomain`
            route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
            route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status"#]],
    );
}

#[test]
fn a_trust_domain_that_cannot_be_is_refused_where_the_schema_is_older() {
    let with = |spec: &str| {
        shop_with(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {{name: default, generation: 2}}
spec: {{{spec}}}
"
        ))
    };
    check(&with("identity: {trustDomain: shop_1.example}"), &expect![[""]]);
    check(
        &with("identity: {trustDomain: 'Bad_Domain!'}"),
        &expect![[r#"
        mesh default: InvalidTrustDomain: spec.identity.trustDomain: "Bad_Domain!" is no trust domain: write 1 to 255 lower-case letters, digits, '.', '-' and '_'
        route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidTrustDomain): see its status
        route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidTrustDomain): see its status"#]],
    );
    check(
        &with("clusterDomain: Cluster.Local"),
        &expect![[r#"
        mesh default: InvalidTrustDomain: spec.clusterDomain: "Cluster.Local" is no trust domain: write 1 to 255 lower-case letters, digits, '.', '-' and '_'
        route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidTrustDomain): see its status
        route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidTrustDomain): see its status"#]],
    );
}

#[test]
fn a_backend_whose_service_says_so_is_node_local() {
    let world = shop_with(
        "
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: shop}
spec: {internalTrafficPolicy: Local, ports: [{port: 80}, {port: 8080}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop}
spec: {backends: [{name: web}, {name: cache}]}
",
    );
    for (service, expected) in [("web", [false, true].as_slice()), ("cache", &[true])] {
        let verdict = &validate(&world).routes[&Key::new("shop", service)];
        let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
        for port in &route.ports {
            assert_eq!(port.backends.iter().map(|b| b.node_local).collect::<Vec<_>>(), expected, "{service}");
        }
    }
}

#[test]
fn services_that_the_mesh_cannot_carry() {
    check(
        &shop_with(
            "
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: shop}
spec: {ports: [{port: 53, protocol: UDP}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop}
spec: {backends: [{name: outside}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: dns, namespace: shop}
",
        ),
        &expect![[r#"
            route shop/dns: UnsupportedService: the Service has no TCP port, and the mesh carries TCP only: give it one, or remove this MeshRoute
            route shop/web (kept): UnsupportedBackend: spec.backends[0].name: the Service "outside" is of type ExternalName and has no endpoints: name the Service itself that it stands for, "example.com", if that is one of the cluster's"#]],
    );
}

#[test]
fn other_names_of_services() {
    let named = |name: &str, of: &str| {
        format!(
            "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{type: ExternalName, externalName: {of}}}"
        )
    };
    let services = [
        ("a", "web.shop.svc.cluster.local"),
        ("b", "Ledger.bank.SVC.cluster.local."),
        ("c", "example.com"),
        ("d", "web.shop.svc"),
        ("e", "web-0.web.shop.svc.cluster.local"),
        ("f", "10.0.0.1"),
        ("g", "cluster.local"),
        ("h", "xcluster.local"),
    ];
    let manifests: String = services.iter().map(|(name, of)| named(name, of)).collect();
    let validated = validate(&shop_with(&manifests));
    let found: Vec<_> = validated
        .aliases
        .iter()
        .map(|(key, (mesh, to))| format!("{mesh}: {key} is {}/{}", to.namespace, to.service))
        .collect();
    assert_eq!(found, ["default: shop/a is shop/web", "default: shop/b is bank/ledger"]);
}

#[test]
fn meshroutes_that_no_service_wants() {
    check(
        &shop_with(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: gone, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: skipped, namespace: shop, annotations: {vicino.dev/skip: 'true'}}
spec: {ports: [{port: 80}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: skipped, namespace: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: plain}
---
apiVersion: v1
kind: Namespace
metadata: {name: mislabelled, labels: {vicino.dev/mesh: defualt}}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: mislabelled}
---
apiVersion: v1
kind: Namespace
metadata: {name: leaving, deletionTimestamp: '2026-01-01T00:00:00Z', labels: {vicino.dev/mesh: default}}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: leaving}
",
        ),
        &expect![[r#"
            route leaving/web: NamespaceTerminating: the namespace is being deleted
            route mislabelled/web: MeshNotFound: the namespace names the ServiceMesh "defualt", which does not exist: create it, or change the label
            route plain/web: NamespaceNotMeshed: the namespace is in no mesh: label it with vicino.dev/mesh: <name of a ServiceMesh>
            route shop/gone: ServiceNotFound: there is no Service "gone" in the namespace "shop": create it, or name the MeshRoute after the Service that it is for
            route shop/skipped: ServiceSkipped: the Service is annotated with vicino.dev/skip: "true": remove the annotation, or this MeshRoute
            namespace mislabelled: MeshNotFound: metadata.labels[vicino.dev/mesh]: there is no ServiceMesh "defualt": create it, or label the namespace with one of "default""#]],
    );
}

#[test]
fn of_two_meshes_that_want_one_node_the_older_has_it() {
    check(
        &shop_with(
            "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: elder, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {proxy: {nodeSelector: {topology.kubernetes.io/zone: a}}}
---
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, creationTimestamp: '2026-01-02T00:00:00Z'}
",
        ),
        &expect![[r#"
            mesh default: NodesBelongToAnotherMesh: spec.proxy.nodeSelector: selects "node1" of the mesh "elder", and a node belongs to one mesh: choose labels that only nodes without a mesh have
            route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (NodesBelongToAnotherMesh): see its status
            route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (NodesBelongToAnotherMesh): see its status"#]],
    );
}

#[test]
fn a_mesh_that_serves_a_node_keeps_it_from_an_older_one_that_comes_to_want_it() {
    let mut world = shop_with(
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, creationTimestamp: '2026-01-02T00:00:00Z'}
",
    );
    converge(&mut world);
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: elder, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {proxy: {nodeSelector: {topology.kubernetes.io/zone: a}}}
",
    );
    check(
        &world,
        &expect![[
            r#"mesh elder: NodesBelongToAnotherMesh: spec.proxy.nodeSelector: selects "node1" of the mesh "default", and a node belongs to one mesh: choose labels that only nodes without a mesh have"#
        ]],
    );
}

#[test]
fn a_node_that_comes_to_have_the_labels_of_two_meshes_keeps_neither_from_its_others() {
    let mut world = shop_with(
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {proxy: {nodeSelector: {topology.kubernetes.io/zone: a}}}
---
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: other, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {proxy: {nodeSelector: {pool: batch}}}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {kubernetes.io/os: linux, pool: batch}}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}
",
    );
    converge(&mut world);
    load(
        &mut world,
        "
apiVersion: v1
kind: Node
metadata: {name: node3, labels: {kubernetes.io/os: linux, pool: batch, topology.kubernetes.io/zone: a}}
status: {addresses: [{type: InternalIP, address: 10.0.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop}
spec: {nodeName: node2, serviceAccountName: batch, containers: []}
status: {phase: Running, podIPs: [{ip: 10.2.0.9}]}
",
    );
    check(
        &world,
        &expect![[
            r#"mesh other: NodesBelongToAnotherMesh: spec.proxy.nodeSelector: selects "node3" of the mesh "default", and a node belongs to one mesh: choose labels that only nodes without a mesh have"#
        ]],
    );
    let plan = planned(&world);
    let written: Vec<_> = plan.pending().into_iter().filter(|id| id.kind == Kind::MeshNode).collect();
    assert_eq!(written, ["node2", "node3"].map(|node| ObjectId::new(Kind::MeshNode, Key::cluster(node))));
    assert_eq!(plan.objects[&written[1]].mesh, "default");
}

#[test]
fn a_route_that_is_too_large_is_a_matter_of_its_own_service() {
    let ports: Vec<String> = (1..3000).map(|port| format!("{{name: p{port:0>60}, port: {port}}}")).collect();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: wide, namespace: shop}}\nspec: {{ports: [{}]}}\n",
        ports.join(", ")
    );
    check(
        &shop_with(&service),
        &expect![
            "route shop/wide (kept): TooLarge: spec: the compiled route has 492762 bytes, and proxies read at most 262144: give the Service fewer ports, or the route fewer or shorter backends and rules"
        ],
    );
}

#[test]
fn the_proxies_namespace_has_to_be_there() {
    let without = SHOP.replacen("name: vicino-proxy", "name: other", 1);
    check(
        &world(&without),
        &expect![[r#"
        mesh default: ProxyNamespaceMissing: proxies run in the namespace "vicino-proxy", which does not exist: create it with `kubectl apply -k config/default`
        route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (ProxyNamespaceMissing): see its status
        route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (ProxyNamespaceMissing): see its status"#]],
    );
    let leaving = "{name: vicino-proxy, deletionTimestamp: '2026-01-01T00:00:00Z'}";
    check(
        &world(&SHOP.replacen("{name: vicino-proxy}", leaving, 1)),
        &expect![[r#"
        mesh default: ProxyNamespaceTerminating: proxies run in the namespace "vicino-proxy", which is being deleted: create it again with `kubectl apply -k config/default` once it is gone
        route shop/web (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (ProxyNamespaceTerminating): see its status
        route shop/web-v2 (kept): MeshNotAccepted: the ServiceMesh "default" is not in force (ProxyNamespaceTerminating): see its status"#]],
    );
}

#[test]
fn rules_are_compiled_with_the_backends_and_times_of_the_route_where_they_say_none() {
    let spec = "{
      backends: [{name: web, weight: 9}],
      timeouts: {connectMilliseconds: 70, requestMilliseconds: 900},
      rules: [
        {name: canary, matches: [{headers: [{name: x, value: 'yes'}]}], backends: [{name: web-v2, port: 80}], timeouts: {requestMilliseconds: 100}},
        {matches: [{path: {value: /old}}], directResponse: {statusCode: 410}},
        {}
      ]
    }";
    let verdict = &validate(&route("web", spec)).routes[&Key::new("shop", "web")];
    let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
    assert_eq!(route.version, 2);
    let mut lines = Vec::new();
    for rule in &route.rules {
        let (connect, request) = (rule.connect_timeout_milliseconds, rule.request_timeout_milliseconds);
        lines.push(format!("{:?} connect {connect} request {request}", rule.rule.name));
        for port in &rule.ports {
            let to = port
                .backends
                .iter()
                .map(|b| format!("{}:{} {:?} × {}", b.service, b.port, b.port_name, b.weight));
            lines.push(format!("  {} → {}", port.port, to.collect::<Vec<_>>().join(", ")));
        }
    }
    expect![[r#"
        Some("canary") connect 70 request 100
          80 → web-v2:80 "" × 1
          8080 → web-v2:80 "" × 1
        None connect 70 request 900
        None connect 70 request 900
          80 → web:80 "http" × 9
          8080 → web:8080 "admin" × 9"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_rule_that_cannot_be_says_which_field_and_the_route_stays_as_it_was() {
    for (rules, expected) in [
        (
            "[{matches: [{}, {path: {type: RegularExpression, value: '['}}]}]",
            expect![
                "route shop/web (kept): InvalidRule: spec.rules[0].matches[1].path.value: is no regular expression: unclosed character class"
            ],
        ),
        (
            "[{name: a}, {name: a}]",
            expect![[
                r#"route shop/web (kept): InvalidRule: spec.rules[1].name: is "a", as that of rules[0] is: give each rule a name of its own"#
            ]],
        ),
        (
            "[{}, {backends: [{name: nobody}]}]",
            expect![[
                r#"route shop/web (kept): BackendNotFound: spec.rules[1].backends[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2""#
            ]],
        ),
        (
            "[{backends: [{name: web-v2}]}]",
            expect![[
                r#"route shop/web (kept): BackendPortNotFound: spec.rules[0].backends[0].port: the Service "web-v2" has no TCP port 8080, which is the port that was called; its TCP ports: 80"#
            ]],
        ),
    ] {
        check(&route("web", &format!("{{rules: {rules}}}")), &expected);
    }
}

const OTHER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}, {port: 8080}]}
---
";

fn grant(from: &str, kind: &str, to: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: some, namespace: bank}}
spec: {{from: [{{group: vicino.dev, kind: {kind}, namespace: {from}}}], to: [{to}]}}
---
"
    )
}

/// Another namespace's Services are named only where that namespace says so.
#[test]
fn services_of_other_namespaces_need_a_grant() {
    let route = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop}
spec:
  backends: [{name: web, weight: 9}, {name: ledger, namespace: bank, requestHeaderModifier: {set: [{name: x-tier, value: gold}]}}]
  rules: [{requestMirror: {name: ledger, namespace: bank, port: 80, percent: 5}}]
";
    let with = |grant: &str| shop_with(&format!("{OTHER}{grant}{route}"));
    let refused = expect![[
        r#"route shop/web (kept): RefNotPermitted: spec.backends[1].namespace: no ReferenceGrant of the namespace "bank" lets MeshRoutes of the namespace "shop" refer to its Service "ledger": create one there, from group vicino.dev kind MeshRoute to kind Service"#
    ]];
    for no in [
        String::new(),
        grant("elsewhere", "MeshRoute", "{group: '', kind: Service}"),
        grant("shop", "HTTPRoute", "{group: '', kind: Service}"),
        grant("shop", "MeshRoute", "{group: '', kind: Secret}"),
        grant("shop", "MeshRoute", "{group: '', kind: Service, name: vault}"),
    ] {
        check(&with(&no), &refused);
    }
    for to in ["{group: '', kind: Service}", "{group: '', kind: Service, name: ledger}", "{kind: Service}"] {
        let world = with(&grant("shop", "MeshRoute", to));
        let verdict = &validate(&world).routes[&Key::new("shop", "web")];
        let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
        let to = |b: &vicino_crds::contract::CompiledBackend| {
            let more = if b.request_header_modifier.is_some() { " edited" } else { "" };
            format!("{}/{}:{} {:?} × {}{more}", b.namespace, b.service, b.port, b.port_name, b.weight)
        };
        let all: Vec<_> = route.ports[0].backends.iter().map(to).collect();
        assert_eq!(all, ["/web:80 \"http\" × 9", "bank/ledger:80 \"http\" × 1 edited"]);
        let mirrors: Vec<_> = route.rules[0].ports.iter().map(|port| port.mirror.as_ref().map(to)).collect();
        assert_eq!(mirrors, vec![Some("bank/ledger:80 \"http\" × 1".to_owned()); 2]);
        assert_eq!(route.version, 3);
    }
    // One that names the own namespace needs none.
    let own = route.replace("ledger, namespace: bank", "web-v2, namespace: shop");
    let own = own.replace("shop, requestHeaderModifier", "shop, port: 80, requestHeaderModifier");
    check(&shop_with(&own), &expect![[""]]);
    let missing = route.replace("name: ledger, namespace: bank, port", "name: nobody, namespace: bank, port");
    check(
        &shop_with(&format!("{OTHER}{}{missing}", grant("shop", "MeshRoute", "{group: '', kind: Service}"))),
        &expect![[
            r#"route shop/web (kept): BackendNotFound: spec.rules[0].requestMirror.name: there is no Service "nobody" in the namespace "bank"; its Services: "ledger""#
        ]],
    );
    check(
        &self::route("web", "{backends: [{name: web, responseHeaderModifier: {remove: [via]}}]}"),
        &expect![[
            r#"route shop/web (kept): InvalidBackend: spec.backends[0].responseHeaderModifier.remove[0]: "via" cannot be changed: it frames the message, belongs to one connection, or is the proxies' own"#
        ]],
    );
}

#[test]
fn a_backend_is_named_once() {
    check(
        &route("web", "{backends: [{name: web}, {name: web, namespace: shop, weight: 2}]}"),
        &expect![
            "route shop/web (kept): InvalidBackend: spec.backends[1]: is the Service and port that spec.backends[0] is: name it once, with the sum of their weights"
        ],
    );
    check(
        &route(
            "web",
            "{rules: [{}, {backends: [{name: web, port: 80}, {name: web}, {name: web, port: 80}]}]}",
        ),
        &expect![
            "route shop/web (kept): InvalidBackend: spec.rules[1].backends[2]: is the Service and port that spec.rules[1].backends[0] is: name it once, with the sum of their weights"
        ],
    );
}

/// Each has the other's pods; what the other's route says of backends is not followed.
#[test]
fn backends_that_name_each_other_are_accepted() {
    let to = |name: &str, other: &str| {
        format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: {name}, namespace: shop}}
spec: {{backends: [{{name: {other}, port: 80}}]}}
---
"
        )
    };
    let world = shop_with(&(to("web", "web-v2") + &to("web-v2", "web")));
    check(&world, &expect![[""]]);
    for (name, other) in [("web", "web-v2"), ("web-v2", "web")] {
        let verdict = &validate(&world).routes[&Key::new("shop", name)];
        let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
        for port in &route.ports {
            assert_eq!(port.backends.iter().map(|b| &*b.service).collect::<Vec<_>>(), [other], "{name}");
        }
    }
}

/// Files have not been past the API server, and an older schema lets more in.
#[test]
fn what_the_schema_would_not_let_in_is_not_accepted() {
    for (spec, expected) in [
        (
            "{backends: [{name: web, weight: 0}, {name: web, port: 80, weight: 0}]}",
            expect![
                "route shop/web (kept): InvalidSpec: spec.backends: must have one with a weight above 0, or no call could go anywhere"
            ],
        ),
        (
            "{rules: [{backends: [{name: web, weight: 0}]}]}",
            expect![
                "route shop/web (kept): InvalidRule: spec.rules[0].backends: must have one with a weight above 0, or no call could go anywhere"
            ],
        ),
        (
            "{retry: {budgetPercent: 0, minPerSecond: 0}}",
            expect![
                "route shop/web (kept): InvalidSpec: spec.retry.budgetPercent: or minPerSecond must be above 0, or retry be left out: without a budget nothing is repeated"
            ],
        ),
        (
            "{timeouts: {requestMilliseconds: -1}}",
            expect![
                "route shop/web (kept): InvalidSpec: spec.timeouts.requestMilliseconds: must be 0 to 86400000"
            ],
        ),
        (
            "{circuitBreaker: {ejectionMilliseconds: 5000, maxEjectionMilliseconds: 1000}}",
            expect![
                "route shop/web (kept): InvalidSpec: spec.circuitBreaker.maxEjectionMilliseconds: is 1000, and must not be below ejectionMilliseconds, which is 5000"
            ],
        ),
        (
            "{concurrency: {perPod: 2, adaptive: {targetMilliseconds: 5, minPerPod: 3}}}",
            expect![
                "route shop/web (kept): InvalidSpec: spec.concurrency.adaptive.minPerPod: must not be above perPod, which is 2"
            ],
        ),
    ] {
        check(&route("web", spec), &expected);
    }
}

#[test]
fn what_calls_may_ask_for_is_there_for_the_ports_that_it_has() {
    let world = route("web", "{overrides: [{name: web-v2}, {name: web-v2, port: 80}]}");
    let verdict = &validate(&world).routes[&Key::new("shop", "web")];
    let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
    let counts: Vec<_> = route.ports.iter().map(|port| (port.port, port.overrides.len())).collect();
    assert_eq!(counts, [(80, 2), (8080, 1)]);
    assert!(route.ports[0].overrides.iter().all(|to| to.weight == 0 && to.service == "web-v2"));
    check(
        &self::route("web", "{overrides: [{name: nobody}]}"),
        &expect![[
            r#"route shop/web (kept): BackendNotFound: spec.overrides[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2""#
        ]],
    );
    check(
        &self::route("web", "{overrides: [{name: web-v2, port: 81}]}"),
        &expect![[
            r#"route shop/web (kept): BackendPortNotFound: spec.overrides[0].port: the Service "web-v2" has no TCP port 81; its TCP ports: 80"#
        ]],
    );
}

#[test]
fn a_port_speaks_what_it_says() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: shop}
spec:
  ports:
  - {name: http, port: 80}
  - {name: mysql-primary, port: 3306}
  - {name: web-tcp, port: 81}
  - {name: other, port: 82, appProtocol: TLS}
  - {name: redis, port: 83, appProtocol: http}
  - {name: h2c, port: 84, appProtocol: kubernetes.io/h2c}
  - {name: wss, port: 85, appProtocol: kubernetes.io/wss}
  - {name: grpc, port: 86}
  - {name: grpc-web, port: 87}
  - {name: http2-x, port: 88}
  - {name: ws, port: 89, appProtocol: kubernetes.io/ws}
";
    let verdict = &validate(&shop_with(service)).routes[&Key::new("shop", "mixed")];
    let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
    let spoken: Vec<_> = route.ports.iter().map(|port| (port.port, port.protocol.as_str())).collect();
    let expected = [
        (80, "HTTP"),
        (3306, "TCP"),
        (81, "HTTP"),
        (82, "TCP"),
        (83, "HTTP/1.1"),
        (84, "HTTP/2"),
        (85, "TCP"),
        (86, "HTTP/2"),
        (87, "HTTP"),
        (88, "HTTP/2"),
        (89, "HTTP/1.1"),
    ];
    assert_eq!((route.version, spoken.as_slice()), (2, &expected[..]));
}

#[test]
fn a_port_speaks_what_the_mesh_route_says() {
    let world = route("web", "{ports: [{port: 80, protocol: HTTP/2}, {port: 8080, protocol: TCP}]}");
    let verdict = &validate(&world).routes[&Key::new("shop", "web")];
    let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
    let spoken: Vec<_> = route.ports.iter().map(|port| (port.port, port.protocol.as_str())).collect();
    assert_eq!((route.version, spoken), (2, vec![(80, "HTTP/2"), (8080, "TCP")]));
    check(
        &self::route("web", "{ports: [{port: 80, protocol: HTTP}, {port: 53, protocol: TCP}]}"),
        &expect![[
            r#"route shop/web (kept): PortNotFound: spec.ports[1].port: the Service "web" has no TCP port 53; its TCP ports: 80, 8080"#
        ]],
    );
    check(
        &self::route("web", "{ports: [{port: 80, protocol: HTTP}, {port: 80, protocol: TCP}]}"),
        &expect![
            "route shop/web (kept): InvalidSpec: spec.ports[1].port: the port 80 is listed twice: say once what it speaks"
        ],
    );
    // Whatever the Service says.
    let redis = "
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: shop}
spec: {ports: [{name: redis, port: 6379}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: cache, namespace: shop}
spec: {ports: [{port: 6379, protocol: HTTP}]}
";
    let verdict = &validate(&shop_with(redis)).routes[&Key::new("shop", "cache")];
    let Outcome::Compiled(route) = &verdict.outcome else { panic!("{:?}", verdict.outcome) };
    assert_eq!((route.version, route.ports[0].protocol.as_str()), (1, "HTTP"));
}
