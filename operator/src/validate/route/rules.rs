//! The rules of a MeshRoute: what is wrong with them, or what they compile into.

use vicino_crds::MeshRouteSpec;
use vicino_crds::contract::{CompiledRule, CompiledRulePort};
use vicino_crds::rule::{RouteRule, check_all};

use super::{Times, backend, backends, hedge, retry};
use crate::validate::Problem;
use crate::world::{Key, Service, ServicePort, World};

/// Compiles all rules, or says what is wrong with the first that cannot be.
pub(super) fn compile(
    world: &World,
    key: &Key,
    service: &Service,
    (spec, times): (&MeshRouteSpec, Times),
) -> Result<Vec<CompiledRule>, Problem> {
    check_all(&spec.rules)
        .map_err(|flaw| Problem::new("InvalidRule", &format!("spec.{}", flaw.field), flaw.problem))?;
    let all = spec.rules.iter().enumerate();
    all.map(|(i, rule)| {
        let answers = rule.answers();
        let ports = if answers { &[][..] } else { &service.ports };
        let at = if rule.backends.is_empty() { "spec".to_owned() } else { format!("spec.rules[{i}]") };
        let wanted = if rule.backends.is_empty() { &spec.backends } else { &rule.backends };
        let port = |port: &ServicePort| {
            let backends = backends(world, key, (service, port), (&at, wanted))?;
            let field = format!("spec.rules[{i}].requestMirror");
            let mirror = rule.request_mirror.as_ref();
            let mirror = mirror.map(|mirror| backend(world, &key.namespace, (&field, mirror.into()), port));
            Ok(CompiledRulePort { port: port.port, backends, mirror: mirror.transpose()? })
        };
        let ports = ports.iter().map(port).collect::<Result<_, _>>()?;
        let times = times.with(rule.timeouts.as_ref());
        Ok(CompiledRule {
            // What is compiled is said once.
            rule: RouteRule {
                backends: Vec::new(),
                timeouts: None,
                retry: None,
                hedge: None,
                ..rule.clone()
            },
            ports,
            connect_timeout_milliseconds: times.connect,
            retry: rule.retry.as_ref().or(spec.retry.as_ref()).filter(|_| !answers).map(retry),
            hedge: rule.hedge.as_ref().or(spec.hedge.as_ref()).filter(|_| !answers).map(hedge),
            request_timeout_milliseconds: times.request,
            idle_timeout_milliseconds: times.idle,
        })
    })
    .collect()
}
