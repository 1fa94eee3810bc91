//! An API server that takes its time: nobody else gets the Lease meanwhile.

use std::time::Duration;

use crate::cluster::{Cluster, SOON, until};
use crate::fault::{Fault, FaultProxy, Verb};
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
