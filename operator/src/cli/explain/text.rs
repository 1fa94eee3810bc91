//! An explanation for people.

use std::fmt::Write;

use vicino_proxy::explain::{Explanation, Faults, Here, Limits, Node, OwnPod, Target, Tested};

/// Columns of what stands before each line.
const LABEL_WIDTH: usize = 13;

pub(super) fn show(explanation: &Explanation) -> String {
    let mut out = Page(String::new());
    let Explanation { method, url, from, .. } = explanation;
    out.0.extend([method, " ", url, ", called from the namespace ", from, "\n\n"]);
    who_and_what(&mut out, explanation);
    if let Some(rule) = &explanation.rule {
        out.line("Rule", &tested(rule));
    }
    out.lines("Policy", explanation.policy.iter().map(ToString::to_string));
    out.lines("Passed over", explanation.passed_over.iter().map(tested));
    if let Some(egress) = &explanation.egress {
        out.line("Egress", &egress.text);
    }
    if let Some(answer) = &explanation.answer {
        let error = if answer.error.is_empty() { String::new() } else { format!(" {}", answer.error) };
        out.line(
            "Answer",
            format!("{}{error}: {}", answer.status, answer.text.trim_end()).trim_end_matches([':', ' ']),
        );
    }
    if let Some(fault) = &explanation.fault {
        out.lines("Fault", faults(fault).into_iter());
    }
    out.lines("Request", explanation.request.iter().cloned());
    out.lines("Response", explanation.response.iter().cloned());
    if let Some(limits) = &explanation.limits {
        out.line("Limits", &said(limits));
    }
    if let Some(rate) = &explanation.rate_limit {
        out.line("Rate limit", rate);
    }
    if let Some(affinity) = &explanation.affinity {
        out.line("Affinity", affinity);
    }
    if let Some(retries) = &explanation.retries {
        out.line("Retries", retries);
    }
    if let Some(hedge) = &explanation.hedge {
        out.line("Hedge", hedge);
    }
    if let Some(failures) = &explanation.failures {
        out.line("Failures", failures);
    }
    if let Some(cors) = &explanation.cors {
        out.line("CORS", cors);
    }
    out.lines("Backends", explanation.backends.iter().flat_map(target));
    if let Some(node) = &explanation.node {
        out.lines("Here", node.backends.iter().flat_map(here));
    }
    if !explanation.overrides.is_empty() {
        let all = explanation.overrides.join(", ");
        out.line("Overrides", &format!("the field vicino-route may ask for {all} instead"));
    }
    if let Some(mirror) = &explanation.mirror {
        out.line("Mirror", mirror);
    }
    out.0
}

/// Who is asked, who calls, and what is called.
fn who_and_what(out: &mut Page, explanation: &Explanation) {
    if let Some(node) = &explanation.node {
        out.line("Node", &asked(node));
        out.line("Caller", &node.caller);
    }
    if let (Some(service), Some(port)) = (&explanation.service, explanation.port) {
        let alias = explanation.alias.as_ref().map(|alias| format!(", for which {alias} is another name"));
        out.line("Service", &format!("{service}, port {port}{}", alias.unwrap_or_default()));
    } else if let Some(alias) = &explanation.alias {
        let leads = "is another name (type ExternalName), and what it stands for is no Service of the mesh, or itself again";
        out.line("Service", &format!("{alias} {leads}"));
    }
    if let Some(protocol) = &explanation.protocol {
        let note = match &**protocol {
            "TCP" => ": tunnels (CONNECT) to it are passed through without a look at what is in them",
            _ => ": pods are spoken to in it, whatever the caller speaks",
        };
        out.line("Protocol", &format!("{protocol}{note}"));
    }
    if let Some(in_force) = &explanation.in_force {
        out.line("In force", in_force);
    }
    if let Some(problem) = &explanation.problem {
        let instead = if explanation.service.is_some() { ", an earlier version is in force" } else { "" };
        out.line("Problem", &format!("the MeshRoute is not accepted{instead}: {problem}"));
    }
}

/// Lines with labels before them.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, text: &str) {
        // A String takes everything.
        let _ = writeln!(self.0, "{label:LABEL_WIDTH$}{text}");
    }

    /// The label stands before the first.
    fn lines(&mut self, label: &str, texts: impl Iterator<Item = String>) {
        for (i, text) in texts.enumerate() {
            self.line(if i == 0 { label } else { "" }, &text);
        }
    }
}

fn asked(node: &Node) -> String {
    let Node { name, version, contract, snapshot, config_age_seconds, .. } = node;
    let age = match config_age_seconds {
        0 => "in step with the API server".to_owned(),
        seconds => format!("API server not heard of for {seconds} s"),
    };
    format!("{name}: proxy {version}, contract {contract}, snapshot {snapshot}, {age}")
}

/// A line of its own, and one for each pod.
fn here(here: &Here) -> Vec<String> {
    let Here { service, port, waiting, waiting_max, pods } = here;
    let count = match pods.len() {
        0 => "no pod on this node".to_owned(),
        1 => "1 pod on this node".to_owned(),
        count => format!("{count} pods on this node"),
    };
    let line = match (waiting, waiting_max) {
        (0, None) => String::new(),
        (waiting, None) => format!(", {waiting} waiting"),
        (waiting, Some(max)) => format!(", {waiting} waiting of {max} that may"),
    };
    std::iter::once(format!("{service}:{port}, {count}{line}")).chain(pods.iter().map(own_pod)).collect()
}

fn own_pod(pod: &OwnPod) -> String {
    let OwnPod { name, address, in_flight, limit, left_out_milliseconds } = pod;
    let name = name.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
    let limit = limit.map(|limit| format!(" of {limit} at a time")).unwrap_or_default();
    let left_out = match left_out_milliseconds {
        None => String::new(),
        Some(0) => ", left out after failures until a call has tried it".to_owned(),
        Some(milliseconds) => format!(", left out after failures for {milliseconds} ms more"),
    };
    format!("  {name}{address}, {in_flight} in flight{limit}{left_out}")
}

fn tested(tested: &Tested) -> String {
    let Tested { index, name, r#match, because } = tested;
    let name = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    format!("rules[{index}]{name} matches[{match}]: {because}")
}

fn faults(fault: &Faults) -> Vec<String> {
    let mut all = Vec::new();
    if fault.delay_milliseconds > 0 {
        all.push(format!("{} of 100 calls wait for {} ms", fault.delay_percent, fault.delay_milliseconds));
    }
    if fault.abort_status > 0 {
        all.push(format!("{} of 100 calls are answered with {}", fault.abort_percent, fault.abort_status));
    }
    all
}

fn said(limits: &Limits) -> String {
    let request = match limits.request_milliseconds {
        0 => "no time limit".to_owned(),
        milliseconds => format!("{milliseconds} ms in all"),
    };
    let idle = match limits.idle_milliseconds {
        0 => String::new(),
        milliseconds => format!(", {milliseconds} ms of silence"),
    };
    let Limits { connect_milliseconds, requeues, .. } = limits;
    let times = if *requeues == 1 { "once".to_owned() } else { format!("{requeues} times") };
    format!("{request}{idle}, {connect_milliseconds} ms to connect, requeued {times} at most")
}

/// A line of its own, and one for each thing that the backend's own route says and each change to heads.
fn target(target: &Target) -> Vec<String> {
    let Target { service, port, per_million, nodes, .. } = target;
    let count: u32 = nodes.iter().map(|(_, pods)| pods).sum();
    let where_ = match &nodes[..] {
        [] => "no ready endpoint".to_owned(),
        nodes => {
            let nodes: Vec<_> = nodes.iter().map(|(node, pods)| format!("{node} {pods}")).collect();
            format!("{count} ready: {}", nodes.join(", "))
        }
    };
    let local = if target.node_local { ", those of the caller's node only" } else { "" };
    let limit = match (target.per_pod_min, target.per_pod) {
        (Some(least), Some(most)) => format!(", {least} to {most} calls at a time each, as they are quick"),
        (None, Some(limit)) => format!(", {limit} calls at a time each"),
        (_, None) => String::new(),
    };
    let first = format!("{:>7}  {service}:{port}, {where_}{limit}{local}", share(*per_million));
    std::iter::once(first).chain(own(target).iter().map(|line| format!("{:9}{line}", ""))).collect()
}

/// In percent, with one decimal at least and no more than it takes.
fn share(per_million: u64) -> String {
    let decimals = format!("{:04}", per_million % 10_000);
    let (first, rest) = decimals.split_at(1);
    format!("{}.{first}{} %", per_million / 10_000, rest.trim_end_matches('0'))
}

/// Each thing by itself. What a line of its own has said already is left out by name, so that nothing new is forgotten.
fn own(target: &Target) -> Vec<String> {
    let Target {
        service: _,
        port: _,
        per_million: _,
        node_local: _,
        changes,
        protocol,
        per_pod: _,
        per_pod_min: _,
        per_pod_target_milliseconds: quick,
        queue,
        breaker,
        balancing,
        affinity,
        placing,
        strict,
        nodes: _,
    } = target;
    let quick = quick.map(|milliseconds| format!("on average within {milliseconds} ms"));
    let strict = strict.then(|| "calls without TLS between nodes are refused".to_owned());
    let all = [
        ("protocol", protocol),
        ("load balancer", balancing),
        ("affinity", affinity),
        ("quick", &quick),
        ("queue", queue),
        ("left out", breaker),
        ("from its node", placing),
        ("strict", &strict),
    ];
    let said = all.into_iter().filter_map(|(label, text)| Some(format!("{label}: {}", text.as_ref()?)));
    said.chain(changes.iter().cloned()).collect()
}
