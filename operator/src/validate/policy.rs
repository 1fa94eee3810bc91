//! Verdicts on policies: MeshPolicy + what it is about → compiled policy, or what is wrong; looks at no generated object.
//!
//! A policy about a Service that is not there is compiled like any other. It says so in its status, but a Service that is made
//! anew, or made after its policy, is never without it.

use std::collections::{BTreeMap, BTreeSet};

use vicino_crds::contract::{self, CompiledBackend, CompiledPolicy, DOCUMENT_BYTES_MAX};
use vicino_crds::names;
use vicino_crds::policy::{LabelOperator, MeshPolicySpec, PodTarget, PolicyTarget, ServiceTarget, check};
use vicino_crds::rule::{PathMatch, PathMatchType};
use vicino_engine::policy::Readings;
use vicino_proxy::config::build::selector;

use super::{MeshVerdict, Outcome, PolicyVerdict, Problem, RouteVerdict, list};
use crate::world::{Key, Policy, World};

/// Every MeshPolicy.
pub(super) fn all(
    world: &World,
    meshes: &BTreeMap<String, MeshVerdict>,
    routes: &BTreeMap<Key, RouteVerdict>,
) -> BTreeMap<Key, PolicyVerdict> {
    let verdict = |key: &Key, policy: &Policy| {
        let target = policy.spec.as_ref().map(|spec| spec.target.clone()).unwrap_or_default();
        let (mesh, outcome) = match mesh_of(world, meshes, key) {
            Ok((mesh, None)) => (Some(mesh), judge(key, policy)),
            Ok((mesh, Some(problem))) => (Some(mesh), Outcome::Kept(problem)),
            Err(problem) => (None, Outcome::Nothing(problem)),
        };
        let missing = match (&outcome, &target.service) {
            (Outcome::Compiled(_), Some(service)) => missing(world, &key.namespace, service),
            _ => None,
        };
        let targets = count(world, routes, &key.namespace, &target);
        let unjudged = match &outcome {
            Outcome::Compiled(_) => unjudged(world, routes, &key.namespace, &target),
            _ => Vec::new(),
        };
        PolicyVerdict { mesh, outcome, missing, unjudged, target: said(&target), targets }
    };
    world.policies.iter().map(|(key, row)| (key.clone(), verdict(key, &row.value))).collect()
}

/// The mesh by whose proxies a policy is enforced, and why nothing new can be said to these.
fn mesh_of(
    world: &World,
    meshes: &BTreeMap<String, MeshVerdict>,
    key: &Key,
) -> Result<(String, Option<Problem>), Problem> {
    let namespace = world.namespaces.get(&Key::cluster(&key.namespace)).map(|row| &row.value);
    if namespace.is_some_and(|namespace| namespace.deleting) {
        let message = "the namespace is being deleted".to_owned();
        return Err(Problem::new("NamespaceTerminating", "", message));
    }
    let Some(mesh) = namespace.and_then(|namespace| namespace.mesh.clone()) else {
        let message = format!(
            "the namespace is in no mesh, so that no proxy enforces its policies: label it with {}: <name of a ServiceMesh>",
            names::LABEL_MESH
        );
        return Err(Problem::new("NamespaceNotMeshed", "", message));
    };
    let why = match meshes.get(&mesh) {
        Some(MeshVerdict::Accepted(_)) => return Ok((mesh, None)),
        Some(MeshVerdict::Rejected(problem) | MeshVerdict::Blocked(problem)) => problem.reason,
        Some(MeshVerdict::Deleting) => "Deleting",
        None => {
            let message = format!(
                "the namespace names the ServiceMesh {mesh:?}, which does not exist: create it, or change the label"
            );
            return Err(Problem::new("MeshNotFound", "", message));
        }
    };
    let message = format!("the ServiceMesh {mesh:?} is not in force ({why}): see its status");
    Ok((mesh, Some(Problem::new("MeshNotAccepted", "", message))))
}

fn judge(key: &Key, policy: &Policy) -> Outcome<CompiledPolicy> {
    let spec = match &policy.spec {
        Ok(spec) => spec,
        Err(problem) => {
            let message = format!("cannot be read by this version of the operator: {problem}");
            return Outcome::Kept(Problem::new("InvalidSpec", "spec", message));
        }
    };
    if let Err(flaw) = check(&spec.target, &spec.rules) {
        let reason = if flaw.field.starts_with("target") { "InvalidTarget" } else { "InvalidRule" };
        return Outcome::Kept(Problem::new(reason, &format!("spec.{}", flaw.field), flaw.problem));
    }
    if let Some(problem) = detour(spec) {
        return Outcome::Kept(problem);
    }
    let compiled = CompiledPolicy {
        version: CompiledPolicy::version_of(&spec.target, &spec.rules),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        generation: policy.generation,
        target: spec.target.clone(),
        mode: spec.mode,
        rules: spec.rules.clone(),
    };
    let bytes = contract::write(&compiled).len();
    if bytes > DOCUMENT_BYTES_MAX {
        let message = format!(
            "makes a document of {bytes} bytes, and proxies read at most {DOCUMENT_BYTES_MAX}: spread it over several policies"
        );
        return Outcome::Kept(Problem::new("TooLarge", "spec", message));
    }
    Outcome::Compiled(Box::new(compiled))
}

/// A path that is compared with every reading of another has to have one reading itself.
fn detour(spec: &MeshPolicySpec) -> Option<Problem> {
    for (i, rule) in spec.rules.iter().enumerate() {
        for (j, operation) in rule.to.iter().enumerate() {
            for (name, paths) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
                for (k, PathMatch { kind, value }) in paths.iter().enumerate() {
                    if *kind == PathMatchType::RegularExpression {
                        continue;
                    }
                    let readings = Readings::of(value);
                    let Some(other) = readings.iter().find(|reading| *reading != Some(value.as_str())) else {
                        continue;
                    };
                    let field = format!("spec.rules[{i}].to[{j}].{name}[{k}].value");
                    let may = other.map_or_else(
                        || format!("{value:?} is no path that can be read"),
                        |other| format!("{value:?} may be read as {other:?} as well"),
                    );
                    let message = format!(
                        "{may}: write the path that is meant, without encoding, '//', '.', '..', ';' and '\\\\'; calls are compared however they write it"
                    );
                    return Some(Problem::new("InvalidRule", &field, message));
                }
            }
        }
    }
    None
}

fn missing(world: &World, namespace: &str, target: &ServiceTarget) -> Option<Problem> {
    let key = Key::new(namespace, &target.name);
    let Some(service) = world.services.get(&key).map(|row| &row.value).filter(|service| !service.deleting)
    else {
        let others = world.services.in_namespace(namespace).map(|(key, _)| key.name.as_str());
        let message = format!(
            "there is no Service {:?} in the namespace {namespace:?}; its Services: {}. The policy is about it as soon as there is",
            target.name,
            list(others)
        );
        return Some(Problem::new("TargetNotFound", "spec.target.service.name", message));
    };
    if service.skip {
        let message = format!(
            "the Service {:?} is annotated with {}: \"true\", so that no proxy carries calls to it: remove the annotation",
            target.name,
            names::ANNOTATION_SKIP
        );
        return Some(Problem::new("TargetSkipped", "spec.target.service.name", message));
    }
    if let Some(stands_for) = &service.external_name {
        let message = format!(
            "the Service {:?} is of type ExternalName: calls to it are calls to {stands_for:?}; write the policy for that one, in its namespace",
            target.name
        );
        return Some(Problem::new("UnsupportedTarget", "spec.target.service.name", message));
    }
    let port = target.port.and_then(|port| u16::try_from(port).ok())?;
    if service.ports.iter().any(|one| one.port == port) {
        return None;
    }
    let exist: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
    let message =
        format!("the Service {:?} has no TCP port {port}; its TCP ports: {}", target.name, exist.join(", "));
    Some(Problem::new("TargetPortNotFound", "spec.target.service.port", message))
}

/// Where routes of the Services that a policy is about send calls that no policy judges: that is for the policies of the Service whose
/// pods take them.
fn unjudged(
    world: &World,
    routes: &BTreeMap<Key, RouteVerdict>,
    namespace: &str,
    target: &PolicyTarget,
) -> Vec<Key> {
    if target.pods.is_some() {
        return Vec::new();
    }
    let is_meant = |port: u16| {
        target.service.as_ref().and_then(|service| service.port).is_none_or(|only| only == i32::from(port))
    };
    let mut elsewhere = BTreeSet::new();
    for (_, verdict) in of_target(routes, namespace, target.service.as_ref()) {
        let Outcome::Compiled(route) = &verdict.outcome else { continue };
        let ports = route.ports.iter().filter(|port| is_meant(port.port));
        let ports = ports.flat_map(|port| port.backends.iter().chain(&port.overrides));
        let of_rules = route.rules.iter().flat_map(|rule| &rule.ports).filter(|port| is_meant(port.port));
        let of_rules = of_rules.flat_map(|port| port.backends.iter().chain(&port.mirror));
        for CompiledBackend { namespace: own, service, port, .. } in ports.chain(of_rules) {
            let of = if own.is_empty() { namespace } else { own };
            if !is_judged(world, (of, service), *port) {
                elsewhere.insert(Key::new(of, service));
            }
        }
    }
    elsewhere.into_iter().collect()
}

/// Whether there is a policy that may be about calls to a port of a Service; which pods one selects is not looked at.
fn is_judged(world: &World, (namespace, service): (&str, &str), port: u16) -> bool {
    world.policies.in_namespace(namespace).any(|(_, row)| {
        let target = row.value.spec.as_ref().map(|spec| spec.target.service.as_ref());
        target.is_ok_and(|target| {
            target
                .is_none_or(|one| one.name == service && one.port.is_none_or(|only| only == i32::from(port)))
        })
    })
}

/// Routes of a namespace's Services, or of one of them, that there are.
fn of_target<'a>(
    routes: &'a BTreeMap<Key, RouteVerdict>,
    namespace: &'a str,
    service: Option<&'a ServiceTarget>,
) -> impl Iterator<Item = (&'a Key, &'a RouteVerdict)> {
    let of_namespace =
        routes.range(Key::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace);
    of_namespace.filter(move |(key, verdict)| {
        verdict.wanted && service.is_none_or(|service| service.name == key.name)
    })
}

/// Services that a policy is about, or pods.
fn count(
    world: &World,
    routes: &BTreeMap<Key, RouteVerdict>,
    namespace: &str,
    target: &PolicyTarget,
) -> usize {
    if let Some(pods) = &target.pods {
        let selector = selector(pods);
        let pods = world.pods.in_namespace(namespace).filter(|(_, row)| !row.value.ips.is_empty());
        return pods.filter(|(_, row)| selector.selects(&row.value.labels)).count();
    }
    of_target(routes, namespace, target.service.as_ref()).count()
}

fn said(target: &PolicyTarget) -> String {
    match (&target.service, &target.pods) {
        (Some(ServiceTarget { name, port: Some(port) }), _) => format!("{name}:{port}"),
        (Some(ServiceTarget { name, port: None }), _) => name.clone(),
        (None, Some(pods)) => selected(pods),
        (None, None) => "*".to_owned(),
    }
}

/// As `kubectl get -l` writes it.
fn selected(PodTarget { match_labels, match_expressions }: &PodTarget) -> String {
    let labels = match_labels.iter().map(|(name, value)| format!("{name}={value}"));
    let expressions = match_expressions.iter().map(|one| {
        let values = one.values.join(",");
        match one.operator {
            LabelOperator::In => format!("{} in ({values})", one.key),
            LabelOperator::NotIn => format!("{} notin ({values})", one.key),
            LabelOperator::Exists => one.key.clone(),
            LabelOperator::DoesNotExist => format!("!{}", one.key),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use crate::fixture::{SHOP, load, planned, world};
    use crate::validate::{Outcome, PolicyVerdict};
    use crate::world::{Key, World};

    fn with(spec: &str) -> World {
        let mut world = world(SHOP);
        put(&mut world, spec);
        world
    }

    fn put(world: &mut World, spec: &str) {
        let policy = format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: closed, namespace: shop, generation: 3}}\nspec: {spec}\n"
        );
        load(world, &policy);
    }

    fn verdict(world: &World) -> PolicyVerdict {
        planned(world).validated.policies[&Key::new("shop", "closed")].clone()
    }

    fn problem(spec: &str) -> String {
        let verdict = verdict(&with(spec));
        let problem = verdict.outcome.problem().or(verdict.missing.as_ref());
        problem.map_or_else(|| "none".to_owned(), |problem| format!("{} {}", problem.reason, problem.text()))
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (spec, expected) in [
            ("{rules: [{action: Deny}]}", "none"),
            ("{target: {service: {name: web, port: 8080}}, rules: [{action: Deny}]}", "none"),
            (
                "{target: {service: {name: nobody}}, rules: [{action: Deny}]}",
                "TargetNotFound spec.target.service.name: there is no Service \"nobody\" in the namespace \"shop\"; its Services: \"web\", \"web-v2\". The policy is about it as soon as there is",
            ),
            (
                "{target: {service: {name: web, port: 81}}, rules: [{action: Deny}]}",
                "TargetPortNotFound spec.target.service.port: the Service \"web\" has no TCP port 81; its TCP ports: 80, 8080",
            ),
            (
                "{rules: [{action: Deny, from: [{ipBlocks: [{cidr: 10.0.0.0/40}]}]}]}",
                "InvalidRule spec.rules[0].from[0].ipBlocks[0].cidr: \"10.0.0.0/40\" is no block of addresses: write 10.1.0.0/16 or fd00::/64",
            ),
            (
                "{target: {service: {name: web}, pods: {matchLabels: {a: b}}}, rules: [{action: Deny}]}",
                "InvalidTarget spec.target: is a service or pods, not both: write two policies",
            ),
            (
                "{rules: [{action: Deny, to: [{notPaths: [{value: /a/../b}]}]}]}",
                "InvalidRule spec.rules[0].to[0].notPaths[0].value: \"/a/../b\" may be read as \"/b\" as well: write the path that is meant, without encoding, '//', '.', '..', ';' and '\\\\'; calls are compared however they write it",
            ),
            ("{rules: [{action: Deny, to: [{paths: [{value: /caf%C3%A9}]}]}]}", "none"),
            (
                "{rules: [{action: Maybe}]}",
                "InvalidSpec spec: cannot be read by this version of the operator: unknown variant `Maybe`, expected `Allow` or `Deny`",
            ),
        ] {
            assert_eq!(problem(spec), expected, "{spec}");
        }
    }

    #[test]
    fn a_policy_outlives_its_service_and_comes_before_it() {
        let verdict = verdict(&with("{target: {service: {name: nobody}}, rules: [{action: Deny}]}"));
        let Outcome::Compiled(compiled) = verdict.outcome else { panic!("compiled: {:?}", verdict.outcome) };
        assert_eq!((compiled.version, compiled.generation, &*verdict.target), (4, 3, "nobody"));
        assert_eq!(verdict.targets, 0);
    }

    #[test]
    fn what_a_route_sends_to_a_service_without_policy_is_told() {
        let object = |kind: &str, name: &str, spec: &str| {
            format!(
                "apiVersion: vicino.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
            )
        };
        let policy = |target: &str| format!("{{target: {target}, rules: [{{action: Deny}}]}}");
        let unjudged = |target: &str, more: &str| {
            let mut world = with(&policy(target));
            let backends = "{backends: [{name: web, weight: 1}, {name: web-v2, port: 80, weight: 1}]}";
            load(&mut world, &object("MeshRoute", "web", backends));
            if !more.is_empty() {
                load(&mut world, &object("MeshPolicy", "other", &policy(more)));
            }
            let names: Vec<_> = verdict(&world).unjudged.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let web = "{service: {name: web}}";
        assert_eq!(unjudged(web, ""), "shop/web-v2");
        assert_eq!(unjudged("{service: {name: web, port: 80}}", ""), "shop/web-v2");
        assert_eq!(unjudged(web, "{service: {name: web-v2, port: 81}}"), "shop/web-v2", "of another port");
        assert_eq!(unjudged(web, "{service: {name: web-v2, port: 80}}"), "");
        assert_eq!(unjudged(web, "{}"), "", "the whole namespace has one");
        assert_eq!(unjudged("{}", ""), "");
        assert_eq!(unjudged("{service: {name: web-v2}}", ""), "", "its own route sends nothing elsewhere");
    }

    #[test]
    fn services_are_counted_or_pods() {
        let count = |spec: &str| verdict(&with(spec)).targets;
        assert_eq!(count("{rules: [{action: Deny}]}"), 2);
        assert_eq!(count("{target: {service: {name: web}}, rules: [{action: Deny}]}"), 1);
        let mut world = with("{target: {pods: {matchLabels: {app: web}}}, rules: [{action: Deny}]}");
        for (name, app, phase) in
            [("a", "web", "Running"), ("b", "web", "Succeeded"), ("c", "other", "Running")]
        {
            load(
                &mut world,
                &format!(
                    "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec: {{nodeName: node1, containers: []}}
status: {{phase: {phase}, podIPs: [{{ip: 10.1.0.1}}]}}
"
                ),
            );
        }
        assert_eq!(verdict(&world).targets, 1, "one has ended, one is another");
        put(
            &mut world,
            "{target: {pods: {matchExpressions: [{key: app, operator: In, values: [web, other]}, {key: gone, operator: DoesNotExist}]}}, rules: [{action: Deny}]}",
        );
        let verdict = verdict(&world);
        assert_eq!((verdict.targets, &*verdict.target), (2, "app in (web,other),!gone"));
        let Outcome::Compiled(compiled) = verdict.outcome else { panic!("compiled: {:?}", verdict.outcome) };
        assert_eq!(compiled.version, 5);
    }

    #[test]
    fn a_policy_of_a_namespace_without_mesh_says_that_nobody_enforces_it() {
        let mut world = with("{rules: [{action: Deny}]}");
        load(&mut world, "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
        let verdict = verdict(&world);
        assert_eq!(verdict.outcome.problem().map(|problem| problem.reason), Some("NamespaceNotMeshed"));
        load(
            &mut world,
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {vicino.dev/mesh: other}}}",
        );
        let reason = self::verdict(&world).outcome.problem().map(|problem| problem.reason);
        assert_eq!(reason, Some("MeshNotFound"));
    }
}
