//! What can be asked of the command line: flags, their defaults and their help; no effects.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::output::Format;

/// Looks at Vicino, a service mesh with one proxy per node: is it well, what does it route, what would a change do.
///
/// It changes nothing. Exit code: 0; 1 when something was found (check: a failure; diff: a difference; render: an object
/// that is not accepted; policy test: a case that does not hold); 2 when the command itself failed.
#[derive(Clone, Debug, Parser)]
#[command(name = "vicino", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Arguments {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command, as kubectl has them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Kubeconfig file; else $KUBECONFIG, ~/.kube/config, the pod's own account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; else its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace; else that of the context
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(long, short = 'A', global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Format,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say whether everything is well, and what to do where it is not
    Check(CheckOptions),
    /// List routes, with the nodes that serve them (-o wide)
    Routes(RoutesOptions),
    /// List the authority, its roots, and the certificates that each node has (--node, -o wide: each of them)
    Identity(IdentityOptions),
    /// Print the objects that the operator would apply, from files or from the cluster as it is
    Render(RenderOptions),
    /// Show what the operator would change: now, or once files were applied
    Diff(DiffOptions),
    /// Say what a call would get, and why: the same function decides that serves calls
    Explain(ExplainOptions),
    /// List policies, or test them
    Policy {
        /// What to do
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Print the versions of this command, the operator and the proxies
    Version(VersionOptions),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// `check`
#[derive(Args, Clone, Debug)]
pub struct CheckOptions {
    /// How long to go on while something fails, e.g. 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub wait: Duration,
}

/// `routes`
#[derive(Args, Clone, Debug, Default)]
pub struct RoutesOptions {
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `identity`
#[derive(Args, Clone, Debug, Default)]
pub struct IdentityOptions {
    /// Only this node, with each of its certificates
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// Where manifests are.
#[derive(Args, Clone, Debug, Default)]
pub struct FileOptions {
    /// Manifests, YAML or JSON: a file, a folder with all below it, or - for standard input
    #[arg(long, short, value_name = "PATH")]
    pub filename: Vec<PathBuf>,
    /// Image of proxies whose mesh names none; else the operator's own setting
    #[arg(long, value_name = "IMAGE")]
    pub proxy_image: Option<String>,
}

/// `render`
#[derive(Args, Clone, Debug, Default)]
pub struct RenderOptions {
    /// Files; none renders the cluster as it is.
    #[command(flatten)]
    pub files: FileOptions,
}

/// `diff`
#[derive(Args, Clone, Debug, Default)]
pub struct DiffOptions {
    /// Files that would be applied; none shows what the operator has still to do.
    #[command(flatten)]
    pub files: FileOptions,
}

/// `explain`
#[derive(Args, Clone, Debug, Default)]
pub struct ExplainOptions {
    /// The call: a method (else GET) and a URL, e.g. `GET http://quotes/today?short=1`
    #[arg(value_names = ["METHOD", "URL"], num_args = 1..=2, required = true)]
    pub request: Vec<String>,
    /// A header field of the call
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub header: Vec<String>,
    /// Namespace of the caller, or namespace/name of its pod or service account: short names are looked up there, policies judge it
    #[arg(long, value_name = "NAMESPACE")]
    pub from: Option<String>,
    /// The caller's mesh, where there are several
    #[arg(long, value_name = "NAME")]
    pub mesh: Option<String>,
    /// Ask the proxy of this node, as a caller there, instead of the API: by what it serves now, with the calls that its pods have. Needs get and create on pods/portforward in the namespace vicino-proxy
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Files; none explains the cluster as it is.
    #[command(flatten)]
    pub files: FileOptions,
    /// Compare the cluster as it is with what it would be once the files were applied
    #[arg(long, requires = "filename")]
    pub compare: bool,
    /// Compare these manifests, as they were, with those of --filename; asks no cluster
    #[arg(long, value_name = "PATH", requires = "filename", conflicts_with = "compare")]
    pub compare_with: Vec<PathBuf>,
}

/// `policy`
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show policies: what they are about, what their rules do, where they are in force, what they were against
    List(PolicyListOptions),
    /// Run a table of expectations against policies in files; asks no cluster. Exit code 1 when one does not hold
    Test(PolicyTestOptions),
}

/// `policy list`
#[derive(Args, Clone, Debug, Default)]
pub struct PolicyListOptions {
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `policy test`
#[derive(Args, Clone, Debug, Default)]
pub struct PolicyTestOptions {
    /// Manifests (MeshPolicies, Services, …) and PolicyTests: a file, a folder with all below it, or - for standard input
    #[arg(long, short, value_name = "PATH", required = true)]
    pub filename: Vec<PathBuf>,
}

/// `version`
#[derive(Args, Clone, Debug, Default)]
pub struct VersionOptions {
    /// Only that of this command; asks no cluster
    #[arg(long)]
    pub client: bool,
}

/// Shells that there are completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

impl Shell {
    /// What writes its script.
    pub fn generator(self) -> clap_complete::Shell {
        match self {
            Self::Bash => clap_complete::Shell::Bash,
            Self::Zsh => clap_complete::Shell::Zsh,
            Self::Fish => clap_complete::Shell::Fish,
        }
    }
}

/// A number of seconds, or numbers with the units `h`, `m`, `s`, largest first: `90`, `90s`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    const SECONDS_MAX: u64 = 24 * 3600;
    let wrong = || format!("{text:?} is not a duration: write 30s, 5m or 1m30s, at most 24h");
    if let Ok(seconds) = text.parse::<u64>() {
        return if seconds <= SECONDS_MAX { Ok(Duration::from_secs(seconds)) } else { Err(wrong()) };
    }
    let (mut total, mut rest) = (0u64, text);
    for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let number = number.parse::<u64>().map_err(|_| wrong())?;
            total = number.checked_mul(factor).and_then(|n| n.checked_add(total)).ok_or_else(wrong)?;
            rest = after;
        }
    }
    if rest.is_empty() && !text.is_empty() && total <= SECONDS_MAX {
        Ok(Duration::from_secs(total))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("90", 90), ("30s", 30), ("5m", 300), ("1m30s", 90), ("1h", 3600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5x", "30s1m", "-1s", "1.5s", "25h", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
