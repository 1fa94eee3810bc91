//! An API server that takes its time: nobody else gets the Lease meanwhile, and what users do meanwhile is not overlooked.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, SOON, until};
use crate::fault::{Break, Fault, FaultProxy, Record, Verb};
use crate::operator::Operator;

/// How long a write takes. A first convergence is six of them one after the other, more than a Lease may go unrenewed.
const SLOW: Duration = Duration::from_millis(2500);
/// The operator's own bound: a holder that has not renewed for so long has lost the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn slow_writes_do_not_cost_the_lease() {
    let cluster = Cluster::new("slow").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    proxy.script(|asked| {
        if matches!(asked.verb, Verb::Write | Verb::Delete) { Fault::Delay(SLOW) } else { Fault::None }
    });
    let operator = Operator::launch(proxy.kubeconfig());
    let transitions = async || {
        let lease = cluster.api("Lease", "vicino-system").get("vicino-operator").await.unwrap();
        lease.data["spec"]["leaseTransitions"].as_i64()
    };
    until("it leads", SOON, async || operator.metric("vicino_operator_leader", "") == 1).await;
    let before = transitions().await;
    let took = until("it converges", SOON * 3, async || cluster.converged().await).await;
    assert!(took > RENEW_DEADLINE, "{took:?} is too fast to prove anything");
    assert_eq!(operator.metric("vicino_operator_leader", ""), 1, "it leads no longer");
    assert_eq!(transitions().await, before);

    let renewals: Vec<_> =
        proxy.log().into_iter().filter(|record| record.asked.is(Verb::Write, "leases")).collect();
    let longest = renewals.windows(2).map(|pair| pair[1].at - pair[0].at).max();
    assert!(longest.is_some_and(|longest| longest < RENEW_DEADLINE), "{longest:?} between two renewals");
}

#[tokio::test]
async fn what_a_user_changes_while_a_status_is_on_its_way_is_not_overlooked() {
    let cluster = Cluster::new("overtaken").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges", SOON, async || cluster.converged().await).await;
    operator.settle().await;

    // Nothing else may wake it up.
    assert!(proxy.break_watches(|kind| kind != "meshroutes", Break::Swallow) > 10);
    let go_on = CancellationToken::new();
    let until_then = go_on.clone();
    proxy.script(move |asked| {
        let status = asked.resource == "meshroutes" && asked.subresource == "status";
        if status { Fault::Hold(until_then.clone()) } else { Fault::None }
    });
    let unanswered = |record: &Record| record.asked.subresource == "status" && record.code.is_none();
    cluster.users_route("web", "{requeues: 3}").await;
    until("the status about it is on its way", SOON, async || proxy.count(unanswered) == 1).await;
    let seen = proxy.events("meshroutes").passed;
    cluster.users_route("web", "{requeues: 2}").await;
    until("the operator is told of the next change", SOON, async || proxy.events("meshroutes").passed > seen)
        .await;
    go_on.cancel();
    until("that is obeyed, and the status is about it", SOON, async || {
        let web = cluster.route("web").await.unwrap();
        cluster.routes().await["web.yaml"].contains("requeues: 2")
            && web.data["status"]["observedGeneration"] == web.metadata.generation.unwrap()
    })
    .await;
}
