//! Verdicts: a generated table against an evaluator that was written otherwise, and what every one of them has to hold.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use vicino_wire::head::{Header, Version};

use super::*;

mod readings;

const OWN: &str = "mesh.example";

fn head<'a>(method: &'a str, path: &'a str, headers: &'a [Header<'a>]) -> RequestHead<'a> {
    RequestHead {
        method,
        authority: "quotes",
        path,
        version: Version::Http11,
        accepts_trailers: false,
        headers: headers.into(),
    }
}

fn frontend() -> Identity<'static> {
    Identity { trust_domain: OWN, namespace: "demo", service_account: "frontend" }
}

fn call<'a>(head: &'a RequestHead<'a>) -> Call<'a> {
    Call {
        caller: Some(frontend()),
        source: Some([10, 1, 0, 5].into()),
        namespace: "demo",
        service: "quotes",
        port: 80,
        pod: "p1",
        head: Some(head),
    }
}

fn policy(name: &str, is_audit: bool, target: Target, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy { namespace: "demo".into(), name: name.into(), is_audit, target, rules })
}

fn rule(action: Action, from: Vec<Source>, to: Vec<Operation>) -> Rule {
    Rule { name: "r".into(), action, from, to }
}

fn policies(default: Action, all: Vec<Arc<Policy>>) -> Policies {
    let app = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let (quotes, web) = (app("quotes"), app("web"));
    let pods = [
        Pod { uid: "p1", namespace: "demo", labels: &quotes },
        Pod { uid: "p2", namespace: "demo", labels: &web },
    ];
    Policies::new(default, OWN.into(), all, pods)
}

/// Pods of this name.
fn app_is(app: &str) -> Target {
    Target::Pods(Selector { labels: [("app".to_owned(), app.to_owned())].into(), ..Selector::default() })
}

fn to_path(test: PathTest) -> Operation {
    Operation { paths: vec![test], ..Operation::default() }
}

#[test]
fn without_policies_the_default_decides() {
    let head = head("GET", "/", &[]);
    assert!(Policies::default().is_open());
    assert!(Policies::default().judge(&call(&head)).is_allowed());
    let closed = policies(Action::Deny, Vec::new());
    assert!(!closed.is_open());
    let verdict = closed.judge(&call(&head));
    assert_eq!((verdict.decision.action, verdict.decision.by), (Action::Deny, None));
}

#[test]
fn a_detour_gets_round_neither_deny_nor_allow() {
    let admin = || vec![to_path(PathTest::prefix("/admin"))];
    let denied = policies(
        Action::Allow,
        vec![policy("a", false, Target::Namespace, vec![rule(Action::Deny, vec![], admin())])],
    );
    let public = vec![to_path(PathTest::prefix("/public"))];
    let allowed = policies(
        Action::Deny,
        vec![policy("a", false, Target::Namespace, vec![rule(Action::Allow, vec![], public)])],
    );
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin/x",
        "/public/..;/admin",
        "/public%2f..%2fadmin?x",
        "/public/..%252fadmin",
        "/public\\..\\admin",
    ] {
        let head = head("GET", path, &[]);
        assert!(!denied.judge(&call(&head)).is_allowed(), "{path} is denied");
        assert!(!allowed.judge(&call(&head)).is_allowed(), "{path} is not allowed");
    }
    for path in ["/public/x", "/public/a%2Fb", "/public//x;v=1"] {
        let head = head("GET", path, &[]);
        assert!(
            denied.judge(&call(&head)).is_allowed() && allowed.judge(&call(&head)).is_allowed(),
            "{path}"
        );
    }
    for path in ["/public/%00", "/public/100%"] {
        let head = head("GET", path, &[]);
        assert!(!denied.judge(&call(&head)).is_allowed(), "{path} cannot be read, so it may be /admin");
        assert!(!allowed.judge(&call(&head)).is_allowed(), "{path} cannot be read, so it may be anything");
    }
}

#[test]
fn bytes_that_are_no_http_meet_what_denies_and_not_what_allows() {
    let get = || vec![Operation { methods: vec!["GET".into()], ..Operation::default() }];
    let plain = head("GET", "/", &[]);
    let opaque = Call { head: None, ..call(&plain) };
    let one = |default, action| {
        policies(default, vec![policy("a", false, Target::Namespace, vec![rule(action, vec![], get())])])
    };
    assert!(!one(Action::Allow, Action::Deny).judge(&opaque).is_allowed());
    assert!(!one(Action::Deny, Action::Allow).judge(&opaque).is_allowed());
    let port = vec![Operation { ports: vec![80], ..Operation::default() }];
    let by_port = policies(
        Action::Deny,
        vec![policy("a", false, Target::Namespace, vec![rule(Action::Allow, vec![], port)])],
    );
    assert!(by_port.judge(&opaque).is_allowed(), "a port is known of them");
}

#[test]
fn all_values_of_a_field_are_allowed_or_one_is_denied() {
    let with = |action| {
        let headers = vec![("x-role".into(), ValueTest::Exact("admin".into()))];
        rule(action, vec![], vec![Operation { headers, ..Operation::default() }])
    };
    let one =
        |default, action| policies(default, vec![policy("a", false, Target::Namespace, vec![with(action)])]);
    let field = |value| Header { name: b"X-Role", value };
    for (fields, denied, allowed) in [
        (&[][..], false, false),
        (&[field(b"admin")][..], true, true),
        (&[field(b"admin"), field(b"user")][..], true, false),
        (&[field(b"user")][..], false, false),
    ] {
        let head = head("GET", "/", fields);
        assert_eq!(!one(Action::Allow, Action::Deny).judge(&call(&head)).is_allowed(), denied, "{fields:?}");
        assert_eq!(one(Action::Deny, Action::Allow).judge(&call(&head)).is_allowed(), allowed, "{fields:?}");
    }
}

#[test]
fn a_pod_that_is_not_known_gets_the_worse_of_policies_that_select_pods() {
    let web = app_is("web");
    let head = head("GET", "/", &[]);
    let of = |policies: &Policies, pod| policies.judge(&Call { pod, ..call(&head) }).is_allowed();
    let deny = policies(
        Action::Allow,
        vec![policy("a", false, web.clone(), vec![rule(Action::Deny, vec![], vec![])])],
    );
    assert_eq!(["p1", "p2", "", "p9"].map(|pod| of(&deny, pod)), [true, false, false, false]);
    let allow =
        policies(Action::Deny, vec![policy("a", false, web, vec![rule(Action::Allow, vec![], vec![])])]);
    assert_eq!(["p1", "p2", "", "p9"].map(|pod| of(&allow, pod)), [false, true, false, false]);
}

#[test]
fn who_is_left_out_has_to_be_proven_to_be_that() {
    let but =
        || Source { not_service_accounts: vec![("demo".into(), "frontend".into())], ..Source::default() };
    let of = |action, caller| {
        let default = if action == Action::Deny { Action::Allow } else { Action::Deny };
        let one = policies(
            default,
            vec![policy("a", false, Target::Namespace, vec![rule(action, vec![but()], vec![])])],
        );
        let head = head("GET", "/", &[]);
        one.judge(&Call { caller, ..call(&head) }).is_allowed()
    };
    let foreign = Identity { trust_domain: "evil.example", ..frontend() };
    let other = Identity { service_account: "other", ..frontend() };
    let callers = [Some(frontend()), Some(foreign), Some(other), None];
    assert_eq!(callers.map(|caller| of(Action::Deny, caller)), [true, false, false, false]);
    assert_eq!(callers.map(|caller| of(Action::Allow, caller)), [false, false, true, false]);
}

#[test]
fn a_verdict_names_policy_and_rule() {
    let get = || vec![Operation { methods: vec!["GET".into()], ..Operation::default() }];
    let rules = vec![rule(Action::Allow, vec![], vec![]), rule(Action::Deny, vec![], get())];
    let one = policies(Action::Allow, vec![policy("closed", false, Target::Namespace, rules)]);
    let head = head("GET", "/", &[]);
    let verdict = one.judge(&call(&head));
    let by = verdict.decision.by.unwrap();
    assert_eq!((&*by.policy.name, by.rule, by.rule_name()), ("closed", 1, "r"));
}

/// What a generated case is made of: small sets, so that rules are met often.
const CALLERS: [Option<(&str, &str, &str)>; 5] = [
    Some((OWN, "demo", "frontend")),
    Some((OWN, "demo", "batch")),
    Some((OWN, "ops", "frontend")),
    Some(("b.example", "demo", "frontend")),
    None,
];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 14] = [
    "/",
    "/a",
    "/a/b",
    "/ab",
    "/a//b",
    "/a/../c",
    "/c%2Fd",
    "/a;x/b",
    "/%zz",
    "/a?of=/c",
    "/c?%zz",
    "/c%2Fd?/../a",
    "/x\\..\\a",
    "/%2563/d",
];
/// How each of them may be read.
static READINGS: LazyLock<BTreeMap<&str, Option<BTreeSet<String>>>> = LazyLock::new(|| {
    let without_query = |path: &'static str| path.split('?').next().unwrap_or_default();
    PATHS.into_iter().map(|path| (path, readings::read(without_query(path)))).collect()
});
const ADDRESSES: [Option<[u8; 4]>; 3] = [Some([10, 1, 0, 5]), Some([10, 2, 0, 5]), None];

fn some<T: Clone + std::fmt::Debug + 'static>(of: &[T]) -> impl Strategy<Value = Vec<T>> + use<T> {
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::sample::subsequence(of.to_vec(), 1..=of.len().min(2))]
}

fn accounts() -> impl Strategy<Value = Vec<(Box<str>, Box<str>)>> {
    some(&[
        ("demo".into(), "frontend".into()),
        ("ops".into(), "frontend".into()),
        ("demo".into(), "batch".into()),
    ])
}

fn source() -> impl Strategy<Value = Source> {
    let blocks = vec![
        ("10.1.0.0/16".parse().unwrap(), vec!["10.1.0.0/24".parse().unwrap()]),
        ("10.0.0.0/8".parse().unwrap(), vec![]),
    ];
    let domains = vec![TrustDomain::Exact(OWN.into()), TrustDomain::Between("".into(), ".example".into())];
    let namespaces = || some(&["demo".into(), "ops".into()]);
    (
        accounts(),
        namespaces(),
        some(&domains),
        accounts(),
        namespaces(),
        some(&blocks),
        some(&blocks),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(
                service_accounts,
                namespaces,
                trust_domains,
                not_service_accounts,
                not_namespaces,
                ip_blocks,
                not_ip_blocks,
                is_unidentified,
            )| Source {
                service_accounts,
                namespaces,
                trust_domains,
                not_service_accounts,
                not_namespaces,
                ip_blocks,
                not_ip_blocks,
                is_unidentified,
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    let methods = || some(&METHODS.map(Box::from));
    let paths = || {
        some(&[
            PathTest::Exact("/a".into()),
            PathTest::prefix("/a"),
            PathTest::Exact("/c/d".into()),
            PathTest::prefix("/c"),
        ])
    };
    let headers = some(&[("x-role".into(), ValueTest::Exact("admin".into()))]);
    (some(&[80, 81]), some(&[80, 81]), methods(), methods(), paths(), paths(), headers).prop_map(
        |(ports, not_ports, methods, not_methods, paths, not_paths, headers)| Operation {
            ports,
            not_ports,
            methods,
            not_methods,
            paths,
            not_paths,
            headers,
        },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    (action, proptest::collection::vec(source(), 0..3), proptest::collection::vec(operation(), 0..3))
        .prop_map(|(action, from, to)| rule(action, from, to))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let service = |name: &str, port| Target::Service { name: name.into(), port };
    let targets = vec![
        Target::Namespace,
        service("quotes", None),
        service("quotes", Some(80)),
        service("web", None),
        app_is("quotes"),
        app_is("web"),
    ];
    let parts = (
        "[a-f]",
        prop_oneof![4 => Just("demo"), 1 => Just("ops")],
        prop::bool::weighted(0.25),
        proptest::sample::select(targets),
        proptest::collection::vec(any_rule(), 1..4),
    );
    parts.prop_map(|(name, namespace, is_audit, target, rules)| Policy {
        namespace: namespace.into(),
        name: name.into(),
        is_audit,
        target,
        rules,
    })
}

fn default() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Deny)]
}

/// Three-valued: what is not known is neither.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Unknown,
}

impl Truth {
    fn of(holds: bool) -> Self {
        if holds { Truth::Yes } else { Truth::No }
    }

    fn and(self, other: Truth) -> Self {
        match (self, other) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
            _ => Truth::Unknown,
        }
    }

    fn or(self, other: Truth) -> Self {
        match (self, other) {
            (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
            (Truth::No, Truth::No) => Truth::No,
            _ => Truth::Unknown,
        }
    }

    fn not(self) -> Self {
        match self {
            Truth::Yes => Truth::No,
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
        }
    }
}

/// The other evaluator: three-valued logic over the whole of a rule, decided only at its end.
struct Naive<'a> {
    call: Call<'a>,
    /// None: it cannot be read, or there is none.
    path: Option<&'a str>,
}

impl Naive<'_> {
    /// Whether the caller is one of these; Unknown when nothing is proven of the caller.
    fn is(&self, own: &str, domains: &[TrustDomain], among: impl Fn(&Identity<'_>) -> bool) -> Truth {
        let Some(caller) = self.call.caller else { return Truth::Unknown };
        let text = caller.trust_domain;
        let is_home = domains.iter().any(|domain| match domain {
            TrustDomain::Exact(one) => text == &**one,
            TrustDomain::Between(a, b) => {
                text.len() >= a.len() + b.len() && text.starts_with(&**a) && text.ends_with(&**b)
            }
        }) || (domains.is_empty() && text == own);
        if is_home { Truth::of(among(&caller)) } else { Truth::Unknown }
    }

    fn source(&self, own: &str, source: &Source) -> Truth {
        let mut truth = Truth::Yes;
        let among = |list: &[(Box<str>, Box<str>)], id: &Identity<'_>| {
            list.contains(&(id.namespace.into(), id.service_account.into()))
        };
        let domains = &source.trust_domains;
        // Of a named caller nothing remains unknown: who is not proven to be it is not.
        let named = |truth: Truth| if truth == Truth::Unknown { Truth::No } else { truth };
        if !domains.is_empty() {
            truth = truth.and(named(self.is(own, domains, |_| true)));
        }
        if !source.service_accounts.is_empty() {
            truth = truth.and(named(self.is(own, domains, |id| among(&source.service_accounts, id))));
        }
        if !source.namespaces.is_empty() {
            truth = truth
                .and(named(self.is(own, domains, |id| source.namespaces.contains(&id.namespace.into()))));
        }
        if !source.not_service_accounts.is_empty() {
            truth = truth.and(self.is(own, domains, |id| among(&source.not_service_accounts, id)).not());
        }
        if !source.not_namespaces.is_empty() {
            truth = truth
                .and(self.is(own, domains, |id| source.not_namespaces.contains(&id.namespace.into())).not());
        }
        if source.is_unidentified {
            truth = truth.and(Truth::of(self.call.caller.is_none()));
        }
        let within = |blocks: &[(IpNet, Vec<IpNet>)]| {
            self.call.source.map_or(Truth::Unknown, |address| {
                let mut within = blocks.iter().filter(|(block, _)| block.contains(&address));
                Truth::of(within.any(|(_, except)| except.iter().all(|part| !part.contains(&address))))
            })
        };
        if !source.ip_blocks.is_empty() {
            truth = truth.and(within(&source.ip_blocks));
        }
        if !source.not_ip_blocks.is_empty() {
            truth = truth.and(within(&source.not_ip_blocks).not());
        }
        truth
    }

    fn operation(&self, operation: &Operation) -> Truth {
        let port = self.call.port;
        let mut truth = Truth::of(operation.ports.is_empty() || operation.ports.contains(&port));
        truth = truth.and(Truth::of(!operation.not_ports.contains(&port)));
        let head = |test: &dyn Fn(&RequestHead<'_>) -> Truth| self.call.head.map_or(Truth::Unknown, test);
        if !operation.methods.is_empty() {
            truth = truth.and(head(&|head| Truth::of(operation.methods.iter().any(|m| **m == *head.method))));
        }
        if !operation.not_methods.is_empty() {
            truth =
                truth.and(head(&|head| Truth::of(operation.not_methods.iter().all(|m| **m != *head.method))));
        }
        for (name, test) in &operation.headers {
            truth = truth.and(head(&|head| {
                let met: Vec<bool> = head.headers.get_all(name).map(|value| test.is_met(value)).collect();
                match (met.contains(&true), met.contains(&false)) {
                    (true, true) => Truth::Unknown,
                    (true, false) => Truth::Yes,
                    (false, _) => Truth::No,
                }
            }));
        }
        let path =
            |test: &dyn Fn(&str) -> bool| self.path.map_or(Truth::Unknown, |path| Truth::of(test(path)));
        if !operation.paths.is_empty() {
            truth = truth.and(path(&|path| operation.paths.iter().any(|test| test.is_met(path))));
        }
        if !operation.not_paths.is_empty() {
            truth = truth.and(path(&|path| !operation.not_paths.iter().any(|test| test.is_met(path))));
        }
        truth
    }

    fn rule(&self, own: &str, rule: &Rule) -> bool {
        let any = |truths: Vec<Truth>| {
            if truths.is_empty() { Truth::Yes } else { truths.into_iter().fold(Truth::No, Truth::or) }
        };
        let from = any(rule.from.iter().map(|source| self.source(own, source)).collect());
        let to = any(rule.to.iter().map(|operation| self.operation(operation)).collect());
        match from.and(to) {
            Truth::Yes => true,
            Truth::No => false,
            Truth::Unknown => rule.action == Action::Deny,
        }
    }
}

fn naive(
    default: Action,
    all: &[Policy],
    call: &Call<'_>,
    pod_app: Option<&str>,
    with_audit: bool,
) -> Action {
    let mut whole = Action::Allow;
    let readings = call.head.and_then(|head| READINGS[head.path].as_ref());
    let each: Vec<_> = readings.map_or(vec![None], |all| all.iter().map(|path| Some(&**path)).collect());
    for path in each {
        let one = Naive { call: *call, path };
        let (mut deny, mut allow) = (false, false);
        for policy in all.iter().filter(|policy| *policy.namespace == *call.namespace) {
            if policy.is_audit && !with_audit {
                continue;
            }
            let is_target = match &policy.target {
                Target::Namespace => Truth::Yes,
                Target::Service { name, port } => {
                    Truth::of(**name == *call.service && port.is_none_or(|port| port == call.port))
                }
                Target::Pods(of) => pod_app.map_or(Truth::Unknown, |app| Truth::of(of.labels["app"] == app)),
            };
            for rule in &policy.rules {
                let is_about = one.rule(OWN, rule);
                match (is_target, rule.action) {
                    (Truth::Yes | Truth::Unknown, Action::Deny) => deny |= is_about,
                    (Truth::Yes, Action::Allow) => allow |= is_about,
                    _ => {}
                }
            }
        }
        let action = match (deny, allow) {
            (true, _) => Action::Deny,
            (false, true) => Action::Allow,
            (false, false) => default,
        };
        if action == Action::Deny {
            whole = Action::Deny;
        }
    }
    whole
}

/// Every call of the table.
fn each_call(
    mut check: impl FnMut(&Call<'_>, Option<&str>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let admin = Header { name: b"x-role", value: b"admin" };
    let user = Header { name: b"x-role", value: b"user" };
    let fields: [&[Header<'_>]; 3] = [&[], &[admin], &[admin, user]];
    let mut heads = vec![None];
    for method in METHODS {
        for (i, path) in PATHS.into_iter().enumerate() {
            heads.push(Some(head(method, path, fields[i % fields.len()])));
        }
    }
    for caller in CALLERS {
        let caller = caller.map(|(trust_domain, namespace, service_account)| Identity {
            trust_domain,
            namespace,
            service_account,
        });
        for head in &heads {
            for (i, (pod, app)) in
                [("p1", Some("quotes")), ("p2", Some("web")), ("", None)].into_iter().enumerate()
            {
                for port in [80, 81] {
                    let source = ADDRESSES[(i + usize::from(port)) % ADDRESSES.len()].map(IpAddr::from);
                    let call = Call {
                        caller,
                        source,
                        namespace: "demo",
                        service: "quotes",
                        port,
                        pod,
                        head: head.as_ref(),
                    };
                    check(&call, app)?;
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_generated_table_is_judged_as_a_naive_evaluator_does(
        default in default(),
        all in proptest::collection::vec(any_policy(), 0..5),
    ) {
        let compiled = policies(default, all.iter().cloned().map(Arc::new).collect());
        each_call(|call, app| {
            let verdict = compiled.judge(call);
            let expected = naive(default, &all, call, app, false);
            prop_assert_eq!(verdict.decision.action, expected, "{:?}", call);
            let audited = naive(default, &all, call, app, true);
            prop_assert_eq!(verdict.audit.map_or(expected, |audit| audit.action), audited, "{:?}", call);
            Ok(())
        })?;
    }

    #[test]
    fn audit_decides_nothing(default in default(), all in proptest::collection::vec(any_policy(), 0..5)) {
        let with = policies(default, all.iter().cloned().map(Arc::new).collect());
        let enforced = all.iter().filter(|policy| !policy.is_audit).cloned().map(Arc::new);
        let without = policies(default, enforced.collect());
        each_call(|call, _| {
            prop_assert_eq!(with.judge(call).decision.action, without.judge(call).decision.action, "{:?}", call);
            Ok(())
        })?;
    }

    #[test]
    fn a_rule_that_denies_always_wins(
        default in default(),
        all in proptest::collection::vec(any_policy(), 0..4),
        denying in any_rule(),
    ) {
        let denying = Rule { action: Action::Deny, ..denying };
        let alone = policies(Action::Allow, vec![policy("z", false, Target::Namespace, vec![denying.clone()])]);
        let mut together: Vec<_> = all.into_iter().map(Arc::new).collect();
        together.push(policy("z", false, Target::Namespace, vec![denying]));
        let together = policies(default, together);
        each_call(|call, _| {
            prop_assert!(alone.judge(call).is_allowed() || !together.judge(call).is_allowed(), "{:?}", call);
            Ok(())
        })?;
    }

    #[test]
    fn the_order_of_rules_and_policies_does_not_matter(
        default in default(),
        all in proptest::collection::vec(any_policy(), 0..5),
        seed in any::<prop::sample::Index>(),
    ) {
        let compiled = policies(default, all.iter().cloned().map(Arc::new).collect());
        let mut turned = all;
        let by = seed.index(turned.len().max(1));
        turned.rotate_left(by);
        for policy in &mut turned {
            policy.rules.reverse();
        }
        let turned = policies(default, turned.into_iter().map(Arc::new).collect());
        each_call(|call, _| {
            let (one, other) = (compiled.judge(call), turned.judge(call));
            prop_assert_eq!(one.decision.action, other.decision.action);
            prop_assert_eq!(one.audit.map(|audit| audit.action), other.audit.map(|audit| audit.action));
            Ok(())
        })?;
    }
}
