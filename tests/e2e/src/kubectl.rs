//! Runs kubectl against one cluster, bounded; judges nothing but whether it succeeded.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// No command takes longer.
const COMMAND_SECONDS_MAX: Duration = Duration::from_mins(5);

/// kubectl, and the cluster that it talks to.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// The kubeconfig; `None` is what the environment says.
    pub kubeconfig: Option<PathBuf>,
}

impl Kubectl {
    /// The command, to be added to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.kill_on_drop(true);
        command
    }

    /// Runs it to its end, whatever it answers.
    pub async fn output<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Output> {
        self.output_with(arguments, "").await
    }

    /// Its standard output; an error with its standard error when it fails.
    pub async fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        succeeded(&self.output_with(arguments, "").await?)
    }

    /// As [`Kubectl::run`], with `input` on standard input.
    pub async fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String> {
        succeeded(&self.output_with(arguments, input).await?)
    }

    /// Applies manifests from memory, as `kubectl apply -f` does.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.run_with(["apply", "-f", "-"], manifests).await
    }

    /// Applies manifests that must be refused; what kubectl says.
    pub async fn apply_refused(&self, manifests: &str) -> Result<String> {
        let output = self.output_with(["apply", "-f", "-"], manifests).await?;
        ensure!(!output.status.success(), "taken although it is invalid:\n{manifests}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// As [`Kubectl::output`], with `input` on standard input.
    pub async fn output_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<Output> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{:?}", command.as_std());
        let mut child = command.spawn().with_context(|| format!("run {shown}"))?;
        let mut pipe = child.stdin.take().expect("stdin is piped");
        let talk = async {
            // A kubectl that refuses its input early says why on its standard error.
            let _ = pipe.write_all(input.as_bytes()).await;
            drop(pipe);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(COMMAND_SECONDS_MAX, talk).await;
        output.with_context(|| format!("{shown}: no end within {COMMAND_SECONDS_MAX:?}"))?.context(shown)
    }
}

fn succeeded(output: &Output) -> Result<String> {
    if !output.status.success() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        bail!("kubectl: {}: {}\n{}", output.status, text(&output.stderr), text(&output.stdout));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
