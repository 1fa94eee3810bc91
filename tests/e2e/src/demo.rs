//! `make demo`: from nothing to a mesh with an application in it, and what came of its calls; waits are bounded, and
//! whatever was started stays for the next run.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use vicino_cluster::Cluster;
use vicino_cluster::images::Profile;
use vicino_cluster::progress::Progress;
use vicino_crds::names;

use crate::kubectl::Kubectl;
use crate::{boot, install};

mod current;
mod page;

/// Nodes of the demo's cluster.
const NODES: u8 = 3;
/// The demo's namespace and its services, as config/demo has them.
const NAMESPACE: &str = "demo";
const SERVICES: [&str; 4] = ["authors", "quotes", "ratings", "web"];
/// Nothing is taken that does not come by mutual TLS.
const STRICT: &str = r#"{"spec":{"identity":{"mode":"Strict"}}}"#;
/// Calls that are made.
const CALLS: &str = "500";

const MESH_READY_MAX: Duration = Duration::from_mins(2);
const ROLLOUT_SECONDS_MAX: &str = "--timeout=120s";
const ROUTES_MAX: Duration = Duration::from_mins(1);

/// Shows the mesh on a real Kubernetes of three nodes on this machine, or on the cluster that KUBECONFIG names.
#[derive(Parser, Debug)]
#[command(name = "vicino-demo", version, about)]
pub struct Options {
    /// What to do; without a word: up.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// `current` uses the cluster that KUBECONFIG names instead of booting one.
    #[arg(long, env = "CLUSTER", default_value = "", global = true)]
    pub cluster: String,
    /// Name of the cluster that is booted.
    #[arg(long, env = "VICINO_CLUSTER", default_value = "vicino", global = true)]
    pub name: String,
    /// Build the images quickly instead of well: for work on the mesh itself.
    #[arg(long, global = true)]
    pub dev: bool,
}

/// What to do.
#[derive(Subcommand, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Boot what is missing, install what is missing, call, and show.
    Up,
    /// Take the cluster away, or, from the current one, what the demo put there.
    Down,
}

/// Does it. Ctrl-C ends it at once and leaves what was started.
pub async fn run(options: Options) -> Result<ExitCode> {
    boot::show_progress();
    let current = match options.cluster.as_str() {
        "" => false,
        "current" => true,
        other => bail!("CLUSTER is {other:?}: say CLUSTER=current, or nothing to have a cluster booted"),
    };
    let work = async {
        match (options.command.unwrap_or(Command::Up), current) {
            (Command::Up, false) => up(&own(&options).await?, false).await,
            (Command::Up, true) => up(&current::cluster().await?, true).await,
            (Command::Down, false) => down(&options.name).await,
            (Command::Down, true) => current::remove(&current::cluster().await?).await,
        }
    };
    tokio::select! {
        done = work => done.map(|()| ExitCode::SUCCESS),
        pressed = tokio::signal::ctrl_c() => {
            pressed.context("listen for Ctrl-C")?;
            say("\nInterrupted. What was started stays: `make demo` goes on from there, `make demo-down` removes it.")?;
            Ok(ExitCode::from(130))
        }
    }
}

async fn own(options: &Options) -> Result<Kubectl> {
    let profile = if options.dev { Profile::Dev } else { Profile::Release };
    let cluster = boot::cluster(&options.name, (NODES, false), Some(profile)).await?;
    Ok(Kubectl { program: cluster.kubectl_path(), kubeconfig: Some(cluster.kubeconfig_path()) })
}

async fn down(name: &str) -> Result<()> {
    let there = Cluster::remove(name).await?;
    say(if there { "The demo's cluster is gone." } else { "There is no demo cluster." })
}

async fn up(kubectl: &Kubectl, current: bool) -> Result<()> {
    let progress = Progress::new();
    install(kubectl, &progress).await?;
    let calls = call(kubectl, &["http://web/", "--count", CALLS]).await.context("call the application")?;
    let page = call(kubectl, &["http://web/?path=true", "--path"]).await.context("call the application")?;
    progress.say(format!("made {CALLS} calls"));
    say("\n$ kubectl get servicemeshes,meshroutes,meshnodes -A")?;
    say(&kubectl.run(["get", "servicemeshes,meshroutes,meshnodes", "-A"]).await?)?;
    say("One call, and the calls that it caused:")?;
    say(&page::shown(&page)?)?;
    say(&calls)?;
    tour(kubectl).await?;
    say(&next_steps(kubectl, current))
}

/// What the mesh does for calls beyond carrying them; config/tour is there while it lasts.
async fn tour(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(["apply", "-k", &install::config("tour")]).await.context("apply config/tour")?;
    let rollout = ["rollout", "status", "deployment/quotes-canary", "-n", NAMESPACE, ROLLOUT_SECONDS_MAX];
    kubectl.run(rollout).await.context("wait for the canary")?;
    routes_programmed(kubectl).await?;
    say("Then `kubectl apply -k config/tour`: a MeshRoute for quotes.")?;
    for (title, arguments) in [
        ("A canary gets one call of ten:", &["http://quotes/", "--count", "300", "--pods"][..]),
        ("Every fifth call fails at its pod:", &["http://quotes/flaky?every=5", "--count", "100"]),
        ("The same, repeated by the mesh:", &["http://quotes/flaky?every=5&saved=1", "--count", "100"]),
        ("Three of ten fail on purpose:", &["http://quotes/fault", "--count", "100"]),
    ] {
        say(title)?;
        say(&call(kubectl, arguments).await?)?;
    }
    say("Pods take one call at a time, and one of them is busy for five seconds: nobody waits for it.")?;
    let busy = call(kubectl, &["http://quotes/slow?ms=5000", "--count", "2", "--concurrency", "1"]);
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        call(kubectl, &["http://quotes/flaky?every=1000000", "--count", "200", "--concurrency", "2"]).await
    };
    let (busy, others) = tokio::try_join!(busy, others)?;
    say(&format!("{others}beside\n{busy}"))?;
    let gone = ["delete", "-k", &install::config("tour"), "--wait=false"];
    kubectl.run(gone).await.context("delete config/tour")?;
    policy(kubectl).await
}

/// Who may call what; the policy is there while it lasts.
async fn policy(kubectl: &Kubectl) -> Result<()> {
    let sample = install::config("samples/meshpolicy.yaml");
    kubectl.run(["apply", "-f", &sample]).await.context("apply the policy")?;
    let seconds = format!("--timeout={}s", ROUTES_MAX.as_secs());
    let wait = ["wait", "-n", NAMESPACE, "--for=condition=Programmed", "meshpolicy/quotes", &seconds];
    kubectl.run(wait).await.context("wait for the policy")?;
    say(
        "Then `kubectl apply -f config/samples/meshpolicy.yaml`: of demo alone, to read, and nothing below /admin.",
    )?;
    for url in ["http://quotes/", "http://quotes/x/../admin"] {
        say(&format!("{url}:"))?;
        say(&call(kubectl, &[url]).await?)?;
    }
    let selector = format!("{}={}", names::LABEL_MESH, crate::fixture::MESH);
    let logs = ["logs", "-n", names::PROXY_NAMESPACE, "-l", &selector, "--since=1m", "--tail=-1"];
    let logs = kubectl.run(logs).await.context("read the proxies' logs")?;
    let refusal = logs.lines().rfind(|line| line.contains("call refused by policy"));
    let refusal = refusal.context("no proxy has logged that a policy refused a call")?;
    say(&format!("and in the log of the proxy that refused it, who called, and the rule:\n{refusal}\n"))?;
    kubectl.run(["delete", "-f", &sample]).await.context("delete the policy").map(drop)
}

async fn install(kubectl: &Kubectl, progress: &Progress) -> Result<()> {
    install::operator(kubectl).await?;
    progress.say("operator available: kubectl apply -k config/default");
    install::mesh(kubectl).await?;
    let strict = ["patch", "servicemesh", crate::fixture::MESH, "--type=merge", "--patch", STRICT];
    kubectl.run(strict).await.context("make the mesh strict")?;
    kubectl.run(["apply", "-k", &install::config("demo")]).await.context("apply config/demo")?;
    install::mesh_ready(kubectl, crate::fixture::MESH, MESH_READY_MAX).await?;
    progress.say("mesh Ready: kubectl apply -f config/samples/servicemesh.yaml");
    progress.say(format!("and strict: kubectl patch servicemesh default --type=merge --patch '{STRICT}'"));
    for service in SERVICES {
        let deployment = format!("deployment/{service}");
        let rollout = ["rollout", "status", &deployment, "-n", NAMESPACE, ROLLOUT_SECONDS_MAX];
        kubectl.run(rollout).await.with_context(|| format!("wait for {deployment}"))?;
    }
    progress.say("application ready: kubectl apply -k config/demo");
    routes_programmed(kubectl).await?;
    progress.say(format!(
        "all routes Programmed: kubectl wait -n {NAMESPACE} --for=condition=Programmed meshroute --all"
    ));
    Ok(())
}

/// Waits until each Service has a route, and each route is Programmed.
async fn routes_programmed(kubectl: &Kubectl) -> Result<()> {
    vicino_cluster::wait::until("a MeshRoute for each Service", ROUTES_MAX, async || {
        let names = kubectl.run(["get", "meshroutes", "-n", NAMESPACE, "-o", "name"]).await?;
        Ok(SERVICES.iter().all(|service| names.lines().any(|name| name.ends_with(&format!("/{service}")))))
    })
    .await?;
    let seconds = format!("--timeout={}s", ROUTES_MAX.as_secs());
    let wait = ["wait", "-n", NAMESPACE, "--for=condition=Programmed", "meshroutes", "--all", &seconds];
    kubectl.run(wait).await.context("wait for the routes").map(drop)
}

/// Calls from a pod of `web`, as that application does.
async fn call(kubectl: &Kubectl, arguments: &[&str]) -> Result<String> {
    let exec = ["exec", "-n", NAMESPACE, "deployment/web", "--", "vicino-sample", "call"];
    let output = kubectl.output(exec.iter().chain(arguments)).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Calls that failed are part of what is shown; no calls at all are not.
    if text.is_empty() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(text)
}

fn next_steps(kubectl: &Kubectl, current: bool) -> String {
    let mut text = "To go on:\n".to_owned();
    if let Some(path) = &kubectl.kubeconfig {
        let folder = kubectl.program.parent().map(PathBuf::from).unwrap_or_default();
        let _ = writeln!(text, "  export KUBECONFIG={}", path.display());
        let _ = writeln!(text, "  export PATH={}:$PATH   # its kubectl", folder.display());
    }
    text += "  kubectl get vicino -A -o wide
  kubectl explain servicemesh.spec
  kubectl exec -n demo deployment/web -- vicino-sample call http://quotes/ --path
  kubectl exec -n demo deployment/web -- vicino-sample call http://quotes/ --count 10000
  kubectl scale -n demo deployment/quotes --replicas=8
  kubectl apply -f config/samples/meshroute.yaml && kubectl wait -n demo --for=condition=Programmed meshroute/quotes
";
    text += if current { "  CLUSTER=current make demo-down" } else { "  make demo-down" };
    text
}

fn say(text: &str) -> Result<()> {
    writeln!(stdout(), "{text}").context("write to standard output")
}
