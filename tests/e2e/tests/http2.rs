//! HTTP/2 and gRPC, on the whole way of a call, with clients and servers that are not ours: gRPC's own, curl, h2load.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use vicino_e2e::caller::Caller;
use vicino_e2e::mesh::programmed;
use vicino_e2e::scenario;
use vicino_e2e::workload::{App, EFFECT_MAX, Space, grpc, list};

/// Each of two pods is called at least once, unless chance is against it in one of 10^30 runs.
const SHARE_CALLS_MAX: usize = 100;

/// The applications of `quotes` speak HTTP/1.1, and here the Service says so.
const OLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: old}
spec:
  selector: {app: quotes}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
";

/// No rule is about other services than this one, which is UNIMPLEMENTED to gRPC.
const RULES: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: near}
spec:
  rules:
  - matches: [{grpc: {service: grpc.testing.TestService}}]
  - matches: [{grpc: {service: grpc.testing.TestService, method: UnaryCall}}]
    fault: {abort: {statusCode: 403}}
";

/// gRPC's interoperability tests (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>): unary calls and every kind of
/// stream, deadlines, cancellation, metadata, trailers and statuses.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "status_code_and_message",
    "special_status_message",
];

#[test]
fn grpc_and_http2_are_carried() {
    scenario("http2", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let space = Space::new(fixture, "http2", &[App::new("quotes", 2)]).await?;
        let grpc = [grpc("near", here), grpc("far", there)].concat();
        space.apply(&list(&grpc)).await?;
        space.apply(OLD).await?;
        programmed(fixture, &space.name, "old").await?;
        space.reachable("old").await?;
        for name in ["near", "far"] {
            space.pods_ready(name, 1).await?;
            programmed(fixture, &space.name, name).await?;
            let said = ["get", "meshroute", name, "--output", "jsonpath={.status.protocol}"];
            ensure!(space.kubectl(&said).await? == "HTTP/2", "the port of {name} is named grpc");
        }
        let caller = space.caller(here);
        for name in ["near", "far"] {
            grpc_answers(fixture, caller, name).await?;
            for case in CASES {
                caller.grpc(name, case).await?;
            }
        }
        space.apply(RULES).await?;
        programmed(fixture, &space.name, "near").await?;
        for case in ["empty_unary", "ping_pong", "unimplemented_service"] {
            caller.grpc("near", case).await?;
        }
        let refused = caller.grpc("near", "large_unary").await.err().map(|error| format!("{error:#}"));
        ensure!(
            refused.as_ref().is_some_and(|said| said.contains("PermissionDenied")),
            "403 of a rule is PermissionDenied to gRPC: {refused:?}"
        );
        http2_reaches_applications_of_http1(caller).await?;
        own_answers_are_understood(caller).await?;
        space.leave().await
    });
}

/// An endpoint may be in force a moment after its pod is ready.
async fn grpc_answers(fixture: &vicino_e2e::fixture::Fixture, caller: &Caller, name: &str) -> Result<()> {
    let what = format!("gRPC calls to {name}");
    fixture.until(&what, EFFECT_MAX, async || Ok(caller.grpc(name, "empty_unary").await.is_ok())).await
}

async fn http2_reaches_applications_of_http1(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let knows = ["--http2-prior-knowledge", "--header", "Host: old"];
    let (echo, headers) = (format!("{proxy}/echo"), format!("{proxy}/headers"));
    let echo = [&knows[..], &["--data-binary", "a body", &echo]].concat();
    let answer = caller.curl(&echo).await?;
    ensure!(answer.status == 200 && answer.head.starts_with("HTTP/2 200"), "{answer}");
    ensure!(answer.header("x-node").is_some(), "an application answered: {answer}");
    // One connection, and yet each stream goes where there is room: both pods have their share.
    let answered = caller.h2load("old", "/healthz", (500, 1)).await?;
    ensure!(answered == 500, "of 500 calls {answered} were answered with 2xx");
    let mut pods = BTreeSet::new();
    for _ in 0..SHARE_CALLS_MAX {
        let answer = caller.curl(&[&knows[..], &[&headers]].concat()).await?;
        pods.extend(answer.header("x-pod").map(str::to_owned));
        if pods.len() == 2 {
            return Ok(());
        }
    }
    bail!("{SHARE_CALLS_MAX} calls went to {pods:?} only")
}

async fn own_answers_are_understood(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}/", caller.proxy);
    let nobody = ["--http2-prior-knowledge", "--header", "Host: nobody", &proxy];
    let answer = caller.curl(&nobody).await?;
    ensure!(answer.status == 404 && answer.header("vicino-error") == Some("no-such-service"), "{answer}");
    let grpc = [&nobody[..], &["--header", "content-type: application/grpc", "--data-binary", ""]].concat();
    let answer = caller.curl(&grpc).await?;
    ensure!(answer.status == 200 && answer.header("grpc-status") == Some("12"), "{answer}");
    Ok(())
}
