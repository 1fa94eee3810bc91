//! Tables of expectations that hold, and that do not.

use expect_test::{Expect, expect};

use super::*;

const QUOTES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: quotes, namespace: demo}
spec: {selector: {app: quotes}, ports: [{name: http, port: 80}, {name: tcp-raw, port: 81}]}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: quotes, namespace: demo}
spec:
  target: {service: {name: quotes}}
  rules:
  - name: only-web
    action: Deny
    from: [{notServiceAccounts: [{name: web}]}]
  - name: no-writes
    action: Deny
    to: [{methods: [POST, PUT, DELETE]}, {paths: [{value: /admin}]}]
---
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: by-label, namespace: demo}
spec:
  target: {pods: {matchLabels: {tier: secret}}}
  rules: [{action: Deny}]
"#;

fn tested(manifests: &str, cases: &str, output: Format) -> Result<Answer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let test = format!("apiVersion: vicino.dev/v1alpha1\nkind: PolicyTest\ncases:\n{cases}");
    for (name, text) in [("policies.yaml", manifests), ("test.yaml", &test)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let options = PolicyTestOptions { filename: vec![folder.path().to_owned()] };
    let mut answer = run(&Global { output, ..Global::default() }, &options)?;
    answer.text = answer.text.replace(&folder.path().display().to_string(), "DIR");
    Ok(answer)
}

fn check(manifests: &str, cases: &str, found: bool, expected: &Expect) {
    let answer = tested(manifests, cases, Format::Table).unwrap();
    assert_eq!((answer.notes, answer.found), (Vec::new(), found));
    expected.assert_eq(&answer.text);
}

#[test]
fn expectations_that_hold() {
    check(
        QUOTES,
        "\
- {from: demo/web, to: quotes, path: /today, expect: allow}
- {from: demo/web, to: quotes, method: POST, expect: deny, rule: no-writes}
- {from: demo/web, to: quotes, path: /x/..%2fadmin, expect: deny, rule: quotes/no-writes}
- {from: demo/batch, to: quotes, expect: deny, rule: demo/quotes/only-web}
- {from: unidentified, to: quotes.demo, expect: deny}
- {from: spiffe://other.example/ns/demo/sa/web, to: quotes.demo, expect: deny, rule: only-web}
- {from: demo/web, to: 'quotes:81', expect: deny, rule: no-writes}
- {from: demo/web, to: quotes, podLabels: {tier: secret}, expect: deny, rule: 'by-label/rules[0]'}
",
        false,
        &expect![[r#"
            8 of 8 cases hold
        "#]],
    );
}

#[test]
fn what_does_not_hold_is_named() {
    check(
        QUOTES,
        "\
- {name: everybody reads, from: demo/batch, to: quotes, expect: allow}
- {from: demo/web, to: quotes, expect: deny}
- {from: demo/web, to: quotes, method: PUT, expect: deny, rule: only-web}
- {from: demo/web, to: authors, expect: deny}
- {from: web, to: quotes.demo, expect: deny}
",
        true,
        &expect![[r#"
            FAILED  DIR/test.yaml cases[0] "everybody reads": expected allow, but demo/quotes:80 denied (403) by demo/quotes, rule only-web, called as spiffe://cluster.local/ns/demo/sa/batch
            FAILED  DIR/test.yaml cases[1]: expected deny, but demo/quotes:80 allowed by the mesh's default, since no rule is about it, called as spiffe://cluster.local/ns/demo/sa/web
            FAILED  DIR/test.yaml cases[2]: expected deny by rule only-web, but demo/quotes:80 denied (403) by demo/quotes, rule no-writes, called as spiffe://cluster.local/ns/demo/sa/web
            FAILED  DIR/test.yaml cases[3]: to: "authors" gets 404 no-such-service
            FAILED  DIR/test.yaml cases[4]: from: "web" is nobody: write namespace/service-account, spiffe://trust.domain/ns/namespace/sa/account or unidentified
            0 of 5 cases hold
        "#]],
    );
}

#[test]
fn a_mesh_that_denies_by_default_and_a_policy_that_is_wrong() {
    let mesh = "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default}
spec: {policy: {defaultAction: Deny}}
";
    check(
        &format!("{QUOTES}---{mesh}"),
        "- {from: demo/web, to: quotes, expect: allow}\n",
        true,
        &expect![[r#"
            FAILED  DIR/test.yaml cases[0]: expected allow, but demo/quotes:80 denied (403) by the mesh's default, since no rule is about it, called as spiffe://cluster.local/ns/demo/sa/web
            0 of 1 cases hold
        "#]],
    );
    let answer = tested(
        &QUOTES.replace("{service: {name: quotes}}", "{service: {name: quote}}"),
        "- {from: demo/web, to: quotes, expect: allow}\n",
        Format::Name,
    )
    .unwrap();
    assert!(answer.found, "{answer:?}");
    assert!(answer.notes[0].contains("there is no Service \"quote\""), "{answer:?}");
}

#[test]
fn a_test_that_cannot_be_read_is_an_error() {
    let error = tested(QUOTES, "- {from: a/b, to: quotes, expects: deny}\n", Format::Table).unwrap_err();
    assert!(error.to_string().contains("unknown field `expects`"), "{error}");
    let error = tested(QUOTES, "  []\n", Format::Table).unwrap_err();
    assert!(error.to_string().contains("there is no case"), "{error}");
}
