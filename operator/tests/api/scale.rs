//! The operator's figures on 2,000 Services and 200 nodes, printed; limits are the ones that the project promises.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::cluster::{Cluster, condition, until};
use crate::operator::Operator;

const SERVICES: usize = 2_000;
const NODES: usize = 200;
const CONVERGED_WITHIN: Duration = Duration::from_mins(1);
/// What is too slow is measured all the same.
const PATIENCE: Duration = Duration::from_mins(5);
const RSS_MIB_MAX: u64 = 200;

#[tokio::test]
#[ignore = "takes minutes; run it with --release"]
async fn two_thousand_services_on_two_hundred_nodes() {
    let cluster = Cluster::new("scale").await;
    cluster.shop().await;
    let began = Instant::now();
    let (services, nodes) = ((3..=SERVICES), (3..=NODES));
    futures::stream::iter(services)
        .for_each_concurrent(16, |i| {
            let cluster = &cluster;
            async move { cluster.service(&format!("service-{i}"), 80).await }
        })
        .await;
    futures::stream::iter(nodes)
        .for_each_concurrent(16, |i| {
            let cluster = &cluster;
            async move { cluster.node(i).await }
        })
        .await;
    println!("made {SERVICES} Services and {NODES} nodes in {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let operator = Operator::start_within(&cluster, PATIENCE).await;
    until("every route is written and says so", PATIENCE, async || {
        let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
        operator.metric("vicino_operator_writes_total", "verb=\"status\"") as usize >= SERVICES
            && mesh.is_some_and(|mesh| mesh.data["status"]["services"] == SERVICES)
    })
    .await;
    let converged = began.elapsed();
    operator.settle().await;
    println!("first convergence {:.1} s, {} writes", converged.as_secs_f64(), operator.writes());
    let rss = rss_mib(operator.pid());
    println!("resident memory {rss} MiB, at most {} MiB", peak_mib(operator.pid()));

    let counts = || {
        ["ConfigMap", "MeshRoute", "ServiceMesh", "MeshNode"]
            .map(|kind| operator.metric("vicino_operator_writes_total", &format!("kind=\"{kind}\"")))
    };
    let before = counts();
    cluster.service("service-7", 81).await;
    let took = until("the change is compiled", Duration::from_secs(10), async || {
        let route = cluster.route("service-7").await;
        route.is_some_and(|route| route.data["status"]["backends"] == "service-7:81")
    })
    .await;
    operator.settle().await;
    let after = counts();
    let written: Vec<_> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    println!(
        "one Service changed: written and in its status after {} ms; ConfigMaps {}, MeshRoute statuses {}, others {}",
        took.as_millis(),
        written[0],
        written[1],
        written[2] + written[3]
    );

    let next = restart(&cluster, operator).await;
    println!("restart: leading again after {:.1} s with {} writes", next.0.as_secs_f64(), next.1);
    assert!(condition(cluster.route("service-9").await.as_ref(), "Accepted") == "True/Accepted");
    assert!(converged < CONVERGED_WITHIN, "{converged:?}");
    assert!(rss < RSS_MIB_MAX, "{rss} MiB");
    assert_eq!(written, [1, 1, 0, 0]);
    assert_eq!(next.1, 0);
}

async fn restart(cluster: &Cluster, operator: Operator) -> (Duration, u64) {
    assert!(operator.terminate());
    let began = Instant::now();
    let next = Operator::start_within(cluster, PATIENCE).await;
    let took = began.elapsed();
    next.settle().await;
    (took, next.writes())
}

fn rss_mib(pid: u32) -> u64 {
    status_mib(pid, "VmRSS:")
}

fn peak_mib(pid: u32) -> u64 {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
