//! Protocols that are no HTTP, through tunnels, with servers and clients of other people: Redis, SSH, and a server that greets first.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vicino_e2e::caller::Caller;
use vicino_e2e::mesh::programmed;
use vicino_e2e::workload::{App, EFFECT_MAX, Space, container};
use vicino_e2e::{netns, scenario};

/// One run of a client takes no longer.
const RUN_MAX: Duration = Duration::from_mins(1);
/// Where a caller's tunnels to Redis begin.
const LOCAL_PORT: &str = "16379";

/// `redis` says what it is; of `shell` and `mail` nothing is said.
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
";

/// A program in a pod's network namespace, for as long as this lives.
fn start(netns: &std::path::Path, program: &str, arguments: &[&str]) -> Result<Child> {
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
        let greets = "SYSTEM:echo 220-ready; read line; echo 221-bye";
        let _servers = [
            start(&host, "redis-server", &redis)?,
            start(
                &host,
                "/usr/sbin/dropbear",
                &["-F", "-E", "-w", "-s", "-p", "2222", "-r", &key, "-P", &format!("{keys}/pid")],
            )?,
            start(&host, "socat", &["TCP-LISTEN:2525,fork,reuseaddr", greets])?,
        ];
        space.apply(SERVICE).await?;
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
                let (_, said) = run(netns::command(&caller.netns, "socat").args([
                    "-T5",
                    "-,ignoreeof",
                    &proxy_of(caller, 25),
                ]))
                .await?;
                ensure!(said.contains("220-ready"), "{}: {said}", caller.node);
            }
        }
        std::fs::remove_dir_all(&keys).context("remove what the servers left")?;
        space.leave().await
    });
}

/// A folder of its own.
fn tempfile() -> Result<String> {
    let folder = std::env::temp_dir().join(format!("vicino-e2e-tcp-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder.display().to_string())
}
