//! `vicino check`: is everything well, and what to do where it is not; [`facts`] asks, [`findings`] judges, this shows.

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep};

use super::arguments::{CheckOptions, Global};
use super::cluster::Cluster;
use super::output::{self, Format};
use super::{Answer, Error};

mod facts;
mod findings;

/// Pause before another look, while something fails and there is time.
const PAUSE: Duration = Duration::from_secs(1);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warning,
    /// Does not work.
    Failure,
}

impl Verdict {
    fn mark(self) -> char {
        match self {
            Self::Ok => '√',
            Self::Warning => '‼',
            Self::Failure => '×',
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What part of the mesh: `kubernetes`, `kinds`, `operator`, `admission`, `meshes`, `egress`, `nodes`, `identity`, `namespaces`, `routes`, `policies`.
    area: &'static str,
    /// What was looked at.
    subject: String,
    verdict: Verdict,
    /// How it is.
    detail: String,
    /// What to do; empty when nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    todo: String,
}

impl Finding {
    fn ok(area: &'static str, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            area,
            subject: subject.into(),
            verdict: Verdict::Ok,
            detail: detail.into(),
            todo: String::new(),
        }
    }

    fn warning(self, detail: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, detail: detail.into(), todo: todo.into(), ..self }
    }

    fn failure(self, detail: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failure, detail: detail.into(), todo: todo.into(), ..self }
    }
}

/// Runs `vicino check`: looks again until nothing fails or the time is over.
pub async fn run(global: &Global, options: &CheckOptions) -> Result<Answer, Error> {
    let cluster = Cluster::connect(global).await?;
    let end = Instant::now() + options.wait;
    loop {
        let facts = facts::gather(&cluster).await;
        let findings = findings::judge(&facts, Timestamp::now());
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Failure);
        if !failed || Instant::now() + PAUSE > end {
            return Ok(Answer { text: show(&findings, global.output), notes: Vec::new(), found: failed });
        }
        sleep(PAUSE).await;
    }
}

fn show(findings: &[Finding], format: Format) -> String {
    let failures = || findings.iter().filter(|finding| finding.verdict == Verdict::Failure).count();
    let structured = || serde_json::json!({ "ok": failures() == 0, "findings": findings });
    match format {
        Format::Json => output::json(&structured()),
        Format::Yaml => output::yaml(&structured()),
        Format::Name => {
            let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failure);
            output::lines(failed.map(|finding| format!("{}/{}", finding.area, finding.subject)))
        }
        Format::Table | Format::Wide => {
            output::lines(findings.iter().map(line).chain([summary(findings, failures())]))
        }
    }
}

fn line(finding: &Finding) -> String {
    let Finding { area, subject, verdict, detail, todo } = finding;
    let todo = if todo.is_empty() { String::new() } else { format!(" → {todo}") };
    format!("{} {area:<10}  {subject}: {detail}{todo}", verdict.mark())
}

fn summary(findings: &[Finding], failures: usize) -> String {
    let warnings = findings.iter().filter(|finding| finding.verdict == Verdict::Warning).count();
    match (failures, warnings) {
        (0, 0) => "everything is well".to_owned(),
        (0, warnings) => format!("everything works; {warnings} to look at (‼)"),
        (failures, 0) => format!("{failures} failed (×)"),
        (failures, warnings) => format!("{failures} failed (×), {warnings} to look at (‼)"),
    }
}

#[cfg(test)]
mod tests;
