//! That every number of the schema is bounded here as it is there, and that what the schema says in CEL is said.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::check;
use crate::rule::{Flaw, check_all};
use crate::{MeshRoute, MeshRouteSpec};

/// Every number that a MeshRoute may say.
const EVERYTHING: &str = "
backends: [{name: a, port: 80, weight: 1}]
ports: [{port: 80, protocol: HTTP}]
overrides: [{name: a, port: 80}]
timeouts: {connectMilliseconds: 1, requestMilliseconds: 1, idleMilliseconds: 1}
affinity: {type: Cookie, name: a, setCookie: {maxAgeSeconds: 1}, maxLoadPercent: 200}
concurrency:
  perPod: 10
  adaptive: {targetMilliseconds: 10, minPerPod: 1}
  queue: {length: 1, timeoutMilliseconds: 1, standingTimeoutMilliseconds: 1}
rateLimit: {requestsPerSecond: 1, burst: 1, key: {type: Header, name: a}}
circuitBreaker: {codes: [500], consecutiveFailures: 1, failurePercent: 1, minimumCalls: 1, ejectionMilliseconds: 100, maxEjectionMilliseconds: 100, maxEjectedPercent: 1}
retry: {attempts: 1, codes: [500], attemptMilliseconds: 1, backoffMilliseconds: 1, budgetPercent: 1, minPerSecond: 1}
hedge: {delayMilliseconds: 1, budgetPercent: 1, minPerSecond: 1}
requeues: 1
rules:
- backends: [{name: a, port: 80, weight: 1}]
  timeouts: {connectMilliseconds: 1, requestMilliseconds: 1, idleMilliseconds: 1}
  rateLimit: {requestsPerSecond: 1, burst: 1}
  retry: {attempts: 1, codes: [500], attemptMilliseconds: 1, backoffMilliseconds: 1, budgetPercent: 1, minPerSecond: 1}
  hedge: {delayMilliseconds: 1, budgetPercent: 1, minPerSecond: 1}
  failureCodes: [500]
  requestMirror: {name: a, port: 80, percent: 1}
  cors: {allowOrigins: ['*'], maxAgeSeconds: 1}
  fault: {delay: {milliseconds: 1, percent: 1}, abort: {statusCode: 500, percent: 1}}
- requestRedirect: {port: 80, statusCode: 301}
- directResponse: {statusCode: 200}
";

fn first_flaw(spec: &Value) -> Result<(), Flaw> {
    let spec: MeshRouteSpec = serde_json::from_value(spec.clone()).unwrap();
    check(&spec).and_then(|()| check_all(&spec.rules))
}

fn spec_schema() -> Value {
    let crd = serde_json::to_value(MeshRoute::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Numbers of a schema, as pointers into what it is about, with `-` for any element of a list.
fn numbers(schema: &Value, at: &str, all: &mut BTreeSet<String>) {
    if schema["type"] == "integer" {
        all.insert(at.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        numbers(property, &format!("{at}/{name}"), all);
    }
    if schema["items"].is_object() {
        numbers(&schema["items"], &format!("{at}/-"), all);
    }
}

/// Numbers of a value, as pointers into it.
fn said(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Number(_) => all.push(at.to_owned()),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| said(value, &format!("{at}/{name}"), all));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| said(value, &format!("{at}/{i}"), all));
        }
        _ => {}
    }
}

/// `/rules/0/retry/attempts` → `rules[0].retry.attempts`; lists of statuses are named whole.
fn path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        match part.parse::<usize>() {
            Ok(_) if path.ends_with("odes") => {}
            Ok(_) => path.extend(["[", part, "]"]),
            Err(_) if path.is_empty() => path.push_str(part),
            Err(_) => path.extend([".", part]),
        }
    }
    path
}

#[test]
fn every_number_is_bounded_as_the_schema_bounds_it() {
    let schema = spec_schema();
    let spec: Value = serde_saphyr::from_str(EVERYTHING).unwrap();
    assert_eq!(first_flaw(&spec), Ok(()));
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    numbers(&schema, "", &mut known);
    said(&spec, "", &mut found);
    let is_index = |part: &str| part.parse::<usize>().is_ok();
    let any = |at: &str| {
        at.split('/').map(|part| if is_index(part) { "-" } else { part }).collect::<Vec<_>>().join("/")
    };
    assert_eq!(found.iter().map(|at| any(at)).collect::<BTreeSet<_>>(), known, "what EVERYTHING says");
    for at in found {
        // Whether a Service has the port is asked of the Service.
        if at.ends_with("/port") && !at.contains("requestRedirect") {
            continue;
        }
        let of_schema = at
            .split('/')
            .skip(1)
            .fold(&schema, |of, part| if is_index(part) { &of["items"] } else { &of["properties"][part] });
        let bound =
            |name: &str| of_schema[name].as_f64().unwrap_or_else(|| panic!("{at} has no {name}")) as i64;
        for wrong in [bound("minimum") - 1, bound("maximum") + 1] {
            let mut spec = spec.clone();
            *spec.pointer_mut(&at).unwrap() = json!(wrong);
            let flaw = first_flaw(&spec).expect_err(&format!("{at}: {wrong}"));
            assert_eq!(flaw.field, path(&at), "{wrong}: {}", flaw.problem);
        }
    }
}

#[test]
fn what_the_schema_says_in_cel_is_said_here() {
    for (yaml, field, part) in [
        ("backends: [{name: a, weight: 0}, {name: b, weight: 0}]", "backends", "above 0"),
        ("backends: [{name: a, weight: -1}, {name: b}]", "backends[0].weight", "0 to 1000000"),
        ("rules: [{}, {backends: [{name: a, weight: 0}]}]", "rules[1].backends", "above 0"),
        (
            "retry: {budgetPercent: 0, minPerSecond: 0}",
            "retry.budgetPercent",
            "without a budget nothing is repeated",
        ),
        (
            "rules: [{retry: {budgetPercent: 0, minPerSecond: 0}}]",
            "rules[0].retry.budgetPercent",
            "retry be left out",
        ),
        (
            "hedge: {delayMilliseconds: 1, budgetPercent: 0, minPerSecond: 0}",
            "hedge.budgetPercent",
            "nothing is hedged",
        ),
        ("retry: {codes: []}", "retry.codes", "1 to 16"),
        (
            "circuitBreaker: {ejectionMilliseconds: 400000}",
            "circuitBreaker.maxEjectionMilliseconds",
            "is 300000, and must not be below",
        ),
        (
            "concurrency: {perPod: 2, adaptive: {targetMilliseconds: 5, minPerPod: 3}}",
            "concurrency.adaptive.minPerPod",
            "above perPod, which is 2",
        ),
        ("affinity: {type: Header}", "affinity.name", "which header"),
        ("affinity: {type: Source, name: a}", "affinity.name", "absent with the type Source"),
        ("affinity: {type: Header, name: a, setCookie: {}}", "affinity.setCookie", "type Cookie"),
        ("rateLimit: {requestsPerSecond: 1, key: {type: Header}}", "rateLimit.key.name", "which header"),
        (
            "rules: [{rateLimit: {requestsPerSecond: 1, key: {type: Source, name: a}}}]",
            "rules[0].rateLimit.key.name",
            "absent",
        ),
        ("rules: [{fault: {}}]", "rules[0].fault", "a delay, an abort, or both"),
        (
            "rules: [{urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}}]",
            "rules[0].urlRewrite.path.replacePrefixMatch",
            "ReplaceFullPath",
        ),
    ] {
        let flaw = first_flaw(&serde_saphyr::from_str(yaml).unwrap()).expect_err(yaml);
        assert_eq!(flaw.field, field, "{yaml}: {}", flaw.problem);
        assert!(flaw.problem.contains(part), "{yaml}: {}", flaw.problem);
    }
}

#[test]
fn weights_that_are_not_all_zero_are_fine() {
    let spec = json!({ "backends": [{ "name": "a", "weight": 0 }, { "name": "b", "weight": 1 }], "rules": [{ "failureCodes": [] }] });
    assert_eq!(first_flaw(&spec), Ok(()));
}
