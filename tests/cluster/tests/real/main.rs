//! The harness on a real machine: clusters come up beside each other, break, mend and go without a trace. Needs root and
//! several gigabytes of memory, so it runs on request: `cargo test --package vicino-cluster -- --ignored`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::process::Command;
use tokio::sync::Mutex;
use vicino_cluster::load::Load;
use vicino_cluster::{Cluster, Fault, Options, health, wait};

mod traces;

use traces::traces;

/// Clusters are heavy: the tests of this file take turns.
static TURN: Mutex<()> = Mutex::const_new(());

const PATIENCE: Duration = Duration::from_mins(3);
/// How long what cannot be reached is called, and what can.
const BRIEFLY: Duration = Duration::from_secs(1);
const PATIENTLY: Duration = Duration::from_secs(20);

/// One pod a node, each answering on port 80 with its own name.
const PODS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: echo
  namespace: default
spec:
  selector:
    matchLabels: {app: echo}
  template:
    metadata:
      labels: {app: echo}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: echo
        image: localhost/busybox:1
        command: [sh, -c, "mkdir /w && hostname > /w/index.html && exec httpd -f -p 80 -h /w"]
        readinessProbe:
          httpGet: {path: /, port: 80}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: echo
  namespace: default
spec:
  selector: {app: echo}
  ports:
  - port: 80
"#;

fn options(name: &str, nodes: u8) -> Options {
    Options { name: name.to_owned(), nodes, ..Options::default() }
}

/// The command itself, as a person runs it.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vicino-cluster"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The pod on a node, once it is ready.
async fn pod_on(cluster: &Cluster, node: &str) -> Pod {
    let api: Api<Pod> = Api::default_namespaced(cluster.client().await.unwrap());
    wait::until_some(&format!("a ready pod on {node}"), PATIENCE, async || {
        let pods = api.list(&kube::api::ListParams::default()).await?.items;
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions
                .is_some_and(|all| all.iter().any(|each| each.type_ == "Ready" && each.status == "True"))
        };
        let here = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        Ok(pods.into_iter().find(|pod| here(pod) && ready(pod)))
    })
    .await
    .unwrap()
}

fn ip_of(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap()
}

fn restarts_of(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.unwrap().iter().map(|container| container.restart_count).sum()
}

/// Whether ten requests from a node all get through.
async fn reaches(cluster: &Cluster, node: &str, host: &str, timeout: Duration) -> bool {
    let load = Load {
        target: format!("http://{host}/"),
        via: None,
        rate: 100,
        duration: Duration::from_millis(100),
        timeout,
        ..Load::default()
    };
    let report = cluster.load(node, load).await.unwrap();
    report.ok == report.sent
}

async fn reached(cluster: &Cluster, node: &str, host: &str) {
    let what = format!("{node} to reach {host}");
    wait::until(&what, PATIENCE, async || Ok(reaches(cluster, node, host, BRIEFLY).await)).await.unwrap();
}

async fn api_answers(cluster: &Cluster) -> bool {
    health::api_ready(&cluster.client().await.unwrap()).await
}

/// Which process has a role now: what a restart must change.
fn process(cluster: &Cluster, role: &str) -> String {
    let file = cluster.kubeconfig_path().with_file_name("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    state["processes"][role].to_string()
}

#[tokio::test]
#[ignore = "boots clusters: needs root; run with --ignored"]
async fn two_clusters_live_beside_each_other_break_mend_and_go() {
    let _turn = TURN.lock().await;
    for name in ["t-pair", "t-single"] {
        Cluster::remove(name).await.unwrap();
        traces(name).none();
    }
    let (pair, single) =
        tokio::try_join!(Cluster::up(options("t-pair", 2)), Cluster::up(options("t-single", 1))).unwrap();
    traces("t-pair").some_of_each();
    traces("t-single").some_of_each();

    for cluster in [&pair, &single] {
        cluster.apply(PODS).await.unwrap();
    }
    services_work_and_stay_apart(&pair, &single).await;
    an_up_of_what_runs_is_a_no_op(&single).await;

    // Whatever happens to one cluster, the other does not notice.
    single.down().await.unwrap();
    traces("t-single").none();
    traces("t-pair").some_of_each();
    the_api_server_breaks_and_mends(&pair).await;
    a_node_is_cut_off_and_joins(&pair).await;
    a_node_stops_and_starts(&pair).await;
    a_node_is_killed_and_starts(&pair).await;
    programs_restart_under_their_pods(&pair).await;
    traces("t-pair").some_of_each();

    pair.down().await.unwrap();
    traces("t-pair").none();
    assert!(!Cluster::remove("t-pair").await.unwrap(), "a second down finds nothing and is fine");
}

async fn services_work_and_stay_apart(pair: &Cluster, single: &Cluster) {
    let (far, other) = (pod_on(pair, "node2").await, pod_on(single, "node1").await);
    reached(pair, "node1", &ip_of(&far)).await;
    reached(single, "node1", &ip_of(&other)).await;
    assert!(
        !reaches(single, "node1", &ip_of(&far), BRIEFLY).await,
        "pods of another cluster are out of reach"
    );
    // From inside a pod, by name, through its Service, of which kube-proxy learns by itself.
    for cluster in [pair, single] {
        wait::until("an answer through the Service", PATIENCE, async || {
            let said = cluster.kubectl(["exec", "ds/echo", "--", "wget", "-qO-", "http://echo"]).await?;
            Ok(said.status.success() && said.stdout.starts_with(b"echo-"))
        })
        .await
        .unwrap();
    }
}

async fn an_up_of_what_runs_is_a_no_op(cluster: &Cluster) {
    let before = process(cluster, "kube-apiserver");
    let again = command(&["up", "--name", "t-single", "--nodes", "1"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("runs and is healthy: nothing to do"), "{said}");
    assert_eq!(process(cluster, "kube-apiserver"), before);
    let other = command(&["up", "--name", "t-single", "--nodes", "2"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && said.contains("runs with 1 nodes"), "{said}");
}

async fn the_api_server_breaks_and_mends(cluster: &Cluster) {
    cluster.fault(Fault::FreezeApi).await.unwrap();
    assert!(!api_answers(cluster).await, "a frozen API server answered");
    cluster.fault(Fault::ThawApi).await.unwrap();
    assert!(api_answers(cluster).await);
    cluster.fault(Fault::StopApi).await.unwrap();
    assert!(!api_answers(cluster).await, "a stopped API server answered");
    cluster.fault(Fault::StartApi).await.unwrap();
    for (fault, role) in [(Fault::RestartApi, "kube-apiserver"), (Fault::RestartEtcd, "etcd")] {
        let before = process(cluster, role);
        cluster.fault(fault).await.unwrap();
        assert_ne!(process(cluster, role), before);
        assert!(api_answers(cluster).await);
    }
    pod_on(cluster, "node1").await;
}

async fn a_node_is_cut_off_and_joins(cluster: &Cluster) {
    let pod = pod_on(cluster, "node2").await;
    cluster.fault(Fault::CutNode { node: "node2".into() }).await.unwrap();
    assert!(!reaches(cluster, "node1", &ip_of(&pod), BRIEFLY).await, "a pod behind a pulled cable answered");
    assert!(reaches(cluster, "node2", &ip_of(&pod), PATIENTLY).await, "the pod's own node must not notice");
    cluster.fault(Fault::JoinNode { node: "node2".into() }).await.unwrap();
    reached(cluster, "node1", &ip_of(&pod)).await;
}

async fn a_node_stops_and_starts(cluster: &Cluster) {
    let pod = pod_on(cluster, "node2").await;
    cluster.fault(Fault::StopNode { node: "node2".into() }).await.unwrap();
    assert!(!reaches(cluster, "node1", &ip_of(&pod), BRIEFLY).await);
    assert!(
        reaches(cluster, "node2", &ip_of(&pod), PATIENTLY).await,
        "pods outlive their kubelet and runtime"
    );
    let client = cluster.client().await.unwrap();
    wait::until("node2 to be noticed as gone", PATIENCE, async || {
        Ok(health::node_ready(&client, "node2").await.is_some_and(|state| !state.ready))
    })
    .await
    .unwrap();
    cluster.fault(Fault::StartNode { node: "node2".into() }).await.unwrap();
    let same = pod_on(cluster, "node2").await;
    assert_eq!((same.metadata.uid, restarts_of(&pod)), (pod.metadata.uid.clone(), 0));
    reached(cluster, "node1", &ip_of(&pod)).await;
}

async fn a_node_is_killed_and_starts(cluster: &Cluster) {
    let pod = pod_on(cluster, "node2").await;
    traces("t-pair").some_of_each();
    cluster.fault(Fault::KillNode { node: "node2".into() }).await.unwrap();
    assert!(!reaches(cluster, "node2", &ip_of(&pod), BRIEFLY).await, "a killed node's pod answered");
    cluster.fault(Fault::StartNode { node: "node2".into() }).await.unwrap();
    let what = "the pod of node2 to run again";
    wait::until(what, PATIENCE, async || {
        let pod = pod_on(cluster, "node2").await;
        Ok(reaches(cluster, "node1", &ip_of(&pod), BRIEFLY).await)
    })
    .await
    .unwrap();
}

async fn programs_restart_under_their_pods(cluster: &Cluster) {
    let pod = pod_on(cluster, "node1").await;
    for (fault, role) in [
        (Fault::RestartKubelet { node: "node1".into() }, "node1.kubelet"),
        (Fault::RestartContainerd { node: "node1".into() }, "node1.containerd"),
    ] {
        let before = process(cluster, role);
        cluster.fault(fault).await.unwrap();
        assert_ne!(process(cluster, role), before);
    }
    let same = pod_on(cluster, "node1").await;
    assert_eq!((restarts_of(&same), same.metadata.uid), (restarts_of(&pod), pod.metadata.uid));
}

/// `up` killed half way, early and late: what it made is found and removed all the same.
#[tokio::test]
#[ignore = "boots clusters: needs root; run with --ignored"]
async fn a_crash_leaves_nothing_that_down_does_not_find() {
    let _turn = TURN.lock().await;
    for reached in ["etcd", "node1.kubelet"] {
        Cluster::remove("t-crash").await.unwrap();
        let mut up =
            command(&["up", "--name", "t-crash", "--nodes", "1"]).kill_on_drop(true).spawn().unwrap();
        wait::until(&format!("up to have started {reached}"), PATIENCE, async || {
            assert!(up.try_wait().unwrap().is_none(), "up ended before it could be killed");
            let cluster = Cluster::attach("t-crash").ok();
            Ok(cluster.is_some_and(|cluster| process(&cluster, reached) != "null"))
        })
        .await
        .unwrap();
        up.kill().await.unwrap();
        // What a crash keeps out of the record: the processes are found by their environment.
        forget_processes("t-crash");
        assert!(!traces("t-crash").processes.is_empty());
        let down = command(&["down", "--name", "t-crash"]).output().await.unwrap();
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        traces("t-crash").none();
    }
}

fn forget_processes(name: &str) {
    let file = vicino_cluster::layout::dir_of(name).join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["processes"] = serde_json::json!({});
    std::fs::write(&file, state.to_string()).unwrap();
}
