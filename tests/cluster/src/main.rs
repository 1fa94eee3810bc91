//! The command `vicino-cluster`: parses arguments, calls the library, prints; it decides nothing.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command answers its user")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use vicino_cluster::images::{self, Profile};
use vicino_cluster::load::Load;
use vicino_cluster::progress::Progress;
use vicino_cluster::{Cluster, Fault, Options, health, prepare};

/// A real Kubernetes on this machine: its own control plane, and nodes that are network namespaces.
///
/// Several clusters of different names run beside each other. All state is below /run/vicino; binaries and base images
/// are kept in ~/.cache/vicino (or $VICINO_CACHE). Needs root.
#[derive(Debug, Parser)]
#[command(name = "vicino-cluster", version)]
struct Command {
    /// The cluster's name: 1 to 24 of a-z, 0-9 and -.
    #[arg(long, global = true, default_value = "vicino", env = "VICINO_CLUSTER")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install the Debian packages and build the binaries and base images that clusters need, once.
    Prepare,
    /// Bring a cluster up and wait until it is ready; one that runs and is healthy is left as it is.
    Up {
        /// How many nodes, 1 to 99.
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// Images to have on every node: archives, or names that `images` has built, e.g. vicino-proxy.
        #[arg(long = "image", value_name = "TAR|NAME", num_args = 1..)]
        images: Vec<String>,
        /// Let the API server write an audit log (log/audit.log in the state folder).
        #[arg(long)]
        audit: bool,
    },
    /// End a cluster and remove all that belonged to it, also what a crash left. No such cluster is fine.
    Down,
    /// Say what runs and what does not; exit code 1 when something is wrong.
    Status,
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Run the matching kubectl on the cluster, e.g. `vicino-cluster kubectl -- get pods -A`.
    Kubectl {
        /// kubectl's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command in a node's network namespace, e.g. `vicino-cluster exec node1 -- ip route`.
    Exec {
        /// The node, e.g. node1.
        node: String,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Put images into every node's store.
    LoadImage {
        /// Archives, or names that `images` has built, e.g. vicino-proxy.
        #[arg(required = true, value_name = "TAR|NAME")]
        images: Vec<String>,
    },
    /// Build the product's images with buildah; prints the archives' paths.
    Images {
        /// Which: operator, proxy, sample; none is all.
        targets: Vec<String>,
        /// The cargo profile: release, or dev, which builds faster.
        #[arg(long, default_value = "release", value_parser = parse_profile)]
        profile: Profile,
    },
    /// Send requests at a fixed rate from inside a node and report latency from each request's due time.
    Load(LoadArgs),
    /// Break or mend something; returns when the effect is there.
    #[command(subcommand)]
    Fault(Fault),
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// The node to send from.
    #[arg(long, default_value = "node1")]
    node: String,
    /// Requests per second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how long: seconds, or a number with ms, s or m.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// The URL.
    #[arg(long, default_value = "http://quotes.demo/")]
    target: String,
    /// The proxy to connect to; `none` connects to the target's own host, an IP address.
    #[arg(long, default_value = "127.0.0.1:4140")]
    via: String,
    /// How many requests may be under way at once.
    #[arg(long, default_value_t = 1000)]
    concurrency_max: usize,
    /// How long after its due time a request counts as failed.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_profile(text: &str) -> Result<Profile, String> {
    match text {
        "release" => Ok(Profile::Release),
        "dev" => Ok(Profile::Dev),
        _ => Err("release or dev".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text} does not begin with a whole number"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_mins(number)),
        _ => Err(format!("{unit} is no unit: ms, s or m")),
    }
}

impl LoadArgs {
    fn load(&self) -> Result<Load> {
        let via: Option<SocketAddr> = match self.via.as_str() {
            "none" => None,
            via => Some(via.parse().with_context(|| format!("--via {via} is no address with a port"))?),
        };
        Ok(Load {
            target: self.target.clone(),
            via,
            rate: self.rate,
            duration: self.duration,
            concurrency_max: self.concurrency_max,
            timeout: self.timeout,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_env_filter(tracing_subscriber::EnvFilter::new("off,vicino_cluster=info"))
        .init();
    run(Command::parse()).await.unwrap_or_else(|error| {
        eprintln!("vicino-cluster: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(Command { name, verb }: Command) -> Result<ExitCode> {
    match verb {
        Verb::Prepare => prepare_machine().await?,
        Verb::Up { nodes, images, audit } => {
            Cluster::up(Options { name, nodes, images, audit }).await?;
        }
        Verb::Down => down(&name).await?,
        Verb::Status => return status(&name).await,
        Verb::Kubeconfig => println!("{}", Cluster::attach(&name)?.kubeconfig_path().display()),
        Verb::Kubectl { arguments } => {
            let cluster = Cluster::attach(&name)?;
            return become_status(cluster.kubectl_command().args(arguments)).await;
        }
        Verb::Exec { node, command } => {
            let (program, arguments) = command.split_first().context("no command given")?;
            let cluster = Cluster::attach(&name)?;
            return become_status(cluster.node_command(&node, program)?.args(arguments)).await;
        }
        Verb::LoadImage { images } => load_images(&name, &images).await?,
        Verb::Images { targets, profile } => {
            let progress = Progress::new();
            for archive in images::build_product(profile, &targets, &progress).await? {
                println!("{}", archive.display());
            }
        }
        Verb::Load(arguments) => {
            let cluster = Cluster::attach(&name)?;
            let report = cluster.load(&arguments.node, arguments.load()?).await?;
            if arguments.json {
                println!("{}", serde_json::to_string_pretty(&report).context("write the report")?);
            } else {
                print!("{report}");
            }
        }
        Verb::Fault(fault) => {
            let progress = Progress::new();
            let what = fault.to_string();
            Cluster::attach(&name)?.fault(fault).await?;
            progress.say(format!("done: {what}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn prepare_machine() -> Result<()> {
    let progress = Progress::new();
    let tools = prepare::prepare(&progress).await?;
    progress.say(format!("prepared: {}, {}", tools.kubernetes.display(), tools.images.display()));
    Ok(())
}

async fn down(name: &str) -> Result<()> {
    let progress = Progress::new();
    let removed = Cluster::remove(name).await?;
    progress.say(format!("cluster {name} {}", if removed { "is gone" } else { "was not there" }));
    Ok(())
}

async fn load_images(name: &str, wanted: &[String]) -> Result<()> {
    let progress = Progress::new();
    let tools = prepare::prepare(&progress).await?;
    let cluster = Cluster::attach(name)?;
    for image in wanted {
        let archive = images::find(image, &tools)?;
        cluster.load_image(&archive).await?;
        progress.say(format!("loaded {} into {} nodes", archive.display(), cluster.nodes().len()));
    }
    Ok(())
}

async fn status(name: &str) -> Result<ExitCode> {
    let Ok(cluster) = Cluster::attach(name) else {
        let others = vicino_cluster::names()?;
        bail!("there is no cluster {name}; there are: {}", others.join(", "));
    };
    let health = health::of(&cluster).await;
    let word = |good: bool| if good { "ok" } else { "BAD" };
    println!("{:<32} {}", "API server answers", word(health.api));
    for node in cluster.nodes() {
        let ready = health.nodes.iter().any(|(name, ready)| *name == node.name && *ready == Some(true));
        println!("{:<32} {}", format!("{} {} {} Ready", node.name, node.ip, node.zone), word(ready));
    }
    for (role, runs) in &health.programs {
        println!("{:<32} {}", format!("{role} runs"), word(*runs));
    }
    println!("{:<32} {}", "kubeconfig", cluster.kubeconfig_path().display());
    println!("{:<32} {}", "logs", cluster.log_dir().display());
    Ok(if health.trouble().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a program with this one's input and output, and ends with its status.
async fn become_status(command: &mut tokio::process::Command) -> Result<ExitCode> {
    let status = command.status().await.context("run the program")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
