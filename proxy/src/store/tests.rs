//! What is saved comes back the same; what is damaged, of another version or of another proxy does not come back at all.

use super::{FORMAT, Saved, Store};
use crate::config::build::{Built, build};
use crate::config::bundle::BundleKind;
use crate::config::inputs::Identity;
use crate::config::slice::{Condition, Hints, SliceEndpoint, SlicePort};
use crate::config::{Change, Inputs, OwnNode, RawBundle, Slice, SliceKey};

const ROUTE: &str = "version: 1\nnamespace: demo\nservice: web\ngeneration: 3\nports: []\n\
     connectTimeoutMilliseconds: 500\nrequestTimeoutMilliseconds: 0\nrequeues: 1\n...\n";
const BOOTSTRAP: &str = "version: 1\nmesh: default\nclusterDomain: cluster.local\nworkers: 1\nlogLevel: info\ndrainSeconds: 5\n...\n";

const POLICY: &str =
    "version: 4\nnamespace: demo\nname: closed\ngeneration: 1\nmode: Enforce\nrules: [{action: Deny}]\n...\n";

const EGRESS: &str = "version: 4\nmesh: default\nmode: Allow\n...\n";

fn identity() -> Identity {
    Identity { node: "n1".into(), mesh: "default".into(), mesh_uid: "u1".into() }
}

fn filled() -> Inputs {
    let mut inputs = Inputs::new(identity());
    let kind = BundleKind::Routes { namespace: "demo".into() };
    let raw = |web: &str| RawBundle {
        name: "r".into(),
        kind: kind.clone(),
        data: [("web.yaml".to_owned(), web.to_owned())].into(),
    };
    let endpoint = SliceEndpoint {
        hostname: "".into(),
        address: "10.0.0.1".parse().unwrap(),
        uid: "u1".into(),
        node: "n1".into(),
        condition: Condition::Ready,
        hints: Hints { zones: ["z1".into()].into(), ..Hints::default() },
    };
    let slice = Slice {
        key: SliceKey::new("demo", "web-a"),
        service: "web".into(),
        ports: vec![SlicePort { name: "http".into(), port: 80 }],
        endpoints: vec![endpoint],
    };
    let mut spec = vicino_crds::MeshNodeSpec { mesh: "default".into(), ..Default::default() };
    spec.addresses.push("192.0.2.1".into());
    for change in [
        Change::Bootstrap(BOOTSTRAP.into()),
        Change::AllBundles(vec![raw(ROUTE)]),
        Change::Bundle(raw("half")),
        Change::Bundle(RawBundle {
            name: "p".into(),
            kind: BundleKind::Policies { namespace: "demo".into() },
            data: [("closed.yaml".to_owned(), POLICY.to_owned())].into(),
        }),
        Change::Bundle(RawBundle {
            name: "egress".into(),
            kind: BundleKind::Egress,
            data: [("egress.yaml".to_owned(), EGRESS.to_owned())].into(),
        }),
        Change::AllSlices(vec![slice]),
        Change::MeshNode(OwnNode { generation: 7, spec }),
    ] {
        inputs.apply(change, &mut Vec::new());
    }
    inputs
}

#[test]
fn what_was_saved_serves_again_and_only_the_good_documents_were() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(&directory.path().join("not/yet/there"), "pod");
    let inputs = filled();
    assert_eq!(inputs.refused().len(), 1);
    store.save(&Saved::of(&inputs)).unwrap();
    let mut again = Inputs::new(identity());
    for change in store.load(&identity()).unwrap().unwrap().0.into_changes() {
        let mut notices = Vec::new();
        again.apply(change, &mut notices);
        assert_eq!(notices, []);
    }
    assert_eq!(again.missing(), []);
    assert_eq!(again.refused(), []);
    assert_eq!(again.mesh_node(), inputs.mesh_node());
    assert_eq!(again.services(), inputs.services());
    let [before, after] = [&inputs, &again].map(|inputs| build(inputs, &Built::default()).snapshot);
    assert_eq!(before.service("demo", "web"), after.service("demo", "web"));
    assert!(after.service("demo", "web").is_some());
    assert_eq!(before.cluster_domain, after.cluster_domain);
    assert_eq!((before.policies.len(), &before.policies), (1, &after.policies));
    assert!(before.egress.is_open);
    assert_eq!(before.egress, after.egress);
}

#[test]
fn what_a_proxy_without_policies_and_egress_saved_is_read() {
    let mut saved = serde_json::to_value(Saved::of(&filled())).unwrap();
    for newer in ["policies", "egress"] {
        saved.as_object_mut().unwrap().remove(newer).unwrap();
    }
    let saved: Saved = serde_json::from_value(saved).unwrap();
    assert_eq!(saved.into_changes().len(), 4);
}

#[test]
fn nothing_saved_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Store::new(directory.path(), "pod").load(&identity()).unwrap().is_none());
}

#[test]
fn a_file_that_is_damaged_or_not_ours_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path(), "pod");
    store.save(&Saved::of(&filled())).unwrap();
    let path = directory.path().join("inputs");
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let newer = String::from_utf8(good.clone()).unwrap().replace(FORMAT, "vicino-inputs 2").into_bytes();
    for (bytes, why) in [
        (good[..good.len() - 10].to_vec(), "checksum"),
        (flipped, "checksum"),
        (newer, "first line"),
        (b"rubbish".to_vec(), "first line"),
        (Vec::new(), "first line"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = store.load(&identity()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    std::fs::write(&path, good).unwrap();
    let moment = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    store.confirm(moment).unwrap();
    assert_eq!(store.load(&identity()).unwrap().map(|(_, at)| at), Some(moment));
    let other = Identity { node: "n2".into(), ..identity() };
    assert!(store.load(&other).unwrap_err().to_string().contains("of node n1"));
    let later = Identity { mesh_uid: "u2".into(), ..identity() };
    assert!(store.load(&later).unwrap_err().to_string().contains("of an earlier mesh default, UID u1"));
}
