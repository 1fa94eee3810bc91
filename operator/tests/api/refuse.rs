//! Writes that the API server refuses, or whose answers are lost: tried again in growing pauses, told in statuses, and forgotten once they succeed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::DeleteParams;
use tokio::time::Instant;

use crate::cluster::{Cluster, SOON, condition, until};
use crate::fault::{Break, Fault, FaultProxy, Record};
use crate::operator::Operator;
use crate::programmed::{programmed, proxy as ready_proxy, report};

/// The first pause after a refused write of an object; each further one is twice as long. The operator's own bounds.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The pause after a refused write of a status.
const STATUS_PAUSE: Duration = Duration::from_secs(2);
/// What the refusal with 429 asks for.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Refused attempts by what they were to write.
fn refused(proxy: &FaultProxy, code: u16) -> BTreeMap<String, Vec<Instant>> {
    let mut attempts: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for Record { asked, at, .. } in proxy.log().into_iter().filter(|record| record.code == Some(code)) {
        if asked.changes() {
            let name = format!("{:?} {} {} {}", asked.verb, asked.resource, asked.name, asked.subresource);
            attempts.entry(name).or_default().push(at);
        }
    }
    attempts
}

/// Every pause between two attempts of one thing is long enough; half of it is, since both ends are seen late.
fn assert_patient(attempts: &BTreeMap<String, Vec<Instant>>, code: u16) {
    for (name, times) in attempts {
        for (already, pair) in (0..).zip(times.windows(2)) {
            let wanted =
                if name.ends_with(" status") { STATUS_PAUSE } else { FIRST_PAUSE * 2_u32.pow(already) };
            let wanted = if code == 429 { wanted.max(RETRY_AFTER) } else { wanted };
            let pause = pair[1] - pair[0];
            assert!(pause >= wanted / 2, "{code}: {name} was tried again after {pause:?}, not {wanted:?}");
        }
    }
}

async fn refused_for_a_while(code: u16) {
    let cluster = Cluster::new(&format!("refused-{code}")).await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let _operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges", SOON, async || cluster.converged().await).await;

    proxy.script(move |asked| if asked.changes() { Fault::Refuse(code) } else { Fault::None });
    cluster
        .api("ConfigMap", "vicino-proxy")
        .delete(&format!("vicino-{}", cluster.name), &DeleteParams::default())
        .await
        .unwrap();
    cluster.users_route("web", "{backends: [{name: nobody}]}").await;
    // What is to be written changes all the time, and a condition has turned: no reasons to be less patient.
    let port = Cell::new(1000);
    until("a ConfigMap was refused four times, and a status twice", SOON, async || {
        port.set(port.get() + 1);
        cluster.service("quotes", port.get()).await;
        let refused = refused(&proxy, code);
        let times = |what: &str, at_least: usize| {
            refused.iter().any(|(name, times)| name.contains(what) && times.len() >= at_least)
        };
        times("configmaps", 4) && times("meshroutes web status", 2)
    })
    .await;
    assert_patient(&refused(&proxy, code), code);

    proxy.pass();
    cluster.users_route("web", "{requeues: 2}").await;
    until("everything is written and says so", SOON, async || {
        let port = format!("port: {}", port.get());
        let routes = cluster.routes().await;
        routes.get("quotes.yaml").is_some_and(|yaml| yaml.contains(&port))
            && routes.get("web.yaml").is_some_and(|yaml| yaml.contains("requeues: 2"))
            && cluster.converged().await
            && cluster.generated().await.len() == 12
    })
    .await;
}

#[tokio::test]
async fn conflicts_are_tried_again_with_patience() {
    refused_for_a_while(409).await;
}

#[tokio::test]
async fn an_api_server_that_has_enough_is_spared() {
    refused_for_a_while(429).await;
}

#[tokio::test]
async fn internal_errors_are_tried_again_with_patience() {
    refused_for_a_while(500).await;
}

/// Refuses all writes of a kind.
fn refuse(proxy: &FaultProxy, resource: &'static str) {
    proxy.script(move |asked| {
        if asked.resource == resource && asked.changes() { Fault::Refuse(500) } else { Fault::None }
    });
}

async fn apply_failed(cluster: &Cluster) -> bool {
    let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
    condition(mesh.as_ref(), "Ready") == "False/ApplyFailed"
        && condition(mesh.as_ref(), "Reconciling") == "True/ApplyFailed"
}

#[tokio::test]
async fn a_mesh_says_what_cannot_be_written_until_it_can() {
    let cluster = Cluster::new("missing").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    refuse(&proxy, "clusterrolebindings");
    let operator = Operator::launch(proxy.kubeconfig());
    until("the mesh says what is missing", SOON, async || apply_failed(&cluster).await).await;
    operator.leads(SOON).await;
    // What puts it right is the write alone; no event may help.
    assert!(proxy.break_watches(|_| true, Break::Swallow) > 10);
    proxy.pass();
    until("the mesh says that nothing is missing", SOON, async || cluster.converged().await).await;
}

#[tokio::test]
async fn a_route_whose_change_cannot_be_written_is_not_programmed_and_others_are() {
    let cluster = Cluster::new("unwritten").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let _operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges", SOON, async || cluster.converged().await).await;
    let pods = [ready_proxy(&cluster, 1).await, ready_proxy(&cluster, 2).await];
    let serve = async || {
        report(&cluster, 1, &pods[0]).await;
        report(&cluster, 2, &pods[1]).await;
    };
    let served = async |name| programmed(&cluster, name).await == "True/Programmed \"2/2\"";
    serve().await;
    until("all is served", SOON, async || served("web").await && served("quotes").await).await;

    refuse(&proxy, "configmaps");
    cluster.service("web", 81).await;
    until("mesh and route say that a change cannot be written", SOON, async || {
        apply_failed(&cluster).await && programmed(&cluster, "web").await == "False/ApplyFailed \"0/2\""
    })
    .await;
    assert!(served("quotes").await, "it is served as it is: {}", programmed(&cluster, "quotes").await);

    proxy.pass();
    until("it is written", SOON, async || {
        !apply_failed(&cluster).await && programmed(&cluster, "web").await == "False/Programming \"0/2\""
    })
    .await;
    serve().await;
    until("all is served again", SOON, async || served("web").await && served("quotes").await).await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_to_have_happened() {
    let cluster = Cluster::new("lost").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let mut lost = BTreeSet::new();
    proxy.script(move |asked| {
        // Of each thing the first answer.
        let what = (asked.resource.clone(), asked.name.clone(), asked.subresource.clone());
        let first = asked.changes() && lost.insert(what);
        if first { Fault::Lose } else { Fault::None }
    });
    let operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges all the same", SOON, async || {
        cluster.converged().await && cluster.generated().await.len() == 13
    })
    .await;
    operator.settle().await;
    let mut writes: BTreeMap<_, usize> = BTreeMap::new();
    for record in proxy.log().into_iter().filter(|record| record.asked.changes_object()) {
        *writes.entry((record.asked.resource, record.asked.name)).or_default() += 1;
    }
    assert_eq!(writes.len(), 13);
    assert!(writes.values().all(|times| *times <= 2), "{writes:?}");
}
