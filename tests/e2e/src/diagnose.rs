//! After a failure: what the cluster looked like, into files and, in short, onto the terminal; changes nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use crate::fixture::{Fixture, output_dir};

/// Lines of a log that are shown on the terminal; the files have more.
const SHOWN_LINES: usize = 25;

/// What to ask, and whether it is also shown on the terminal.
const QUESTIONS: [(&str, &[&str], bool); 9] = [
    ("meshes", &["get", "servicemeshes,meshroutes,meshnodes", "-A", "-o", "wide"], true),
    ("pods", &["get", "pods", "-A", "-o", "wide"], true),
    ("objects", &["get", "servicemeshes,meshroutes,meshnodes", "-A", "-o", "yaml"], false),
    (
        "workloads",
        &["get", "deployments,daemonsets,services,endpointslices,configmaps", "-A", "-o", "wide"],
        false,
    ),
    ("configmaps", &["get", "configmaps", "-n", "vicino-proxy", "-o", "yaml"], false),
    ("events", &["get", "events", "-A", "--sort-by=.lastTimestamp"], true),
    (
        "operator-log",
        &[
            "logs",
            "-n",
            "vicino-system",
            "-l",
            "app.kubernetes.io/name=vicino-operator",
            "--prefix",
            "--tail=2000",
        ],
        true,
    ),
    (
        "proxy-log",
        &[
            "logs",
            "-n",
            "vicino-proxy",
            "--selector=app.kubernetes.io/name=vicino-proxy",
            "--prefix",
            "--tail=2000",
        ],
        true,
    ),
    ("describe", &["describe", "pods", "-n", "vicino-proxy"], false),
];

/// Writes what `scenario`'s cluster looks like now.
pub async fn dump(fixture: &Fixture, scenario: &str) {
    let folder = output_dir().join(scenario);
    let mut shown = String::new();
    if let Err(error) = fs::create_dir_all(&folder) {
        let _ = writeln!(shown, "no folder {}: {error}", folder.display());
    }
    for (name, question, show) in QUESTIONS {
        let text =
            match fixture.kubectl.output(question.iter().copied().chain(["--request-timeout=10s"])).await {
                Ok(output) => [output.stdout, output.stderr].concat(),
                Err(error) => format!("{error:#}").into_bytes(),
            };
        let text = String::from_utf8_lossy(&text).into_owned();
        if show {
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
            let _ = writeln!(shown, "--- {name}\n  {last}");
        }
        let _ = fs::write(folder.join(format!("{name}.txt")), text);
    }
    let _ = writeln!(shown, "--- all of it is in {}", folder.display());
    let _ = std::io::stderr().write_all(shown.as_bytes());
}
