//! Calls out of the mesh, on real nodes: what `spec.egress` allows is reached, and nothing that no pod may call, by address, name, redirect or tunnel.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use vicino_e2e::caller::{Caller, CurlAnswer};
use vicino_e2e::fixture::MESH;
use vicino_e2e::workload::{App, EFFECT_MAX, Space};
use vicino_e2e::{Fixture, mesh, scenario};

const WEB: u16 = 8080;
const SECURE: u16 = 8443;
/// Where a redirect of the server outside leads.
const AWAY: &str = "http://169.254.169.254/latest/meta-data/";

/// A web server outside the cluster: it says what it was asked, and redirects /away.
async fn serve(listener: TcpListener) {
    let mut answers = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        answers.spawn(answer(stream));
        while answers.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        ensure!(head.len() < 16 * 1024, "a head that long is not expected");
    }
    let asked = String::from_utf8_lossy(&head).into_owned();
    let said = if asked.starts_with("GET /away ") {
        format!("HTTP/1.1 302 Found\r\nlocation: {AWAY}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    } else {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{asked}", asked.len())
    };
    stream.write_all(said.as_bytes()).await.context("answer")
}

/// One that speaks TLS.
async fn serve_tls(address: SocketAddr) -> Result<Child> {
    let keys = vicino_e2e::fixture::output_dir().join("egress");
    tokio::fs::create_dir_all(&keys).await?;
    let (certificate, key) = (keys.join("tls.crt"), keys.join("tls.key"));
    let request =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"];
    let mut made = Command::new("openssl");
    made.args(request).args(["-subj", "/CN=outside", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    let made = made.output().await.context("run openssl")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-quiet", "-accept", &address.to_string(), "-cert"]).arg(&certificate);
    server.arg("-key").arg(&key).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    server.kill_on_drop(true).spawn().context("start openssl")
}

/// A name that leads to an address.
fn name_of(ip: IpAddr, first: &str) -> String {
    format!("{first}.{}.ip.test", ip.to_string().replace('.', "-"))
}

/// Says what may be called; the proxies have it when this is through.
async fn allow(fixture: &Fixture, egress: Value) -> Result<()> {
    let is_none = egress.is_null();
    let patch = json!({ "spec": { "egress": egress } }).to_string();
    fixture.kubectl.run(["patch", "servicemesh", MESH, "--type", "merge", "-p", &patch]).await?;
    if is_none {
        let mesh = format!("servicemesh/{MESH}");
        let gone =
            ["get", &mesh, "-o", "jsonpath={.status.conditions[?(@.type=='EgressProgrammed')].status}"];
        return fixture
            .until("what may be called outside to be nothing", EFFECT_MAX, async || {
                Ok(fixture.kubectl.run(gone).await?.trim().is_empty())
            })
            .await;
    }
    mesh::mesh_says(fixture, MESH, "EgressProgrammed", "True", "").await
}

/// By curl through the caller's proxy; a tunnel where curl makes one.
async fn ask(caller: &Caller, more: &[&str], url: &str) -> Result<CurlAnswer> {
    let proxy = format!("http://{}", caller.proxy);
    let fixed = ["--proxy", &proxy, "--insecure", "--globoff", "--path-as-is", "--max-time", "20"];
    caller.curl(&[&fixed[..], more, &[url]].concat()).await
}

/// The first status that the proxy says, and its reason.
fn told(answer: &CurlAnswer) -> (u16, &str) {
    let status = answer.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let reason = answer.head.lines().find_map(|line| line.strip_prefix("vicino-error: ")).unwrap_or("");
    (status, reason.trim())
}

async fn refused(caller: &Caller, url: &str, reasons: &[&str]) -> Result<()> {
    for how in [&[][..], &["--proxytunnel"]] {
        let answer = ask(caller, how, url).await;
        // Of a tunnel that is refused curl says that it failed, after the head.
        let answer = answer.with_context(|| format!("{url} {how:?}"))?;
        let (status, reason) = told(&answer);
        ensure!(status == 403 && reasons.contains(&reason), "{} {url} {how:?}: {answer:?}", caller.node);
    }
    Ok(())
}

async fn reached(caller: &Caller, how: &[&str], url: &str) -> Result<CurlAnswer> {
    let answer = ask(caller, how, url).await?;
    ensure!(answer.status == 200, "{} {url} {how:?}: {answer:?}", caller.node);
    Ok(answer)
}

#[test]
fn what_the_mesh_allows_is_called_outside_and_what_nobody_may_call_never() {
    scenario("egress", async |fixture| {
        let outside = IpAddr::from(fixture.cluster.outside());
        let listener = TcpListener::bind((outside, WEB)).await.context("listen outside")?;
        let mut web = JoinSet::new();
        web.spawn(serve(listener));
        let secure = SocketAddr::new(outside, SECURE);
        let _secure = serve_tls(secure).await?;
        let listens = async || TcpStream::connect(secure).await.map(|_| true).context("connect");
        fixture.until("openssl to listen", EFFECT_MAX, listens).await?;
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "egress", &[App::new("quotes", 1).on(&nodes[1])]).await?;
        let strangers = space.beside("strangers", &[]).await?;
        let api = name_of(outside, "api");
        let url = format!("http://{api}:{WEB}/x");
        refused(&space.callers[0], &url, &["not-in-mesh"]).await?;

        let entry =
            json!({ "hosts": [api], "ports": [WEB, SECURE], "from": [{ "namespaces": [space.name] }] });
        allow(fixture, json!({ "mode": "Deny", "allow": [entry] })).await?;
        by_name(&space, &strangers, (outside, &api)).await?;

        let everywhere = json!({ "ipBlocks": [{ "cidr": "0.0.0.0/0" }, { "cidr": "::/0" }] });
        for egress in [json!({ "mode": "Allow" }), json!({ "mode": "Deny", "allow": [everywhere] })] {
            allow(fixture, egress).await?;
            for caller in &space.callers[..2] {
                reached(caller, &[], &url).await?;
                reached(caller, &[], &format!("http://{outside}:{WEB}/")).await?;
                never(fixture, &space, caller).await?;
                let away = ask(caller, &["--location"], &format!("http://{api}:{WEB}/away")).await?;
                ensure!(away.status == 403 && away.head.contains("never-called"), "a redirect: {away:?}");
            }
        }
        allow(fixture, Value::Null).await?;
        refused(&space.callers[0], &url, &["not-in-mesh"]).await?;
        strangers.leave().await?;
        space.leave().await
    });
}

/// By the name that is allowed, from where it is, and by no other way to the same server.
async fn by_name(space: &Space<'_>, strangers: &Space<'_>, (outside, api): (IpAddr, &str)) -> Result<()> {
    let url = format!("http://{api}:{WEB}/x");
    for caller in &space.callers {
        let plain = reached(caller, &[], &url).await?;
        let seen = String::from_utf8_lossy(&plain.body).to_ascii_lowercase();
        ensure!(seen.starts_with("get /x http/1.1\r\n"), "{seen}");
        ensure!(!seen.contains(&caller.ip.to_string()), "the address of a pod is nobody's business: {seen}");
        reached(caller, &["--proxytunnel"], &url).await?;
        let secure = format!("https://{api}:{SECURE}/");
        reached(caller, &[], &secure).await?;
        // The tunnel is asked for with the name that is allowed, and TLS then names another.
        let to = format!("evil.example.net:{SECURE}:{api}:{SECURE}");
        let other = ask(caller, &["--connect-to", &to], &format!("https://evil.example.net:{SECURE}/")).await;
        if let Ok(answer) = other
            && answer.status != 0
        {
            bail!("{}: another name in TLS went through: {answer:?}", caller.node);
        }
        let elsewhere = name_of(outside, "www");
        for url in [format!("http://{elsewhere}:{WEB}/"), format!("http://{outside}:{WEB}/")] {
            refused(caller, &url, &["not-in-mesh"]).await?;
        }
        refused(caller, &format!("http://{api}:81/"), &["not-in-mesh"]).await?;
    }
    for caller in &strangers.callers {
        refused(caller, &url, &["not-in-mesh"]).await?;
    }
    Ok(())
}

/// The matrix of an open proxy: what pods must not reach through it, by every spelling.
async fn never(fixture: &Fixture, space: &Space<'_>, caller: &Caller) -> Result<()> {
    let mut all: Vec<String> = ["127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"]
        .map(|host| format!("http://{host}:9990/"))
        .into();
    all.extend(
        ["http://2130706433:9990/", "http://0x7f.1:9990/", "http://017700000001:9990/"].map(str::to_owned),
    );
    all.extend(
        ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[fe80::1]", "2852039166"]
            .map(|host| format!("http://{host}/latest/meta-data/")),
    );
    let mut addresses = vec!["127.0.0.1:9990".parse()?, "169.254.169.254:80".parse()?];
    for node in fixture.cluster.nodes() {
        let ip = IpAddr::from(node.ip);
        addresses.extend([10250, 9991, 4140, 4141].map(|port| SocketAddr::new(ip, port)));
    }
    let api = fixture.kubectl.run([
        "get",
        "endpoints",
        "kubernetes",
        "-o",
        "jsonpath={.subsets[0].addresses[0].ip}",
    ]);
    addresses.push(SocketAddr::new(api.await?.trim().parse()?, 6443));
    let service =
        fixture.kubectl.run(["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]).await?;
    addresses.push(SocketAddr::new(service.trim().parse()?, 443));
    let pod = space.callers.iter().find(|other| other.ip != caller.ip && other.node == caller.node);
    let pod = pod.unwrap_or(caller);
    addresses.push(SocketAddr::new(pod.ip, 8080));
    for address in addresses {
        all.push(format!("http://{address}/"));
        all.push(format!("http://{}:{}/", name_of(address.ip(), "x"), address.port()));
    }
    for url in &all {
        refused(caller, url, &["never-called", "not-in-mesh"]).await?;
    }
    Ok(())
}
