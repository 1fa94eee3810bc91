//! What happens to inputs when news come: bad ones, late ones, complete lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use vicino_crds::MeshNodeSpec;

use super::{Identity, Inputs, Notice, Part};
use crate::config::bundle::{BundleKind, RawBundle};
use crate::config::slice::{Condition, Hints, SliceEndpoint, SlicePort};
use crate::config::{Change, OwnNode, Slice, SliceKey};

fn inputs() -> Inputs {
    Inputs::new(Identity { node: "n1".into(), mesh: "default".into(), mesh_uid: "u1".into() })
}

fn apply(inputs: &mut Inputs, change: Change) -> (bool, Vec<String>) {
    let mut notices = Vec::new();
    let changed = inputs.apply(change, &mut notices);
    let text = |notice| match notice {
        Notice::Refused { place, message, kept } => format!("{place} refused ({message}) kept={kept}"),
        Notice::UnknownField { place, field } => format!("{place} unknown {field}"),
    };
    (changed, notices.into_iter().map(text).collect())
}

fn route(namespace: &str, service: &str, generation: i64) -> String {
    format!(
        "version: 1\nnamespace: {namespace}\nservice: {service}\ngeneration: {generation}\nports: []\n\
         connectTimeoutMilliseconds: 500\nrequestTimeoutMilliseconds: 0\nrequeues: 1\n...\n"
    )
}

fn bundle(name: &str, routes: &[(&str, String)]) -> RawBundle {
    let data = routes.iter().map(|(key, text)| ((*key).to_owned(), text.clone())).collect::<BTreeMap<_, _>>();
    RawBundle { name: name.into(), kind: BundleKind::Routes { namespace: "demo".into() }, data }
}

fn slice(name: &str, service: &str) -> Slice {
    Slice {
        key: SliceKey::new("demo", name),
        service: service.into(),
        ports: vec![SlicePort { name: "".into(), port: 80 }],
        endpoints: vec![SliceEndpoint {
            hostname: "".into(),
            address: "10.0.0.1".parse().unwrap(),
            uid: "u1".into(),
            node: "n1".into(),
            condition: Condition::Ready,
            hints: Hints::default(),
        }],
    }
}

fn served(inputs: &Inputs) -> Vec<String> {
    let bundles = inputs.bundles().iter();
    bundles.flat_map(|(name, b)| b.good_texts().into_keys().map(move |key| format!("{name}/{key}"))).collect()
}

#[test]
fn a_bad_key_holds_up_no_other_key() {
    let mut inputs = inputs();
    apply(&mut inputs, Change::Bundle(bundle("r", &[("a.yaml", route("demo", "a", 1))])));
    let half = route("demo", "a", 2).replace("...\n", "");
    let (changed, said) = apply(
        &mut inputs,
        Change::Bundle(bundle("r", &[("a.yaml", half), ("b.yaml", route("demo", "b", 1))])),
    );
    assert!(changed);
    assert_eq!(
        said,
        ["r/a.yaml refused (document does not end with a line `...`: it is half-written) kept=true"]
    );
    assert_eq!(served(&inputs), ["r/a.yaml", "r/b.yaml"]);
    assert_eq!(inputs.refused().len(), 1);
    apply(&mut inputs, Change::Bundle(bundle("r", &[("b.yaml", route("demo", "b", 1))])));
    assert_eq!(served(&inputs), ["r/b.yaml"], "a key that is gone takes its last good document along");
    assert_eq!(inputs.refused().len(), 0);
}

#[test]
fn a_document_that_lies_in_the_wrong_place_is_refused() {
    for (key, text, why) in [
        ("b.yaml", route("demo", "a", 1), "service: must be b"),
        ("a.yaml", route("other", "a", 1), "namespace: must be demo"),
        ("a", route("demo", "a", 1), "does not end with .yaml"),
    ] {
        let mut inputs = inputs();
        let (_, said) = apply(&mut inputs, Change::Bundle(bundle("r", &[(key, text)])));
        assert!(said[0].contains(why), "{said:?}");
        assert_eq!(served(&inputs), Vec::<String>::new());
    }
}

#[test]
fn unknown_fields_are_told_once() {
    let mut inputs = inputs();
    for generation in [1, 2] {
        let text = route("demo", "a", generation).replace("requeues", "future: 1\nrequeues");
        let (changed, said) = apply(&mut inputs, Change::Bundle(bundle("r", &[("a.yaml", text)])));
        assert!(changed);
        let expected: &[&str] = if generation == 1 { &["r/a.yaml unknown future"] } else { &[] };
        assert_eq!(said, expected);
    }
}

#[test]
fn only_a_complete_list_takes_away() {
    let mut inputs = inputs();
    apply(&mut inputs, Change::AllSlices(vec![slice("a", "web"), slice("b", "web")]));
    assert_eq!(inputs.missing(), [Part::Bootstrap, Part::Bundles, Part::MeshNode]);
    assert!(apply(&mut inputs, Change::AllSlices(vec![slice("b", "web")])).0);
    let slices = &inputs.services()[&("demo".into(), "web".into())];
    assert_eq!(slices.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);
    assert!(!apply(&mut inputs, Change::AllSlices(vec![slice("b", "web")])).0, "nothing new");
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut inputs = inputs();
    apply(&mut inputs, Change::Slice(slice("a", "web")));
    apply(&mut inputs, Change::Slice(slice("a", "api")));
    let services: Vec<_> = inputs.services().keys().map(|(_, service)| &**service).collect();
    assert_eq!(services, ["api"]);
    apply(&mut inputs, Change::SliceGone(SliceKey::new("demo", "a")));
    assert!(inputs.services().is_empty());
}

#[test]
fn a_manifest_that_breaks_keeps_its_slice_until_it_is_deleted() {
    let mut inputs = inputs();
    let key = SliceKey::new("demo", "a");
    apply(&mut inputs, Change::AllSlices(vec![slice("a", "web")]));
    let (_, said) = apply(&mut inputs, Change::SliceRefused(key.clone(), "no YAML".into()));
    assert_eq!(said, ["endpointslice demo/a refused (no YAML) kept=true"]);
    apply(&mut inputs, Change::AllSlices(vec![]));
    assert_eq!(inputs.services().len(), 1, "the last good one stays");
    apply(&mut inputs, Change::SliceGone(key));
    apply(&mut inputs, Change::AllSlices(vec![]));
    assert_eq!((inputs.services().len(), inputs.refused().len()), (0, 0));
}

#[test]
fn a_meshnode_of_another_mesh_is_refused() {
    let mut inputs = inputs();
    let node = |mesh: &str| {
        let spec = MeshNodeSpec { mesh: mesh.into(), ..MeshNodeSpec::default() };
        Change::MeshNode(OwnNode { generation: 1, spec })
    };
    let (_, said) = apply(&mut inputs, node("other"));
    assert_eq!(said, ["meshnode refused (spec.mesh: must be default, not other) kept=false"]);
    assert!(inputs.missing().contains(&Part::MeshNode));
    apply(&mut inputs, node("default"));
    assert_eq!(inputs.refused(), []);
    assert_eq!(inputs.mesh_node().map(Arc::strong_count), Some(1));
}
