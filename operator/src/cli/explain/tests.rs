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
async fn programs_get_the_same_as_data() {
    let manifests = format!("{SHOP}---{RULES}");
    let answer = told(&manifests, Format::Json, options(&["web/v2"], &[], "shop")).await.unwrap();
    let value: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(value["rule"]["name"], "canary");
    assert_eq!(value["backends"][0]["perMille"], 900);
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
        fields: Vec::new(),
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
";

#[tokio::test]
async fn copies_other_namespaces_and_other_origins() {
    let manifests = format!("{SHOP}---{BANK}");
    let answer = told(&manifests, Format::Table, options(&["http://web/"], &[], "shop")).await.unwrap();
    expect![[r#"
        GET http://web/, called from the namespace shop

        Service      shop/web, port 80
        Rule         rules[0] matches[0]: it is about every call
        Limits       no time limit, 1000 ms to connect, requeued once at most
        Hedge        once more after 50 ms without an answer (idempotent methods); budget 5 % of the calls and 1 per second
        CORS         pages of https://*.example may call, with credentials
        Backends      75.0 %  web:80, 3 ready: node1 2, node2 1, 2 to 20 calls at a time each, as they are quick
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
        Backends     100.0 %  web-0.web:80, 1 ready: node2 1
    "#]]
    .assert_eq(&answer.text);
}
