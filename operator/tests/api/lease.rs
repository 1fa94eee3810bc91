//! One leader at a time, and no wait when it goes in peace.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vicino_operator::lease::Candidate;

use crate::cluster::Cluster;

#[tokio::test]
async fn a_second_candidate_waits_until_the_first_one_releases() {
    let cluster = Cluster::new("lease").await;
    let namespace = &cluster.name;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{vicino.dev/api-test: '1'}}}}\n"
        ))
        .await;
    let candidate =
        |name: &str| Candidate::new(cluster.client.clone(), namespace, name.to_owned(), Timestamp::now);
    let (mut first, mut second, stop) = (candidate("first"), candidate("second"), CancellationToken::new());
    assert!(first.acquire(&stop).await);
    let waited = timeout(Duration::from_secs(5), second.acquire(&stop)).await;
    assert!(waited.is_err(), "two leaders");

    let began = Instant::now();
    first.release().await;
    let acquired = timeout(Duration::from_secs(10), second.acquire(&stop)).await;
    assert_eq!(acquired, Ok(true));
    assert!(began.elapsed() < Duration::from_secs(10), "a released lease need not expire");

    // A holder whose lease is gone and then somebody else's must not go on.
    let leases =
        kube::Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(cluster.client.clone(), namespace);
    assert_eq!(leases.list(&ListParams::default()).await.unwrap().items.len(), 1);
    leases.delete("vicino-operator", &DeleteParams::default()).await.unwrap();
    let mut third = candidate("third");
    assert!(third.acquire(&stop).await);
    let held = timeout(Duration::from_secs(10), second.hold(&stop)).await.unwrap();
    assert!(held.is_err(), "the second leads although the third does");
}
