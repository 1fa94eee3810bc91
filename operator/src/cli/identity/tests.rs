use expect_test::expect;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::*;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn params(name: &str, year: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    params
}

/// A root with an intermediate, another root, and the intermediate's key id. Fingerprints are by chance.
fn facts() -> (Facts, [(String, String); 3]) {
    let (key, between_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("ours", 2036).self_signed(&key).unwrap();
    let old = params("before", 2027).self_signed(&KeyPair::generate().unwrap()).unwrap();
    let between = params("between", 2030);
    let between = between.signed_by(&between_key, &Issuer::from_params(&params("ours", 2036), &key)).unwrap();
    let names = [between.pem(), root.pem(), old.pem()].map(|pem| {
        let one = ca::union(&[&pem]).remove(0);
        (one.fingerprint, one.key_id)
    });
    let roots = root.pem() + &old.pem();
    let condition = json!({
        "type": "IdentityReady", "status": "True", "reason": "Ready", "message": "2 roots", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let held = |account: &str, hours: i64, issuer: &str| {
        let expires = now() + k8s_openapi::jiff::SignedDuration::from_hours(hours);
        json!({ "name": format!("spiffe://cluster.local/ns/shop/sa/{account}"), "expires": expires, "issuer": issuer })
    };
    let node = |name: &str, certificates: Value| {
        object(json!({
            "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode", "metadata": { "name": name }, "spec": { "mesh": "default" },
            "status": { "certificates": certificates },
        }))
    };
    let full = json!({
        "count": 3, "expires": "2026-01-01T04:00:00Z", "roots": ["r1", "r2"], "issuers": ["k1"], "clockSkewSeconds": 90,
        "rootsProblem": "roots.pem: is no text",
        "identities": [held("web", 4, &names[0].1), held("pay", 20, "feed")],
    });
    let facts = Facts {
        meshes: vec![object(
            json!({ "metadata": { "name": "default" }, "spec": {}, "status": { "conditions": [condition] } }),
        )],
        nodes: vec![node("node2", Value::Null), node("node1", full)],
        config_maps: vec![object(json!({
            "metadata": { "name": "vicino-default.trust" }, "data": { "roots.pem": roots, "issuer.pem": between.pem() },
        }))],
    };
    (facts, names)
}

/// With words for what is there by chance, in the order of the words.
fn text(all: &Identities, format: Format, each: bool, names: &[(String, String); 3]) -> String {
    let mut text = show(all, format, each, now());
    for ((fingerprint, key), word) in names.iter().zip(["between", "ours", "before"]) {
        text = text.replace(fingerprint, &format!("{word:-<16}")).replace(key, &format!("{word:+<16}"));
    }
    text
}

#[test]
fn the_authority_the_roots_and_what_each_node_has() {
    let (facts, names) = facts();
    let mut all = identities(&facts);
    all.authorities[0].roots.sort_by(|a, b| a.name.cmp(&b.name));
    expect![[r"
        authority of default: Ready: 2 roots
        ROLE     NAME      FINGERPRINT        KEY                ENDS
        issuer   between   between---------   between+++++++++   in 4y1d
        root     before    before----------   before++++++++++   in 365d
        root     ours      ours------------   ours++++++++++++   in 10y

        NODE    MESH      CERTIFICATES   FIRST ENDS   ROOTS                        ISSUERS   CLOCK
        node1   default   3              in 4h        r1,r2 (newer ones refused)   k1        -90s
        node2   default   0              -            -                            -         -

        certificates of node1:
        NAME                                    ENDS     SIGNED BY
        spiffe://cluster.local/ns/shop/sa/web   in 4h    between < ours
        spiffe://cluster.local/ns/shop/sa/pay   in 20h   key feed
        and 1 more, which end later
    "]]
    .assert_eq(&text(&all, Format::Wide, false, &names));
    all.nodes.retain(|row| row.node == "node2");
    expect![[r"
        authority of default: Ready: 2 roots
        ROLE     NAME      FINGERPRINT        KEY                ENDS
        issuer   between   between---------   between+++++++++   in 4y1d
        root     before    before----------   before++++++++++   in 365d
        root     ours      ours------------   ours++++++++++++   in 10y

        NODE    MESH      CERTIFICATES   FIRST ENDS   ROOTS
        node2   default   0              -            -
    "]]
    .assert_eq(&text(&all, Format::Table, true, &names));
    assert_eq!(show(&all, Format::Name, false, now()), "meshnode.vicino.dev/node2\n");
}

#[test]
fn a_program_gets_all_of_it() {
    let (facts, names) = facts();
    let all: Value = serde_json::from_str(&show(&identities(&facts), Format::Json, false, now())).unwrap();
    let authority = &all["authorities"][0];
    assert_eq!(authority["chain"][0]["fingerprint"], names[0].0);
    assert_eq!(authority["roots"].as_array().map(Vec::len), Some(2));
    let held = &all["nodes"][0]["identities"];
    assert_eq!(held[0]["chain"], json!(["between", "ours"]));
    assert_eq!(held[1]["chain"], json!(["key feed"]), "of an authority that nobody knows");
    assert_eq!(held[0]["expires"], "2026-01-01T04:00:00Z");
    assert_eq!(all["nodes"][0]["rootsProblem"], "roots.pem: is no text");
    assert_eq!(all["nodes"][1]["certificates"], 0);
}
