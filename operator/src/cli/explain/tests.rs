//! Explanations of a shop, from files.

use expect_test::{Expect, expect};

use super::super::arguments::FileOptions;
use super::*;

const SHOP: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {kubernetes.io/os: linux}}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {vicino.dev/mesh: default}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: 10.96.0.8, clusterIPs: [10.96.0.8], ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.1.0.1], nodeName: node1, conditions: {ready: true}}
- {addresses: [10.1.0.2], nodeName: node1, conditions: {ready: true}}
- {addresses: [10.1.0.3], nodeName: node1, conditions: {ready: false}}
- {addresses: [10.1.1.1], nodeName: node2, hostname: web-0, conditions: {ready: true}}
"#;

const RULES: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop}
spec:
  concurrency: {perPod: 20}
  rules:
  - name: canary
    matches:
    - path: {value: /v1}
      headers: [{name: x-canary, value: 'yes'}]
    - path: {value: /v2}
    backends: [{name: web, weight: 9}, {name: web-v2}]
    timeouts: {requestMilliseconds: 250}
    retry: {attempts: 2, codes: [503], attemptMilliseconds: 100}
    urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    requestHeaderModifier: {set: [{name: x-tier, value: gold}], remove: [cookie]}
    responseHeaderModifier: {add: [{name: x-mesh, value: vicino}]}
    fault: {delay: {milliseconds: 40, percent: 10}, abort: {statusCode: 503, percent: 1}}
  - matches: [{path: {value: /old}}]
    requestRedirect: {scheme: https, statusCode: 301}
  - matches: [{method: DELETE}]
    directResponse: {statusCode: 403, body: not here}
";

fn options(request: &[&str], fields: &[&str], from: &str) -> ExplainOptions {
    let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    ExplainOptions {
        request: strings(request),
        header: strings(fields),
        from: Some(from.to_owned()),
        ..ExplainOptions::default()
    }
}

async fn told(manifests: &str, output: Format, options: ExplainOptions) -> Result<Answer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.yaml");
    std::fs::write(&path, manifests).unwrap();
    let files = FileOptions { filename: vec![path], proxy_image: None };
    run(&Global { output, ..Global::default() }, &ExplainOptions { files, ..options }).await
}

async fn check(request: &[&str], fields: &[&str], expected: &Expect) {
    let manifests = format!("{SHOP}---{RULES}");
    let answer = told(&manifests, Format::Table, options(request, fields, "shop/some-pod")).await.unwrap();
    assert_eq!(answer.notes, Vec::<String>::new());
    expected.assert_eq(&answer.text);
}

#[tokio::test]
async fn a_call_of_a_route_without_rules() {
    let answer = told(SHOP, Format::Table, options(&["http://web/x"], &[], "shop")).await.unwrap();
    expect![[r#"
        GET http://web/x, called from the namespace shop

        Service      shop/web, port 80
        Limits       no time limit, 1000 ms to connect, requeued once at most
        Backends     100.0 %  web:80, 3 ready: node1 2, node2 1
    "#]]
    .assert_eq(&answer.text);
}

#[tokio::test]
async fn what_nodes_have_reported_of_the_route_is_told() {
    let route = |observed: u32, status: &str, message: &str| {
        format!(
            "{SHOP}---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: web, namespace: shop, generation: 4}}
status:
  conditions:
  - {{type: Programmed, status: '{status}', observedGeneration: {observed}, reason: R, message: '{message}', lastTransitionTime: '2026-01-01T00:00:00Z'}}
"
        )
    };
    for (observed, status, message, expected) in [
        (4, "True", "every ready proxy serves it", "generation 4: every ready proxy serves it"),
        (4, "False", "not yet: node3", "generation 4 not everywhere yet: not yet: node3"),
        (3, "True", "every ready proxy serves it", "of generation 4 nothing is known yet"),
    ] {
        let manifests = route(observed, status, message);
        let answer = told(&manifests, Format::Table, options(&["http://web/"], &[], "shop")).await.unwrap();
        let line = answer.text.lines().find(|line| line.starts_with("In force"));
        assert_eq!(line, Some(&*format!("In force     {expected}")), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_call_that_falls_under_a_rule_and_why_not_under_others() {
    check(
        &["POST", "http://web.shop/v1/buy?n=1"],
        &["X-Canary: yes"],
        &expect![[r#"
            POST http://web.shop/v1/buy?n=1, called from the namespace shop

            Service      shop/web, port 80
            Rule         rules[0] "canary" matches[0]: path begins with /v1, header x-canary is "yes"
            Passed over  rules[1] matches[0]: not so: path begins with /old
            Fault        10 of 100 calls wait for 40 ms
                         1 of 100 calls are answered with 503
            Request      path becomes /buy?n=1
                         host becomes inner.example
                         cookie is removed
                         x-tier becomes "gold"
            Response     x-mesh "vicino" is added
            Limits       250 ms in all, 1000 ms to connect, requeued once at most
            Retries      2 at most on 503 (idempotent methods), first after 25 ms, each attempt at most 100 ms; budget 20 % of the calls and 10 per second
            Backends      90.0 %  web:80, 3 ready: node1 2, node2 1, 20 calls at a time each
                                  queue: 100 calls wait on each node at most, for 1000 ms
                          10.0 %  web-v2:80, no ready endpoint
        "#]],
    )
    .await;
    check(
        &["http://web/v2"],
        &[],
        &expect![[r#"
            GET http://web/v2, called from the namespace shop

            Service      shop/web, port 80
            Rule         rules[0] "canary" matches[1]: path begins with /v2
            Passed over  rules[1] matches[0]: not so: path begins with /old
                         rules[0] "canary" matches[0]: not so: path begins with /v1
            Fault        10 of 100 calls wait for 40 ms
                         1 of 100 calls are answered with 503
            Request      path becomes /
                         host becomes inner.example
                         cookie is removed
                         x-tier becomes "gold"
            Response     x-mesh "vicino" is added
            Limits       250 ms in all, 1000 ms to connect, requeued once at most
            Retries      2 at most on 503 (idempotent methods), first after 25 ms, each attempt at most 100 ms; budget 20 % of the calls and 10 per second
            Backends      90.0 %  web:80, 3 ready: node1 2, node2 1, 20 calls at a time each
                                  queue: 100 calls wait on each node at most, for 1000 ms
                          10.0 %  web-v2:80, no ready endpoint
        "#]],
    )
    .await;
}

#[tokio::test]
async fn calls_that_are_answered_by_a_rule_or_not_at_all() {
    check(
        &["http://web/old/x?y"],
        &[],
        &expect![[r#"
        GET http://web/old/x?y, called from the namespace shop

        Service      shop/web, port 80
        Rule         rules[1] matches[0]: path begins with /old
        Answer       301: location: https://web/old/x?y
    "#]],
    )
    .await;
    check(
        &["DELETE", "web/anything"],
        &[],
        &expect![[r#"
        DELETE http://web/anything, called from the namespace shop

        Service      shop/web, port 80
        Rule         rules[2] matches[0]: method is DELETE
        Passed over  rules[1] matches[0]: not so: path begins with /old
                     rules[0] "canary" matches[0]: not so: path begins with /v1
                     rules[0] "canary" matches[1]: not so: path begins with /v2
        Answer       403: not here
    "#]],
    )
    .await;
    check(
        &["http://web/v1"],
        &["X-Canary: no"],
        &expect![[r#"
        GET http://web/v1, called from the namespace shop

        Service      shop/web, port 80
        Passed over  rules[1] matches[0]: not so: path begins with /old
                     rules[0] "canary" matches[0]: not so: header x-canary is "yes"
                     rules[0] "canary" matches[1]: not so: path begins with /v2
                     rules[2] matches[0]: not so: method is DELETE
        Answer       404 no-matching-rule: no rule of the route matches the request
    "#]],
    )
    .await;
    check(
        &["http://nobody/"],
        &[],
        &expect![[r#"
        GET http://nobody/, called from the namespace shop

        Answer       404 no-such-service: the mesh has no Service of this name
    "#]],
    )
    .await;
    check(
        &["http://web:81/"],
        &[],
        &expect![[r#"
        GET http://web:81/, called from the namespace shop

        Answer       404 no-such-port: the Service has no such port
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_host_that_is_no_service_and_tls_to_it() {
    for (url, expected) in [
        (
            "https://api.example.com/v1",
            expect![[r#"
                CONNECT api.example.com:443, called from the namespace shop

                Egress       spec.egress of the ServiceMesh lets nothing out
                Answer       403 not-in-mesh: the host is no Service of the mesh, and spec.egress of the ServiceMesh does not allow to call it
            "#]],
        ),
        (
            "http://169.254.169.254/latest",
            expect![[r#"
                GET http://169.254.169.254/latest, called from the namespace shop

                Egress       spec.egress of the ServiceMesh lets nothing out
                Answer       403 not-in-mesh: the host is no Service of the mesh, and spec.egress of the ServiceMesh does not allow to call it
            "#]],
        ),
    ] {
        check(&[url], &[], &expected).await;
    }
}

/// What a mesh lets out, for the ServiceMesh of the shop.
const OUT: &str = "
spec:
  egress:
    allow:
    - {hosts: [api.example.com], ports: [443]}
    - {hosts: ['*.example.org'], from: [{namespaces: [shop]}]}
    - {ipBlocks: [{cidr: 203.0.113.0/24}], ports: [80]}";

#[tokio::test]
async fn a_call_out_of_the_mesh_is_told_with_what_lets_it_out() {
    let manifests = SHOP.replace("metadata: {name: default}", &format!("metadata: {{name: default}}{OUT}"));
    let explained = async |url: &str, format| {
        told(&manifests, format, options(&[url], &[], "demo/web")).await.unwrap().text
    };
    assert_eq!(explained("https://api.example.com/v1?x", Format::Name).await, "api.example.com:443\n");
    expect![[r#"
        CONNECT api.example.com:443, called from the namespace demo

        Egress       let out by its name: spec.egress.allow[0]; the name is resolved when it is called, and a call to an address that is never called (a node's, the API server's, loopback, link-local, the mesh's own) is refused then
    "#]].assert_eq(&explained("https://api.example.com/v1?x", Format::Table).await);
    expect![[r#"
        GET http://www.example.com/, called from the namespace demo

        Egress       let out if it leads to an address in a block of spec.egress.allow[2]: the name is resolved when it is called, and a call to an address that is never called (a node's, the API server's, loopback, link-local, the mesh's own) is refused then, and one to an address in none of these blocks
    "#]].assert_eq(&explained("http://www.example.com/", Format::Table).await);
    expect![[r#"
        CONNECT www.example.com:8443, called from the namespace demo

        Egress       no entry of spec.egress.allow lets spiffe://cluster.local/ns/demo/sa/web out to this name at port 8443
        Answer       403 not-in-mesh: the host is no Service of the mesh, and spec.egress of the ServiceMesh does not allow to call it
    "#]].assert_eq(&explained("https://www.example.com:8443/", Format::Table).await);
    let never = "http://169.254.169.254/latest/meta-data";
    assert_eq!(explained(never, Format::Name).await, "403 never-called\n");
    expect![[r#"
        GET http://169.254.169.254/latest/meta-data, called from the namespace demo

        Egress       never called, whatever spec.egress says: the address is that of loopback, link-local, multicast or no host at all
        Answer       403 never-called: the address is loopback, link-local, a node's, the API server's or the mesh's own: pods do not call it through the mesh
    "#]].assert_eq(&explained(never, Format::Table).await);
}

#[tokio::test]
async fn programs_get_the_same_as_data() {
    let manifests = format!("{SHOP}---{RULES}");
    let answer = told(&manifests, Format::Json, options(&["web/v2"], &[], "shop")).await.unwrap();
    let value: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(value["rule"]["name"], "canary");
    assert_eq!(value["backends"][0]["perMillion"], 900_000);
    let answer = told(&manifests, Format::Name, options(&["web/v2"], &[], "shop")).await.unwrap();
    assert_eq!(answer.text, "web:80,web-v2:80\n");
}

#[tokio::test]
async fn a_route_that_is_not_accepted_is_named() {
    let manifests = format!("{SHOP}---{}", RULES.replace("value: /old", "value: old"));
    let answer = told(&manifests, Format::Table, options(&["web/v2"], &[], "shop")).await.unwrap();
    expect![[r#"
        GET http://web/v2, called from the namespace shop

        Problem      the MeshRoute is not accepted: spec.rules[1].matches[0].path.value: must be an absolute path: it begins with '/'
        Answer       404 no-such-service: the mesh has no Service of this name
    "#]].assert_eq(&answer.text);
}

#[tokio::test]
async fn what_is_no_call_says_what_would_be_right() {
    for (request, fields, part) in [
        (&["https://web/"][..], &[][..], "http://"),
        (&["http:///x"], &[], "no host"),
        (&["web/a b"], &[], "refuses such a request"),
        (&["G T", "web/"], &[], "refuses such a request"),
        (&["web/"], &["novalue"], "name: value"),
        (&["web/"], &["a: b\r\n\r\nGET / HTTP/1.1"], "not one request"),
    ] {
        let error = told(SHOP, Format::Table, options(request, fields, "shop")).await.unwrap_err();
        assert!(error.to_string().contains(part), "{request:?}: {error}");
    }
    let several = format!(
        "{SHOP}---\napiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {{name: second}}\n"
    );
    let error = told(&several, Format::Table, options(&["web/"], &[], "elsewhere")).await.unwrap_err();
    assert!(error.to_string().contains("--mesh with one of default, second"), "{error}");
}

#[test]
fn a_comparison_shows_both_and_says_when_nothing_changes() {
    let call = Call {
        method: "GET".into(),
        host: "web".into(),
        path: "/v2".into(),
        headers: Vec::new(),
        from: "shop".into(),
    };
    let explanation = |manifests: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.yaml");
        std::fs::write(&path, manifests).unwrap();
        {
            let live = Live { inputs: files_alone(&[path], "shop").unwrap(), written: Vec::new() };
            explain(Settings::default(), live, &call, None).unwrap()
        }
    };
    let (before, after) = (explanation(SHOP), explanation(&format!("{SHOP}---{RULES}")));
    let same = compared(Format::Table, &before, &before);
    assert!(!same.found && same.notes.len() == 1);
    let other = compared(Format::Table, &before, &after);
    assert!(
        other.found
            && other.text.starts_with("NOW\nGET http://web/v2")
            && other.text.contains("\nTHEN\nGET ")
    );
}

/// Files of before and after, the whole of each.
async fn of_two(before: &str, after: &str, output: Format) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, manifests: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, manifests).unwrap();
        path
    };
    let files = FileOptions { filename: vec![file("after.yaml", after)], proxy_image: None };
    let compare_with = vec![file("before.yaml", before)];
    let options = ExplainOptions { files, compare_with, ..options(&["http://web/v2"], &[], "shop") };
    run(&Global { output, ..Global::default() }, &options).await.unwrap()
}

#[tokio::test]
async fn files_are_compared_with_files_without_a_cluster() {
    let with = |spec: &str| {
        format!(
            "{SHOP}---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: web, namespace: shop}}
spec: {spec}
"
        )
    };
    let before = with(
        "{affinity: {type: Cookie, name: sid}, concurrency: {perPod: 20}, backends: [{name: web, weight: 999}, {name: web-v2}]}",
    );
    let same = of_two(&before, &before, Format::Table).await;
    assert_eq!((same.found, &*same.notes[0]), (false, "the files change nothing about this call"));
    let after = with(
        "
  loadBalancer: {type: PeakEwma}
  affinity: {type: Cookie, name: sid, setCookie: {maxAgeSeconds: 3600}, maxLoadPercent: 150}
  concurrency: {perPod: 20, adaptive: {targetMilliseconds: 80}, queue: {length: 7, standingTimeoutMilliseconds: 50}}
  circuitBreaker: {codes: [503], failurePercent: 30}
  identity: {mode: Strict}
  backends: [{name: web, weight: 9999}, {name: web-v2}]",
    );
    let answer = of_two(&before, &after, Format::Table).await;
    assert!(answer.found);
    expect![[r#"
        NOW
        GET http://web/v2, called from the namespace shop

        Service      shop/web, port 80
        Limits       no time limit, 1000 ms to connect, requeued once at most
        Affinity     calls with the same cookie sid, which this call has not, go to the same pod
        Backends      99.9 %  web:80, 3 ready: node1 2, node2 1, 20 calls at a time each
                              queue: 100 calls wait on each node at most, for 1000 ms
                       0.1 %  web-v2:80, no ready endpoint

        THEN
        GET http://web/v2, called from the namespace shop

        Service      shop/web, port 80
        Limits       no time limit, 1000 ms to connect, requeued once at most
        Affinity     calls with the same cookie sid, which this call has not, go to the same pod; whoever has none is given one for 3600 s; a pod above 150 % of the average load has no further ones
        Backends     99.99 %  web:80, 3 ready: node1 2, node2 1, 1 to 20 calls at a time each, as they are quick
                              load balancer: the least calls in flight, weighed by the time that calls take
                              quick: on average within 80 ms
                              queue: 7 calls wait on each node at most, for 1000 ms, 50 ms once there has been a line for so long
                              left out: after 5 failures in a row or 30 % of 20 calls and more in ten seconds (503), for 10000 ms at first and 300000 ms at most, 50 % of the pods at a time
                              strict: calls without TLS between nodes are refused
                      0.01 %  web-v2:80, no ready endpoint
    "#]].assert_eq(&answer.text);
    let value: Value = serde_json::from_str(&of_two(&before, &after, Format::Json).await.text).unwrap();
    assert_eq!(
        value["now"]["affinity"],
        "calls with the same cookie sid, which this call has not, go to the same pod"
    );
    assert_eq!(value["then"]["backends"][1]["perMillion"], 100);
}

const BANK: &str = "
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: bank}
spec: {from: [{group: vicino.dev, kind: MeshRoute, namespace: shop}], to: [{group: '', kind: Service}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop}
spec:
  overrides: [{name: web-v2}, {name: ledger, namespace: bank}]
  concurrency: {perPod: 20, adaptive: {targetMilliseconds: 100, minPerPod: 2}}
  hedge: {delayMilliseconds: 50}
  rules:
  - backends:
    - {name: web, weight: 3}
    - {name: ledger, namespace: bank, requestHeaderModifier: {set: [{name: x-from, value: shop}]}, responseHeaderModifier: {remove: [server]}}
    requestMirror: {name: web-v2, percent: 10}
    cors: {allowOrigins: ['https://*.example'], allowCredentials: true}
    failureCodes: [500, 503]
    timeouts: {idleMilliseconds: 5000}
";

#[tokio::test]
async fn another_name_for_a_service() {
    let alias = "
apiVersion: v1
kind: Service
metadata: {name: site, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}
";
    let manifests = format!("{SHOP}---{alias}");
    let answer = told(&manifests, Format::Table, options(&["http://site/"], &[], "shop")).await.unwrap();
    let line = answer.text.lines().find(|line| line.starts_with("Service")).unwrap_or_default();
    assert_eq!(line, "Service      shop/web, port 80, for which shop/site is another name");
}

#[tokio::test]
async fn other_names_that_lead_to_no_service_are_told() {
    let alias = |name: &str, of: &str| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{type: ExternalName, externalName: {of}.shop.svc.cluster.local}}
"
        )
    };
    let manifests = [SHOP, &alias("ping", "pong"), &alias("pong", "ping"), &alias("old", "gone")].concat();
    for name in ["ping", "old"] {
        let url = format!("http://{name}/");
        let answer = told(&manifests, Format::Table, options(&[&url], &[], "shop")).await.unwrap();
        let said = format!(
            "
Service      shop/{name} is another name (type ExternalName), and what it stands for is no Service of the mesh, or itself again
Answer       404 no-such-service: the mesh has no Service of this name
"
        );
        assert!(answer.text.ends_with(&said), "{}", answer.text);
    }
}

#[tokio::test]
async fn copies_other_namespaces_and_other_origins() {
    let manifests = format!("{SHOP}---{BANK}");
    let answer = told(&manifests, Format::Table, options(&["http://web/"], &[], "shop")).await.unwrap();
    expect![[r#"
        GET http://web/, called from the namespace shop

        Service      shop/web, port 80
        Rule         rules[0] matches[0]: it is about every call
        Limits       no time limit, 5000 ms of silence, 1000 ms to connect, requeued once at most
        Hedge        once more after 50 ms without an answer (idempotent methods); budget 5 % of the calls and 1 per second
        Failures     answers with 500, 503 count as failures of their pod
        CORS         pages of https://*.example may call, with credentials, by GET, HEAD, POST; what a preflight is told holds for 5 s
        Backends      75.0 %  web:80, 3 ready: node1 2, node2 1, 2 to 20 calls at a time each, as they are quick
                              quick: on average within 100 ms
                              queue: 100 calls wait on each node at most, for 1000 ms
                      25.0 %  bank/ledger:80, no ready endpoint
                              request: x-from becomes "shop"
                              response: server is removed
        Overrides    the field vicino-route may ask for web-v2, ledger.bank instead
        Mirror       10 % of the calls, copied to shop/web-v2:80
    "#]]
    .assert_eq(&answer.text);
    for (wish, said) in [
        ("vicino-route: web=web-v2", "Backends     100.0 %  web-v2:80"),
        ("vicino-route: web=ledger.bank", "Backends     100.0 %  bank/ledger:80"),
        ("vicino-route: web=other", "Answer       403 override-not-allowed"),
        ("vicino-route: api=other", "Backends      75.0 %  web:80"),
    ] {
        let asked = options(&["http://web/"], &[wish], "shop");
        let answer = told(&manifests, Format::Table, asked).await.unwrap();
        assert!(answer.text.contains(said), "{wish}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_pod_by_its_own_name() {
    let manifests = format!("{SHOP}---{RULES}");
    let asked = options(&["http://web-0.web/v1/x"], &[], "shop");
    let answer = told(&manifests, Format::Table, asked).await.unwrap();
    expect![[r#"
        GET http://web-0.web/v1/x, called from the namespace shop

        Service      shop/web, port 80
        Limits       no time limit, 1000 ms to connect, requeued once at most
        Backends     100.0 %  web-0.web:80, 1 ready: node2 1, 20 calls at a time each
                              queue: 100 calls wait on each node at most, for 1000 ms
    "#]]
    .assert_eq(&answer.text);
}

const POLICIES: &str = r#"
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  target: {service: {name: web}}
  rules:
  - name: not-for-batch
    action: Deny
    from: [{serviceAccounts: [{name: batch}]}]
  - name: no-inner
    action: Deny
    to: [{paths: [{value: /inner}]}]
---
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: one-pod, namespace: shop}
spec:
  mode: Audit
  target: {pods: {matchLabels: {tier: secret}}}
  rules: [{action: Deny}]
---
apiVersion: v1
kind: Pod
metadata: {name: job-1, namespace: shop}
spec: {nodeName: node1, serviceAccountName: batch, containers: []}
status: {podIPs: [{ip: 10.1.0.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {tier: secret}}
spec: {nodeName: node1, containers: []}
status: {podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop}
spec: {nodeName: node1, containers: []}
status: {podIPs: [{ip: 10.1.0.2}]}
"#;

async fn judged(request: &[&str], from: &str, expected: &Expect) {
    let manifests = format!("{SHOP}---{POLICIES}");
    let answer = told(&manifests, Format::Table, options(request, &[], from)).await.unwrap();
    let lines = answer.text.lines().skip_while(|line| !line.starts_with("Policy"));
    let lines = lines.take_while(|line| line.starts_with("Policy") || line.starts_with(' '));
    expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn a_verdict_of_policies_names_policy_rule_and_caller() {
    judged(&["http://web/x"], "shop/job-1", &expect!["Policy       shop/web:80 denied (403) by shop/web, rule not-for-batch, called as spiffe://cluster.local/ns/shop/sa/batch"]).await;
    judged(&["http://web/x/..%2finner"], "shop/web", &expect!["Policy       shop/web:80 denied (403) by shop/web, rule no-inner, called as spiffe://cluster.local/ns/shop/sa/web"]).await;
    judged(&["http://web/x"], "shop", &expect![[r#"
        Policy       shop/web:80 allowed by the mesh's default, since no rule is about it, called as spiffe://cluster.local/ns/shop/sa/default, at 3 of 4 pods; with policies in audit denied by shop/one-pod, rule rules[0]
                     shop/web:80 allowed by the mesh's default, since no rule is about it, called as spiffe://cluster.local/ns/shop/sa/default, at 1 of 4 pods"#]]).await;
}

#[tokio::test]
async fn a_mesh_that_denies_by_default_says_so() {
    let closed = SHOP.replace(
        "metadata: {name: default}",
        "metadata: {name: default}\nspec: {policy: {defaultAction: Deny}}",
    );
    let answer = told(&closed, Format::Name, options(&["http://web/x"], &[], "shop")).await.unwrap();
    assert_eq!(answer.text, "denied\n");
}

#[tokio::test]
async fn a_node_is_asked_by_itself() {
    let node = || ExplainOptions { node: Some("node1".to_owned()), ..options(&["http://web/"], &[], "shop") };
    for asked in [
        ExplainOptions { compare: true, ..node() },
        ExplainOptions { compare_with: vec!["before.yaml".into()], ..node() },
        ExplainOptions { mesh: Some("default".to_owned()), ..node() },
        node(),
    ] {
        let error = told(SHOP, Format::Table, asked).await.unwrap_err();
        assert!(error.to_string().contains("leave them out"), "{error}");
    }
}

#[test]
fn what_a_node_says_is_shown_with_its_pods() {
    use vicino_proxy::explain::{Here, Node, OwnPod};
    let pod = |name: &str, in_flight, left_out_milliseconds| OwnPod {
        name: Some(format!("shop/{name}")),
        address: "10.1.0.1:8080".to_owned(),
        in_flight,
        limit: Some(10),
        left_out_milliseconds,
    };
    let plain = OwnPod { name: None, limit: None, ..pod("", 7, None) };
    let service = |name: &str, waiting, waiting_max, pods| Here {
        service: format!("shop/{name}"),
        port: 80,
        waiting,
        waiting_max,
        pods,
    };
    let node = Node {
        name: "node1".to_owned(),
        version: "1.2.3".to_owned(),
        contract: 5,
        snapshot: 17,
        config_age_seconds: 0,
        caller: "unidentified: no pod".to_owned(),
        backends: vec![
            service(
                "web",
                3,
                Some(100),
                vec![pod("a", 10, None), pod("b", 0, Some(12_000)), pod("c", 1, Some(0))],
            ),
            service("web-v2", 0, None, vec![plain]),
            service("web-v3", 0, None, Vec::new()),
        ],
    };
    let explanation = |node| Explanation {
        method: "GET".to_owned(),
        url: "http://web/".to_owned(),
        from: "shop".to_owned(),
        node: Some(node),
        ..Explanation::default()
    };
    expect![[r#"
        GET http://web/, called from the namespace shop

        Node         node1: proxy 1.2.3, contract 5, snapshot 17, in step with the API server
        Caller       unidentified: no pod
        Here         shop/web:80, 3 pods on this node, 3 waiting of 100 that may
                       shop/a 10.1.0.1:8080, 10 in flight of 10 at a time
                       shop/b 10.1.0.1:8080, 0 in flight of 10 at a time, left out after failures for 12000 ms more
                       shop/c 10.1.0.1:8080, 1 in flight of 10 at a time, left out after failures until a call has tried it
                     shop/web-v2:80, 1 pod on this node
                       10.1.0.1:8080, 7 in flight
                     shop/web-v3:80, no pod on this node
    "#]].assert_eq(&text::show(&explanation(node.clone())));
    let late = text::show(&explanation(Node { config_age_seconds: 90, backends: Vec::new(), ..node }));
    assert!(late.contains("snapshot 17, API server not heard of for 90 s"), "{late}");
}

#[test]
fn an_answer_of_a_proxy_is_read_or_says_what_is_wrong_with_it() {
    let said = |status: u16, body: &str| {
        node::understood("node1", hyper::StatusCode::from_u16(status).unwrap(), body.as_bytes())
    };
    // Of a newer release.
    let answer =
        r#"{"method":"GET","url":"http://web/","from":"shop","more":1,"node":{"name":"node1","more":2}}"#;
    let read = said(200, answer).unwrap();
    assert_eq!((&*read.from, &*read.node.unwrap().name), ("shop", "node1"));
    for (status, body, part) in [
        (404, "there are /snapshot, /config\n", "the proxy of node \"node1\" is too old"),
        (400, "from: say a namespace\n", "from: say a namespace"),
        (503, "no calls are served: draining\n", "answers 503: no calls are served: draining"),
        (200, "[]", "cannot read"),
    ] {
        let error = said(status, body).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
