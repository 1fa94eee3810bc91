//! What the schema cannot say of a policy; the operator says it of a spec, and a proxy of a document, in the same words.

use ipnet::IpNet;

use super::{IpBlock, PolicyOperation, PolicyRule, PolicySource, PolicyTarget, ServiceAccountName};
use crate::rule::{
    Flaw, PathMatch, PathMatchType, REGEXES_MAX, ValueMatchType, is_reserved_for_rules, matcher,
};

/// The first flaw of a policy.
pub fn check(target: &PolicyTarget, rules: &[PolicyRule]) -> Result<(), Flaw> {
    check_target(target)?;
    if rules.is_empty() {
        return Err(flaw("rules", "must have at least one rule: a policy without rules decides nothing"));
    }
    let mut regexes = 0;
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("rules[{i}]");
        let twin = rules[..i].iter().position(|other| other.name.is_some() && other.name == rule.name);
        if let Some(twin) = twin {
            let name = rule.name.as_deref().unwrap_or_default();
            let problem =
                format!("is {name:?}, as that of rules[{twin}] is: give each rule a name of its own");
            return Err(flaw(format!("{at}.name"), problem));
        }
        for (j, source) in rule.from.iter().enumerate() {
            check_source(&format!("{at}.from[{j}]"), source)?;
        }
        for (j, operation) in rule.to.iter().enumerate() {
            regexes += check_operation(&format!("{at}.to[{j}]"), operation)?;
        }
        if regexes > REGEXES_MAX {
            let problem = format!(
                "the policy has more than {REGEXES_MAX} regular expressions: use Exact and PathPrefix where they do"
            );
            return Err(flaw(format!("{at}.to"), problem));
        }
    }
    Ok(())
}

pub(crate) fn flaw(field: impl Into<String>, problem: impl Into<String>) -> Flaw {
    Flaw { field: field.into(), problem: problem.into() }
}

fn check_target(target: &PolicyTarget) -> Result<(), Flaw> {
    if target.service.is_some() && target.pods.is_some() {
        return Err(flaw("target", "is a service or pods, not both: write two policies"));
    }
    if let Some(pods) = &target.pods {
        pods.check("target.pods")?;
    }
    let port = target.service.as_ref().and_then(|service| service.port);
    if port.is_some_and(|port| !(1..=65_535).contains(&port)) {
        return Err(flaw("target.service.port", "must be 1 to 65535"));
    }
    Ok(())
}

pub(crate) fn check_source(at: &str, source: &PolicySource) -> Result<(), Flaw> {
    let PolicySource {
        service_accounts,
        namespaces,
        trust_domains,
        not_service_accounts,
        not_namespaces,
        ip_blocks,
        not_ip_blocks,
        unidentified,
    } = source;
    if *source == PolicySource::default() {
        return Err(flaw(at, "says nothing of the caller: leave from out where anybody is meant"));
    }
    let says_identity = !service_accounts.is_empty()
        || !namespaces.is_empty()
        || !trust_domains.is_empty()
        || !not_service_accounts.is_empty()
        || !not_namespaces.is_empty();
    if *unidentified && says_identity {
        let problem = "a caller that is unidentified has no service account, namespace or trust domain: give it an entry of its own in from";
        return Err(flaw(format!("{at}.unidentified"), problem));
    }
    for (name, list) in [("serviceAccounts", service_accounts), ("notServiceAccounts", not_service_accounts)]
    {
        if let Some(i) = list.iter().position(|ServiceAccountName { name, .. }| name.is_empty()) {
            return Err(flaw(format!("{at}.{name}[{i}].name"), "must not be empty"));
        }
    }
    if let Some(i) = trust_domains.iter().position(|pattern| pattern.matches('*').count() > 1) {
        let problem = format!("{:?} has more than one `*`", trust_domains[i]);
        return Err(flaw(format!("{at}.trustDomains[{i}]"), problem));
    }
    for (name, list) in [("ipBlocks", ip_blocks), ("notIpBlocks", not_ip_blocks)] {
        for (i, block) in list.iter().enumerate() {
            check_block(&format!("{at}.{name}[{i}]"), block)?;
        }
    }
    Ok(())
}

pub(crate) fn check_ports(at: &str, ports: &[i32]) -> Result<(), Flaw> {
    match ports.iter().position(|port| !(1..=65_535).contains(port)) {
        Some(i) => Err(flaw(format!("{at}[{i}]"), "must be 1 to 65535")),
        None => Ok(()),
    }
}

pub(crate) fn check_block(at: &str, block: &IpBlock) -> Result<(), Flaw> {
    let whole = network(&block.cidr).map_err(|problem| flaw(format!("{at}.cidr"), problem))?;
    for (i, text) in block.except.iter().enumerate() {
        let field = format!("{at}.except[{i}]");
        let part = network(text).map_err(|problem| flaw(field.clone(), problem))?;
        if !whole.contains(&part) {
            return Err(flaw(field, format!("{text} is not within {}", block.cidr)));
        }
    }
    Ok(())
}

/// A block of addresses; one that begins in the middle is a slip, since the rest of it would be meant as well.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("{text:?} is no block of addresses: write 10.1.0.0/16 or fd00::/64");
    let network: IpNet = text.parse().map_err(|_| wrong())?;
    if network.trunc() != network {
        return Err(format!(
            "{text:?} begins within a block: write {}, or /{} for that one address",
            network.trunc(),
            network.max_prefix_len()
        ));
    }
    if let IpNet::V6(v6) = network
        && v6.network().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is a block of IPv4 addresses: write it as one"));
    }
    Ok(network)
}

/// Returns how many regular expressions it has.
fn check_operation(at: &str, operation: &PolicyOperation) -> Result<usize, Flaw> {
    let PolicyOperation { ports, methods, paths, headers, grpc, not_ports, not_methods, not_paths } =
        operation;
    if *operation == PolicyOperation::default() {
        return Err(flaw(at, "says nothing of the call: leave to out where any call is meant"));
    }
    let says_http =
        !methods.is_empty() || !paths.is_empty() || !not_methods.is_empty() || !not_paths.is_empty();
    if !grpc.is_empty() && says_http {
        let problem =
            "says which calls by their path and method, so that neither path nor method can say it as well";
        return Err(flaw(format!("{at}.grpc"), problem));
    }
    for (name, list) in [("ports", ports), ("notPorts", not_ports)] {
        check_ports(&format!("{at}.{name}"), list)?;
    }
    let mut regexes = 0;
    let mut expression = |field: String, pattern: &str| {
        regexes += 1;
        matcher(pattern).map(drop).map_err(|problem| flaw(field, problem))
    };
    for (name, list) in [("paths", paths), ("notPaths", not_paths)] {
        for (i, PathMatch { kind, value }) in list.iter().enumerate() {
            let field = format!("{at}.{name}[{i}].value");
            match kind {
                PathMatchType::RegularExpression => expression(field, value)?,
                _ if !value.starts_with('/') => {
                    return Err(flaw(field, "must be an absolute path: it begins with '/'"));
                }
                _ if value.contains(['?', '#']) || !value.bytes().all(|b| b.is_ascii_graphic()) => {
                    let problem = "is a path alone, percent-encoded: '?', '#', blanks and characters other than ASCII are not part of one";
                    return Err(flaw(field, problem));
                }
                _ => {}
            }
        }
    }
    for (i, header) in headers.iter().enumerate() {
        if header.kind == ValueMatchType::RegularExpression {
            expression(format!("{at}.headers[{i}].value"), &header.value)?;
        }
        let field = format!("{at}.headers[{i}].name");
        if headers[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&header.name)) {
            let problem =
                format!("{:?} is matched twice; names of fields differ by more than case", header.name);
            return Err(flaw(field, problem));
        }
        if is_reserved_for_rules(&header.name) {
            let problem = format!(
                "{:?} is not among the fields that a rule sees: it belongs to the connection or to the mesh",
                header.name
            );
            return Err(flaw(field, problem));
        }
    }
    Ok(regexes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::MeshPolicySpec;

    /// The flaw of a policy with one rule, in flow style.
    fn flaw_of(rule: &str) -> String {
        let spec = format!("rules: [{{action: Allow, {rule}}}]");
        let spec: MeshPolicySpec = serde_saphyr::from_str(&spec).unwrap();
        check(&spec.target, &spec.rules)
            .err()
            .map_or_else(String::new, |f| format!("{}: {}", f.field, f.problem))
    }

    #[test]
    fn what_the_schema_cannot_say_is_said_with_what_would_be_right() {
        for (rule, expected) in [
            (
                "from: [{}]",
                "rules[0].from[0]: says nothing of the caller: leave from out where anybody is meant",
            ),
            ("to: [{}]", "rules[0].to[0]: says nothing of the call: leave to out where any call is meant"),
            (
                "from: [{unidentified: true, namespaces: [a]}]",
                "rules[0].from[0].unidentified: a caller that is unidentified has no service account, namespace or trust domain: give it an entry of its own in from",
            ),
            (
                "from: [{trustDomains: ['*.a.*']}]",
                "rules[0].from[0].trustDomains[0]: \"*.a.*\" has more than one `*`",
            ),
            (
                "from: [{ipBlocks: [{cidr: 10.1.2.3/16}]}]",
                "rules[0].from[0].ipBlocks[0].cidr: \"10.1.2.3/16\" begins within a block: write 10.1.0.0/16, or /32 for that one address",
            ),
            (
                "from: [{ipBlocks: [{cidr: 10.1.0.0/33}]}]",
                "rules[0].from[0].ipBlocks[0].cidr: \"10.1.0.0/33\" is no block of addresses: write 10.1.0.0/16 or fd00::/64",
            ),
            (
                "from: [{ipBlocks: [{cidr: '::ffff:10.0.0.0/104'}]}]",
                "rules[0].from[0].ipBlocks[0].cidr: \"::ffff:10.0.0.0/104\" is a block of IPv4 addresses: write it as one",
            ),
            (
                "from: [{ipBlocks: [{cidr: 10.1.0.0/16, except: [10.2.0.0/24]}]}]",
                "rules[0].from[0].ipBlocks[0].except[0]: 10.2.0.0/24 is not within 10.1.0.0/16",
            ),
            (
                "from: [{notIpBlocks: [{cidr: 10.1.2.3/16}]}]",
                "rules[0].from[0].notIpBlocks[0].cidr: \"10.1.2.3/16\" begins within a block: write 10.1.0.0/16, or /32 for that one address",
            ),
            ("to: [{ports: [0]}]", "rules[0].to[0].ports[0]: must be 1 to 65535"),
            (
                "to: [{paths: [{value: x}]}]",
                "rules[0].to[0].paths[0].value: must be an absolute path: it begins with '/'",
            ),
            (
                "to: [{paths: [{type: RegularExpression, value: '('}]}]",
                "rules[0].to[0].paths[0].value: is no regular expression: unclosed group",
            ),
            (
                "to: [{headers: [{name: vicino-x, value: a}]}]",
                "rules[0].to[0].headers[0].name: \"vicino-x\" is not among the fields that a rule sees: it belongs to the connection or to the mesh",
            ),
            (
                "to: [{grpc: [{service: a.B}], methods: [GET]}]",
                "rules[0].to[0].grpc: says which calls by their path and method, so that neither path nor method can say it as well",
            ),
            (
                "from: [{ipBlocks: [{cidr: 'fd00::/64', except: ['fd00::1/128']}]}], to: [{notPaths: [{value: /a}]}]",
                "",
            ),
        ] {
            assert_eq!(flaw_of(rule), expected, "{rule}");
        }
    }

    #[test]
    fn names_are_unique_and_targets_are_one_thing() {
        let spec = |text: &str| serde_saphyr::from_str::<MeshPolicySpec>(text).unwrap();
        let field = |text: &str| {
            let spec = spec(text);
            check(&spec.target, &spec.rules).unwrap_err().field
        };
        assert_eq!(field("rules: [{name: a, action: Deny}, {name: a, action: Allow}]"), "rules[1].name");
        assert_eq!(
            field("{target: {service: {name: a}, pods: {matchLabels: {a: b}}}, rules: [{action: Deny}]}"),
            "target"
        );
        assert_eq!(
            field("{target: {pods: {matchLabels: {}}}, rules: [{action: Deny}]}"),
            "target.pods.matchLabels"
        );
        assert_eq!(field("rules: []"), "rules");
    }

    #[test]
    fn selectors_are_those_of_kubernetes() {
        let flaw_of = |pods: &str| {
            let spec: MeshPolicySpec =
                serde_saphyr::from_str(&format!("{{target: {{pods: {pods}}}, rules: [{{action: Deny}}]}}"))
                    .unwrap();
            check(&spec.target, &spec.rules)
                .err()
                .map_or_else(String::new, |f| format!("{}: {}", f.field, f.problem))
        };
        let many = format!("{{matchExpressions: [{}]}}", ["{key: a, operator: Exists}"; 17].join(", "));
        for (pods, expected) in [
            ("{matchExpressions: [{key: example.com/tier, operator: NotIn, values: [a, '']}]}", ""),
            ("{matchLabels: {app: web}, matchExpressions: [{key: a, operator: DoesNotExist}]}", ""),
            (
                "{}",
                "target.pods.matchLabels: must have a label; a policy without target is about the whole namespace",
            ),
            (
                "{matchExpressions: [{key: a, operator: In}]}",
                "target.pods.matchExpressions[0].values: In and NotIn go with 1 to 16 values, Exists and DoesNotExist without any",
            ),
            (
                "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
                "target.pods.matchExpressions[0].values: In and NotIn go with 1 to 16 values, Exists and DoesNotExist without any",
            ),
            (
                "{matchExpressions: [{key: a/b/c, operator: Exists}]}",
                "target.pods.matchExpressions[0].key: \"a/b/c\" is no name of a label: write app or example.com/tier",
            ),
            (
                "{matchLabels: {app: 'a b'}}",
                "target.pods.matchLabels[app]: \"a b\" is no value of a label: letters, digits, '-', '_' and '.', at most 63, with a letter or digit at both ends",
            ),
            (&many, "target.pods.matchExpressions: has 17 entries: at most 16 are taken"),
        ] {
            assert_eq!(flaw_of(pods), expected, "{pods}");
        }
    }
}
