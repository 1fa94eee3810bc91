//! Protocols that are no HTTP, through tunnels, with servers and clients of other people: Redis, SSH, TLS, and a server that greets first.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vicino_e2e::caller::Caller;
use vicino_e2e::mesh::programmed;
use vicino_e2e::workload::{App, EFFECT_MAX, Space, container};
use vicino_e2e::{Fixture, netns, scenario};

/// One run of a client takes no longer.
const RUN_MAX: Duration = Duration::from_mins(3);
/// Where a caller's tunnels to Redis begin.
const LOCAL_PORT: &str = "16379";

/// `redis` says what it is; of `shell`, `mail` and `secure` nothing is said, and of `plain` the MeshRoute says that it is not looked at.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: host}
  ports:
  - {name: redis, port: 6379, targetPort: 6379}
  - {name: shell, port: 22, targetPort: 2222}
  - {name: mail, port: 25, targetPort: 2525}
  - {name: secure, port: 443, targetPort: 8443}
  - {name: web, port: 80, targetPort: 8080}
  - {name: plain, port: 81, targetPort: 8080}
";
const ROUTE: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: server}
spec: {ports: [{port: 81, protocol: TCP}]}
";

/// A program in a pod's network namespace, for as long as this lives.
fn start(netns: &Path, program: &str, arguments: &[&str]) -> Result<Child> {
    let mut command = netns::command(netns, program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("start {program}"))
}

/// What a client said on both of its outputs, and whether it was content.
async fn run(command: &mut Command) -> Result<(bool, String)> {
    let output =
        timeout(RUN_MAX, command.stdin(Stdio::null()).output()).await.context("it takes too long")??;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn proxy_of(caller: &Caller, port: u16) -> String {
    let (ip, proxy) = (caller.proxy.ip(), caller.proxy.port());
    format!("PROXY:{ip}:server:{port},proxyport={proxy}")
}

#[test]
fn other_protocols_are_passed_through() {
    scenario("tcp", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "tcp", &[App::new("host", 1).on(&nodes[1])]).await?;
        let pods = fixture.pods(&space.name, "app=host").await?;
        let host = netns::of_container(&container(pods.first().context("one pod")?)?)?;
        let keys = tempfile()?;
        let key = format!("{keys}/key");
        let made = run(Command::new("dropbearkey").args(["-t", "ed25519", "-f", &key])).await?;
        ensure!(made.0, "{}", made.1);
        let redis = ["--port", "6379", "--save", "", "--protected-mode", "no", "--dir", &keys];
        let (certificate, private) = (format!("{keys}/tls.crt"), format!("{keys}/tls.key"));
        let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"];
        let named = ["-subj", "/CN=server", "-addext", "subjectAltName=DNS:server", "-days", "2"];
        let files = ["-keyout", &private, "-out", &certificate];
        let made = run(Command::new("openssl").args([&request[..], &named, &files].concat())).await?;
        ensure!(made.0, "{}", made.1);
        let greets = "SYSTEM:echo 220-ready; read line; echo 221-bye";
        let _servers = [
            start(&host, "redis-server", &redis)?,
            start(
                &host,
                "/usr/sbin/dropbear",
                &["-F", "-E", "-w", "-s", "-p", "2222", "-r", &key, "-P", &format!("{keys}/pid")],
            )?,
            start(&host, "socat", &["TCP-LISTEN:2525,fork,reuseaddr", greets])?,
            start(
                &host,
                "openssl",
                &["s_server", "-accept", "8443", "-cert", &certificate, "-key", &private, "-www", "-quiet"],
            )?,
        ];
        they_listen(fixture, &host).await?;
        space.apply(SERVICE).await?;
        space.apply(ROUTE).await?;
        programmed(fixture, &space.name, "server").await?;
        for caller in [space.caller(&nodes[0]), space.caller(&nodes[1])] {
            let listen = format!("TCP-LISTEN:{LOCAL_PORT},bind=127.0.0.1,fork,reuseaddr");
            let _tunnels = start(&caller.netns, "socat", &[&listen, &proxy_of(caller, 6379)])?;
            let mut last = String::new();
            fixture
                .until("Redis to answer", EFFECT_MAX, async || {
                    let ping = ["-p", LOCAL_PORT, "PING"];
                    let (is_good, said) = run(netns::command(&caller.netns, "redis-cli").args(ping)).await?;
                    last = said;
                    Ok(is_good && last.trim() == "PONG")
                })
                .await
                .with_context(|| last.clone())?;
            // A tunnel for each connection, and many calls in each.
            let load = ["-p", LOCAL_PORT, "-n", "2000", "-c", "10", "-q", "-t", "set,get"];
            let (is_good, said) = run(netns::command(&caller.netns, "redis-benchmark").args(load)).await?;
            ensure!(is_good && said.contains("SET:") && said.contains("GET:"), "{}: {said}", caller.node);

            // Keys are exchanged through the tunnel, and the server refuses whom it does not know.
            let way = format!("socat - {}", proxy_of(caller, 22));
            let shell = ["-y", "-y", "-T", "-J", &way, "nobody@server", "true"];
            let (is_good, said) = run(netns::command(&caller.netns, "dbclient").args(shell)).await?;
            ensure!(!is_good && said.contains("No auth methods"), "{}: {said}", caller.node);

            // The first tunnel finds out that the server speaks first, the second knows.
            for _ in 0..2 {
                let hears = "SYSTEM:read said; echo $said >&2; echo quit; read said; echo $said >&2";
                let mail = [hears, &proxy_of(caller, 25)];
                let (_, said) = run(netns::command(&caller.netns, "socat").args(mail)).await?;
                ensure!(said.contains("220-ready") && said.contains("221-bye"), "{}: {said}", caller.node);
            }
            tls_is_passed_through(caller, &certificate).await?;
            what_is_no_http_by_the_mesh_route_is_not_looked_at(caller).await?;
        }
        std::fs::remove_dir_all(&keys).context("remove what the servers left")?;
        space.leave().await
    });
}

/// Waits until the servers do.
async fn they_listen(fixture: &Fixture, host: &Path) -> Result<()> {
    fixture
        .until("the servers to listen", EFFECT_MAX, async || {
            let (_, said) = run(netns::command(host, "ss").args(["-Hltn"])).await?;
            Ok([6379, 2222, 2525, 8443].iter().all(|port| said.contains(&format!(":{port} "))))
        })
        .await
}

/// The client sees the server's own certificate.
async fn tls_is_passed_through(caller: &Caller, certificate: &str) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let knows = ["--suppress-connect-headers", "--proxy", &proxy, "--cacert", certificate];
    let answer = caller.curl(&[&knows[..], &["https://server/"]].concat()).await?;
    let page = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200 && page.contains("s_server"), "{}: {answer}", caller.node);
    Ok(())
}

/// One application behind two ports: what is said in a tunnel to the one is HTTP to the mesh.
async fn what_is_no_http_by_the_mesh_route_is_not_looked_at(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    for (port, is_seen) in [(80, true), (81, false)] {
        let url = format!("http://server:{port}/headers");
        let tunnel = ["--suppress-connect-headers", "--proxytunnel", "--proxy", &proxy, &url];
        let answer = caller.curl(&tunnel).await?;
        let has_via = answer.header("via").is_some();
        ensure!(answer.status == 200 && has_via == is_seen, "{} {port}: {answer}", caller.node);
    }
    Ok(())
}

/// A folder of its own.
fn tempfile() -> Result<String> {
    let folder = std::env::temp_dir().join(format!("vicino-e2e-tcp-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder.display().to_string())
}
