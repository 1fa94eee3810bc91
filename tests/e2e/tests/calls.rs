//! Calls as applications make them, over the whole way: pod, L1, L2, pod.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use vicino_e2e::caller::{Caller, CurlAnswer};
use vicino_e2e::mesh::programmed;
use vicino_e2e::scenario;
use vicino_e2e::workload::{App, Space, service};

fn here_and_there(fixture: &vicino_e2e::Fixture) -> (String, String) {
    let mut nodes = fixture.nodes().into_iter();
    (nodes.next().expect("three nodes"), nodes.next().expect("three nodes"))
}

#[test]
fn a_call_reaches_pods_of_its_own_and_of_other_nodes() {
    scenario("calls-across-nodes", async |fixture| {
        let (here, there) = here_and_there(fixture);
        let apps = [App::new("near", 2).on(&here), App::new("far", 2).on(&there), App::new("quotes", 3)];
        let space = Space::new(fixture, "calls", &apps).await?;
        let caller = space.caller(&here);
        for (name, node) in [("near", &here), ("far", &there)] {
            let answer = caller.get(&format!("http://{name}/")).await?;
            ensure!(answer.status() == 200, "{name}: {answer:?}");
            ensure!(answer.headers()["x-node"].to_str()? == node, "{name} answered from another node");
        }
        each_pod_gets_calls(caller, "quotes", 3).await?;
        each_form_of_the_name_works(&space, caller).await?;
        the_way_is_told(caller, &here, &there).await?;
        space.leave().await
    });
}

/// L1 balances over nodes, L2 over its pods: with one pod on each node, each is called.
async fn each_pod_gets_calls(caller: &Caller, name: &str, pods: usize) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let answer = caller.get(&format!("http://{name}/status?code=204")).await?;
        ensure!(answer.status() == 204, "{answer:?}");
        seen.insert(answer.headers()["x-pod"].to_str()?.to_owned());
        if seen.len() == pods {
            return Ok(());
        }
    }
    anyhow::bail!("200 calls reached only {seen:?}")
}

/// Names resolve in the caller's namespace; every form is curl's, through `http_proxy`, by Host alone, and by CONNECT.
async fn each_form_of_the_name_works(space: &Space<'_>, caller: &Caller) -> Result<()> {
    let namespace = &space.name;
    let proxy = format!("http://{}", caller.proxy);
    let names = [
        "far".to_owned(),
        format!("far.{namespace}"),
        format!("far.{namespace}.svc"),
        format!("far.{namespace}.svc.cluster.local"),
        format!("far.{namespace}.svc.cluster.local:80"),
        "FAR:80".to_owned(),
    ];
    for name in names {
        let url = format!("http://{name}/headers");
        let absolute = caller.curl(&["--proxy", &proxy, &url]).await?;
        ensure!(absolute.status == 200, "absolute-form {name}: {absolute}");
        let host = format!("Host: {name}");
        let by_host = caller.curl(&["--header", &host, &format!("{proxy}/headers")]).await?;
        ensure!(by_host.status == 200, "Host {name}: {by_host}");
        let tunnel = caller.curl(&["--proxytunnel", "--proxy", &proxy, &url]).await?;
        ensure!(tunnel.status == 200, "CONNECT {name}: {tunnel}");
        for (how, answer) in [("absolute-form", &absolute), ("Host", &by_host), ("CONNECT", &tunnel)] {
            let arrived: Value =
                serde_json::from_slice(&answer.body).with_context(|| format!("{how}: {answer}"))?;
            ensure!(arrived["target"] == "/headers", "{how} {name} arrived as {arrived}");
        }
    }
    Ok(())
}

/// `vicino-debug: path` asks for the way of a call.
async fn the_way_is_told(caller: &Caller, here: &str, there: &str) -> Result<()> {
    let answer = caller.get_with("http://far/", &[("vicino-debug", "path")]).await?;
    let path = answer.headers().get("vicino-path").context("no vicino-path")?.to_str()?;
    let (first, last) = (path.find(here), path.rfind(there));
    ensure!(first.is_some() && last.is_some() && first < last, "from {here} to {there}, not {path}");
    let answer = caller.get("http://far/").await?;
    ensure!(!answer.headers().contains_key("vicino-path"), "told without being asked");
    Ok(())
}

#[test]
fn what_cannot_be_delivered_says_why() {
    scenario("calls-refused", async |fixture| {
        let (here, there) = here_and_there(fixture);
        let space = Space::new(fixture, "refused", &[App::new("far", 1).on(&there)]).await?;
        space.apply(&service("empty").to_string()).await?;
        programmed(fixture, &space.name, "empty").await?;
        let caller = space.caller(&here);
        for (url, status, reason) in [
            ("http://missing/", 404, "no-such-service"),
            ("http://far.elsewhere/", 404, "no-such-service"),
            ("http://far:81/", 404, "no-such-port"),
            ("http://empty/", 503, "no-endpoint"),
            ("http://www.example.com/", 403, "not-in-mesh"),
            ("http://169.254.169.254/latest/meta-data/", 403, "not-in-mesh"),
            ("http://127.0.0.1:9990/", 403, "not-in-mesh"),
        ] {
            let answer = caller.get(url).await?;
            let said =
                answer.headers().get("vicino-error").and_then(|v| v.to_str().ok()).unwrap_or("nothing");
            ensure!(answer.status() == status && said == reason, "{url}: {} {said}", answer.status());
        }
        only_neighbours_are_served(fixture, &space, &here, &there).await?;
        space.leave().await
    });
}

/// A pod of another node gets 403 with a reason, and so does whoever is no pod.
async fn only_neighbours_are_served(
    fixture: &vicino_e2e::Fixture,
    space: &Space<'_>,
    here: &str,
    there: &str,
) -> Result<()> {
    let foreign = space.caller(there).asking(space.caller(here).proxy.ip());
    let answer = foreign.get("http://far/").await?;
    ensure!(answer.status() == 403, "a pod of {there} asks L1 of {here}: {answer:?}");
    ensure!(answer.headers()["vicino-error"] == "not-a-neighbour", "{answer:?}");
    let url = format!("http://{}/", space.caller(here).proxy);
    let host = format!("Host: far.{}", space.name);
    let arguments = ["--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"];
    let arguments = arguments.into_iter().chain(["--header", &host, &url]);
    let output = fixture.cluster.in_node(there, "curl", arguments).await?;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(status == "403", "the node {there} itself asks L1 of {here}: {status}");
    Ok(())
}

#[test]
fn bodies_stream_both_ways_and_headers_are_handled_as_rfc_9110_says() {
    scenario("calls-http", async |fixture| {
        let (here, there) = here_and_there(fixture);
        let apps = [App::new("far", 1).on(&there), App::new("near", 1).on(&here)];
        let space = Space::new(fixture, "http", &apps).await?;
        let caller = space.caller(&here);
        for name in ["near", "far"] {
            speaks_http1(&space, name).await?;
            twenty_megabytes_come_back(caller, name).await?;
            trailers_come_back(caller, name).await?;
            headers_are_handled(caller, name).await?;
            claims_are_nobodys(caller, name).await?;
            websockets_talk(caller, name).await?;
        }
        what_smuggles_is_refused(caller).await?;
        space.leave().await
    });
}

/// Whatever callers speak: of a port that may speak either, the caller's choice is the application's.
async fn speaks_http1(space: &Space<'_>, name: &str) -> Result<()> {
    let route = format!(
        "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: {name}}}
spec: {{ports: [{{port: 80, protocol: HTTP/1.1}}]}}
"
    );
    space.apply(&route).await?;
    programmed(space.fixture, &space.name, name).await
}

/// With a length and in chunks, what is echoed is what was sent.
async fn twenty_megabytes_come_back(caller: &Caller, name: &str) -> Result<()> {
    let file = vicino_e2e::fixture::output_dir().join("twenty-megabytes");
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes)?;
    let proxy = format!("http://{}", caller.proxy);
    let (url, upload) = (format!("http://{name}/echo"), file.display().to_string());
    for extra in ["Content-Type: application/octet-stream", "Transfer-Encoding: chunked"] {
        let sent =
            ["--proxy", &proxy, "--header", "Expect:", "--header", extra, "--upload-file", &upload, &url];
        let answer = caller.curl(&sent).await?;
        ensure!(answer.status == 200, "{extra}: {} {}", answer.status, answer.head);
        ensure!(answer.body == bytes, "{extra}: {} bytes came back, not the same", answer.body.len());
    }
    std::fs::remove_file(&file)?;
    let answer =
        caller.curl(&["--proxy", &proxy, &format!("http://{name}/size?bytes=20000000&chunked=true")]).await?;
    ensure!(answer.body.len() == 20_000_000, "a response of 20 MB in chunks has {} bytes", answer.body.len());
    Ok(())
}

async fn trailers_come_back(caller: &Caller, name: &str) -> Result<()> {
    let request = format!(
        "POST http://{name}/echo HTTP/1.1\r\nHost: {name}\r\nTE: trailers\r\nConnection: TE, close\r\nTrailer: x-sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"
    );
    let answer = caller.raw(request.as_bytes(), |_| false).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("5\r\nhello\r\n"), "{answer}");
    ensure!(answer.to_lowercase().contains("0\r\nx-sum: 5\r\n"), "the trailer is lost: {answer}");
    Ok(())
}

/// A WebSocket library at both ends, messages of every size, a proper close; without the key the application refuses as ever.
async fn websockets_talk(caller: &Caller, name: &str) -> Result<()> {
    let mut messages = vec![Message::text("hello"), Message::text(""), Message::binary(vec![7; 1_000_000])];
    messages.extend((0..200).map(|i| Message::text(format!("message {i}"))));
    let heard = caller.websocket(&format!("ws://{name}/ws"), messages.clone()).await?;
    ensure!(heard == messages, "{name}: {} messages came back", heard.len());
    let refused = caller.get(&format!("http://{name}/ws")).await?;
    ensure!(refused.status() == 400, "{refused:?}");
    Ok(())
}

/// What is meant for the next hop stays there, what names our own business is not the caller's to write, and the way is told.
async fn headers_are_handled(caller: &Caller, name: &str) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let mut arguments = vec!["--proxy".to_owned(), proxy, format!("http://{name}/headers")];
    for header in [
        "Connection: x-secret, keep-alive",
        "X-Secret: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic eA==",
        "Proxy-Connection: keep-alive",
        "X-Application: stays",
    ] {
        arguments.extend(["--header".to_owned(), header.to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = caller.curl(&[&arguments[..], &claims()].concat()).await?;
    ensure!(answer.status == 200, "{answer}");
    let arrived: Value = serde_json::from_slice(&answer.body)?;
    let value = |name: &str| field(&arrived, name);
    for header in ["x-secret", "keep-alive", "proxy-authorization", "proxy-connection", "vicino-debug"] {
        ensure!(value(header).is_empty(), "{header} was forwarded: {arrived}");
    }
    no_claim_arrives(&arrived)?;
    ensure!(value("x-application") == "stays" && value("host") == name, "{arrived}");
    ensure!(value("via").contains("1.1 vicino"), "no Via: {arrived}");
    ensure!(value("x-forwarded-for").contains(&caller.ip.to_string()), "no X-Forwarded-For: {arrived}");
    the_answer_has_a_via(&answer)
}

/// What only the mesh may say of a caller, said by a caller.
const CLAIMS: [&str; 5] = [
    "Vicino-Whatever: 1",
    "VICINO-IDENTITY: spiffe://cluster.local/ns/demo/sa/web",
    "vicino-upgrade: websocket",
    "X-Forwarded-Client-Cert: By=me",
    "Forwarded: for=192.0.2.1;by=192.0.2.2",
];

fn claims() -> Vec<&'static str> {
    CLAIMS.iter().flat_map(|claim| ["--header", claim]).collect()
}

/// A field of the request as the application has it.
fn field(arrived: &Value, name: &str) -> String {
    let headers = arrived["headers"].as_array().into_iter().flatten();
    headers.filter(|h| h[0] == name).filter_map(|h| h[1].as_str()).collect::<Vec<_>>().join(", ")
}

fn no_claim_arrives(arrived: &Value) -> Result<()> {
    for claim in CLAIMS {
        let (name, value) = claim.split_once(": ").context("a field")?;
        let said = field(arrived, &name.to_lowercase());
        ensure!(!said.contains(value), "{claim} was forwarded: {arrived}");
    }
    Ok(())
}

/// In whichever way a call comes: with an absolute URL, through a tunnel, and in HTTP/2.
async fn claims_are_nobodys(caller: &Caller, name: &str) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let (named, direct) = (format!("http://{name}/headers"), format!("http://{}/headers", caller.proxy));
    let host = format!("Host: {name}");
    let ways: [(&str, Vec<&str>); 3] = [
        ("absolute", vec!["--proxy", &proxy, &named]),
        ("tunnel", vec!["--proxytunnel", "--proxy", &proxy, &named]),
        ("HTTP/2", vec!["--http2-prior-knowledge", "--header", &host, &direct]),
    ];
    for (way, arguments) in ways {
        let answer = caller.curl(&[&claims()[..], &arguments].concat()).await.context(way)?;
        ensure!(answer.status == 200, "{way}: {answer}");
        no_claim_arrives(&serde_json::from_slice(&answer.body)?).context(way)?;
    }
    for twin in ["x_forwarded_client_cert: By=me", "x_forwarded_for: 192.0.2.1", "vicino_route: a=b"] {
        let answer = caller.curl(&["--proxy", &proxy, "--header", twin, &named]).await?;
        ensure!(answer.status == 400, "{twin}: {answer}");
    }
    Ok(())
}

fn the_answer_has_a_via(answer: &CurlAnswer) -> Result<()> {
    ensure!(answer.header("via").is_some_and(|via| via.contains("1.1 vicino")), "{answer}");
    ensure!(answer.header("x-pod").is_some(), "the application's own headers stay: {answer}");
    Ok(())
}

/// Each of these would be read in two ways by two parsers in a row: it gets 400 with a reason, once, and the connection ends.
async fn what_smuggles_is_refused(caller: &Caller) -> Result<()> {
    let cases: [(&str, &[u8]); 14] = [
        ("length and chunks", b"POST /echo HTTP/1.1\r\nHost: far\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", b"POST /echo HTTP/1.1\r\nHost: far\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        ("a signed length", b"POST /echo HTTP/1.1\r\nHost: far\r\nContent-Length: +4\r\n\r\nabcd"),
        ("two codings", b"POST /echo HTTP/1.1\r\nHost: far\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("an odd coding", b"POST /echo HTTP/1.1\r\nHost: far\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunked is not last", b"POST /echo HTTP/1.1\r\nHost: far\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("space before colon", b"GET / HTTP/1.1\r\nHost: far\r\nTransfer-Encoding : chunked\r\n\r\n"),
        ("a folded line", b"GET / HTTP/1.1\r\nHost: far\r\nX-A: 1\r\n 2\r\n\r\n"),
        ("a bare LF", b"GET / HTTP/1.1\r\nHost: far\nX-A: 1\r\n\r\n"),
        ("a bare CR", b"GET / HTTP/1.1\r\nHost: far\r\nX-A: 1\r2\r\n\r\n"),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: far\r\nHost: near\r\n\r\n"),
        ("no Host", b"GET / HTTP/1.1\r\nX-A: 1\r\n\r\n"),
        ("a twin of our headers", b"GET / HTTP/1.1\r\nHost: far\r\nvicino_debug: path\r\n\r\n"),
        ("a chunk size that is no number", b"POST /echo HTTP/1.1\r\nHost: far\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ];
    for (what, bytes) in cases {
        let followed = [bytes, b"GET /smuggled HTTP/1.1\r\nHost: far\r\n\r\n"].concat();
        let answer = caller.raw(&followed, |_| false).await.context(what)?;
        let answers = answer.matches("HTTP/1.1 ").count();
        ensure!(answer.starts_with("HTTP/1.1 400 ") && answers == 1, "{what}: {answer}");
        ensure!(answer.to_lowercase().contains("\r\nvicino-error: "), "{what}: no reason: {answer}");
    }
    Ok(())
}
