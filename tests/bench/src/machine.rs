//! What the figures were measured on: processor, kernel, versions of the peers.

use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;

use crate::prepare::Tools;

/// The machine and the programs of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Program and what it says of its version, or why it is missing.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This one.
    pub fn here(tools: &Tools) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let versions = [
            ("vicino", &tools.vicino, "--version"),
            ("haproxy", &tools.haproxy, "-v"),
            ("envoy", &tools.envoy, "--version"),
            ("nginx", &tools.nginx, "-v"),
            ("wrk", &tools.wrk, "-v"),
        ];
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_mib(&read("/proc/meminfo")).unwrap_or_default(),
            versions: versions.map(|(name, path, flag)| (name.to_owned(), version(path, flag))).into(),
        }
    }
}

fn version(program: &Result<PathBuf, String>, flag: &str) -> String {
    let path = match program {
        Ok(path) => path,
        Err(reason) => return format!("missing: {reason}"),
    };
    let Ok(out) = Command::new(path).arg(flag).output() else { return "cannot be started".to_owned() };
    // nginx and wrk write it to stderr; Envoy begins with an empty line.
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("says nothing").to_owned();
    short(&line, &path.to_string_lossy())
}

/// Without the program's own path, links and copyright.
fn short(line: &str, path: &str) -> String {
    let line = line.replace(path, "");
    let end = ["http", "Copyright", "version: "].map(|s| line.find(s));
    match end {
        [_, _, Some(at)] => line[at + "version: ".len()..].trim().to_owned(),
        [Some(at), ..] | [_, Some(at), _] => line[..at].trim_end_matches([' ', '-']).trim().to_owned(),
        _ => line.trim().to_owned(),
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_what_people_would_say() {
        let said = |line| short(line, "/c/envoy-1.40.0");
        assert_eq!(
            said("/c/envoy-1.40.0  version: dea5/1.40.0/Clean/RELEASE/BoringSSL"),
            "dea5/1.40.0/Clean/RELEASE/BoringSSL"
        );
        assert_eq!(
            said("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"),
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17"
        );
        assert_eq!(
            said("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer"),
            "wrk debian/4.1.0-3+b2 [epoll]"
        );
        assert_eq!(said("nginx version: nginx/1.22.1"), "nginx/1.22.1");
        assert_eq!(said("vicino-proxy 0.1.0"), "vicino-proxy 0.1.0");
    }

    #[test]
    fn the_processor_and_the_memory_are_found() {
        assert_eq!(cpu_model("processor : 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(memory_mib("MemTotal:       25165824 kB\n"), Some(24576));
        assert_eq!(cpu_model(""), None);
    }
}
