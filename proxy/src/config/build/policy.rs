//! Compiled policies and the own node's pods → the engine's policies; what did not change is taken over as it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use vicino_crds::contract::CompiledPolicy;
use vicino_crds::policy::{
    IpBlock, LabelOperator, PodTarget, PolicyAction, PolicyMode, PolicyOperation, PolicyRule, PolicySource,
    PolicyTarget, ServiceAccountName,
};
use vicino_engine::policy::{
    Action, Operation, Pod, Policies, Policy, Requirement, Rule, Selector, Source, Target, TrustDomain,
};

use super::route::{grpc_test, path_test, value_test};
use super::trust_domain;
use crate::config::OwnNode;
use crate::config::document::Good;
use crate::config::inputs::Inputs;

/// By namespace and name.
type Documents<'a> = BTreeMap<(&'a str, &'a str), &'a Arc<Good<CompiledPolicy>>>;
type Each = HashMap<(Box<str>, Box<str>), (Arc<Good<CompiledPolicy>>, Arc<Policy>)>;

/// The engine's policies, and what they were made of.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) all: Arc<Policies>,
    each: Each,
    mesh_node: Option<Arc<OwnNode>>,
    of_mesh: (Action, Arc<str>),
}

pub(super) fn policies(inputs: &Inputs, documents: &Documents<'_>, previous: &Made) -> Made {
    let mut each = HashMap::with_capacity(documents.len());
    let mut is_same = documents.len() == previous.each.len();
    for ((namespace, name), good) in documents {
        let key = ((*namespace).into(), (*name).into());
        let policy = match previous.each.get(&key) {
            Some((from, policy)) if Arc::ptr_eq(from, good) => policy.clone(),
            _ => {
                is_same = false;
                Arc::new(policy(&good.value))
            }
        };
        each.insert(key, ((*good).clone(), policy));
    }
    let bootstrap = inputs.bootstrap().map(|good| &good.value);
    let default = bootstrap.map_or(Action::Allow, |bootstrap| action(bootstrap.default_action));
    let of_mesh = (default, Arc::from(bootstrap.map_or("", trust_domain)));
    let mesh_node = inputs.mesh_node().cloned();
    let is_same_node = match (&mesh_node, &previous.mesh_node) {
        (Some(now), Some(before)) => Arc::ptr_eq(now, before),
        (now, before) => now.is_none() && before.is_none(),
    };
    let all = if is_same && is_same_node && of_mesh == previous.of_mesh {
        previous.all.clone()
    } else {
        let pods = mesh_node.iter().flat_map(|node| &node.spec.pods);
        let pods = pods.map(|pod| Pod { uid: &pod.uid, namespace: &pod.namespace, labels: &pod.labels });
        let all = each.values().map(|(_, policy)| policy.clone());
        Arc::new(Policies::new(default, of_mesh.1.clone(), all, pods))
    };
    Made { all, each, mesh_node, of_mesh }
}

fn policy(compiled: &CompiledPolicy) -> Policy {
    Policy {
        namespace: Arc::from(&*compiled.namespace),
        name: Arc::from(&*compiled.name),
        is_audit: compiled.mode == PolicyMode::Audit,
        target: target(&compiled.target),
        rules: compiled.rules.iter().map(|one| rule(one, &compiled.namespace)).collect(),
    }
}

fn target(of: &PolicyTarget) -> Target {
    match (&of.service, &of.pods) {
        (Some(service), _) => {
            Target::Service { name: (*service.name).into(), port: service.port.map(number) }
        }
        (None, Some(pods)) => Target::Pods(selector(pods)),
        (None, None) => Target::Namespace,
    }
}

/// Which pods a policy selects.
pub fn selector(of: &PodTarget) -> Selector {
    let requirements = of.match_expressions.iter().map(|one| {
        let values = texts(&one.values);
        let what = match one.operator {
            LabelOperator::In => Requirement::In(values),
            LabelOperator::NotIn => Requirement::NotIn(values),
            LabelOperator::Exists => Requirement::Exists,
            LabelOperator::DoesNotExist => Requirement::DoesNotExist,
        };
        ((*one.key).into(), what)
    });
    Selector { labels: of.match_labels.clone(), requirements: requirements.collect() }
}

fn action(of: PolicyAction) -> Action {
    match of {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
    }
}

fn rule(of: &PolicyRule, own: &str) -> Rule {
    Rule {
        name: of.name.as_deref().unwrap_or_default().into(),
        action: action(of.action),
        from: of.from.iter().map(|one| source(one, own)).collect(),
        to: of.to.iter().map(operation).collect(),
    }
}

pub(super) fn source(of: &PolicySource, own: &str) -> Source {
    let PolicySource {
        service_accounts,
        namespaces,
        trust_domains,
        not_service_accounts,
        not_namespaces,
        ip_blocks,
        not_ip_blocks,
        unidentified,
    } = of;
    let accounts = |all: &[ServiceAccountName]| {
        let one = |account: &ServiceAccountName| {
            (account.namespace.as_deref().unwrap_or(own).into(), (*account.name).into())
        };
        all.iter().map(one).collect()
    };
    Source {
        service_accounts: accounts(service_accounts),
        namespaces: texts(namespaces),
        trust_domains: trust_domains
            .iter()
            .map(|pattern| match pattern.split_once('*') {
                Some((before, after)) => TrustDomain::Between(before.into(), after.into()),
                None => TrustDomain::Exact((**pattern).into()),
            })
            .collect(),
        not_service_accounts: accounts(not_service_accounts),
        not_namespaces: texts(not_namespaces),
        ip_blocks: ip_blocks.iter().map(block).collect(),
        not_ip_blocks: not_ip_blocks.iter().map(block).collect(),
        is_unidentified: *unidentified,
    }
}

pub(super) fn block(of: &IpBlock) -> (IpNet, Vec<IpNet>) {
    (network(&of.cidr), of.except.iter().map(|text| network(text)).collect())
}

pub(super) fn network(text: &str) -> IpNet {
    text.parse().expect("a document is read only when its blocks of addresses are sound")
}

fn operation(of: &PolicyOperation) -> Operation {
    let PolicyOperation { ports, methods, paths, headers, grpc, not_ports, not_methods, not_paths } = of;
    let mut operation = Operation {
        ports: ports.iter().copied().map(number).collect(),
        not_ports: not_ports.iter().copied().map(number).collect(),
        methods: texts(methods),
        not_methods: texts(not_methods),
        paths: paths.iter().map(path_test).collect(),
        not_paths: not_paths.iter().map(path_test).collect(),
        headers: headers
            .iter()
            .map(|header| ((*header.name).into(), value_test(header.kind, &header.value)))
            .collect(),
    };
    if !grpc.is_empty() {
        operation.methods = vec!["POST".into()];
        operation.paths = grpc.iter().map(grpc_test).collect();
    }
    operation
}

fn texts(all: &[String]) -> Vec<Box<str>> {
    all.iter().map(|text| (**text).into()).collect()
}

/// The schema and the document's check keep these in range.
pub(super) fn number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or(u16::MAX)
}
