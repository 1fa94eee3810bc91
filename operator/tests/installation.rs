//! `config/default` on a real API server: schemas refuse what is wrong and say what would be right, roles suffice and are
//! not more than that, and the command line sees the installation. Nothing is left but the installation itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const OPERATOR: &str = "system:serviceaccount:vicino-system:vicino-operator";
/// How long the API server and the aggregation of roles may take to show what was applied.
const SETTLE_MAX: Duration = Duration::from_mins(1);

fn kubeconfig() -> PathBuf {
    let path = std::env::var_os("VICINO_TEST_KUBECONFIG");
    path.map(PathBuf::from)
        .expect("VICINO_TEST_KUBECONFIG is not set, so this test did not run: use `tests/run api`")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs kubectl, from `PATH`, in the repository, with `input`.
fn kubectl(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig()).args(arguments).current_dir(repository());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl must be in PATH");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn vicino(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vicino"));
    command.arg("--kubeconfig").arg(kubeconfig()).args(arguments).current_dir(repository()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Looks until `look` finds nothing to complain about.
#[expect(clippy::disallowed_methods, reason = "the bound of a wait on another process is real time")]
fn until(look: impl Fn() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match look() {
            Ok(()) => return,
            Err(problem) => assert!(start.elapsed() < SETTLE_MAX, "{problem}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn install() {
    let applied = kubectl(&["apply", "--server-side", "--force-conflicts", "-k", "config/default"], "");
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let kinds = [
        "crd/servicemeshes.vicino.dev",
        "crd/meshroutes.vicino.dev",
        "crd/meshpolicies.vicino.dev",
        "crd/meshnodes.vicino.dev",
    ];
    let established =
        kubectl(&[&["wait", "--for=condition=Established", "--timeout=60s"], &kinds[..]].concat(), "");
    assert!(established.status.success(), "{}", text(&established.stderr));
    // Whoever looks for a kind finds it a moment after it is established.
    until(|| {
        let found = text(&kubectl(&["api-resources", "--api-group=vicino.dev", "-o", "name"], "").stdout);
        let is_found = |kind: &str| found.contains(kind.trim_start_matches("crd/"));
        kinds.iter().all(|kind| is_found(kind)).then_some(()).ok_or(found)
    });
}

/// What the API server says to a manifest that it would not store.
fn refusal(manifest: &str) -> String {
    let output = kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], manifest);
    assert!(!output.status.success(), "was accepted: {manifest}");
    text(&output.stderr)
}

#[test]
fn what_is_wrong_is_refused_with_what_would_be_right() {
    install();
    let mesh = |name: &str, spec: &str| {
        format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let route = |spec: &str| {
        format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{name: web, namespace: default}}\nspec: {spec}\n"
        )
    };
    let table = [
        (mesh("a.b", "{}"), "metadata.name must be at most 40 lower-case letters, digits and '-'"),
        (
            mesh("a-nodes", "{}"),
            "metadata.name must not have '-nodes', '-policies' or '-routes' in it as a word",
        ),
        (
            mesh("a-routes-b", "{}"),
            "metadata.name must not have '-nodes', '-policies' or '-routes' in it as a word",
        ),
        (
            mesh("a", "{proxy: {workers: 65}}"),
            "spec.proxy.workers in body should be less than or equal to 64",
        ),
        (
            mesh("a", "{proxy: {logLevel: verbose}}"),
            "supported values: \"Error\", \"Warn\", \"Info\", \"Debug\"",
        ),
        (
            mesh("a", "{proxy: {drainSeconds: 0}}"),
            "spec.proxy.drainSeconds in body should be greater than or equal to 1",
        ),
        (mesh("a", "{interception: {mode: Magic}}"), "spec.interception.mode: Unsupported value: \"Magic\""),
        (mesh("a", "{worker: 1}"), ".spec.worker: field not declared in schema"),
        (mesh("a", "{clusterDomain: \"Cluster.Local\"}"), "spec.clusterDomain"),
        (
            route("{backends: [{name: web, weight: 0}]}"),
            "at least one of spec.backends must have a weight above 0",
        ),
        (route("{backends: [{name: web.other}]}"), "spec.backends[0].name"),
        (route("{hedge: {delayMilliseconds: 0}}"), "spec.hedge.delayMilliseconds"),
        (
            route("{hedge: {delayMilliseconds: 1, budgetPercent: 0, minPerSecond: 0}}"),
            "without a budget nothing is hedged",
        ),
        (
            route("{concurrency: {perPod: 1, adaptive: {targetMilliseconds: 1, minPerPod: 2}}}"),
            "adaptive.minPerPod must not be above perPod",
        ),
        (route("{loadBalancer: {type: Fastest}}"), "spec.loadBalancer.type"),
        (route("{rules: [{cors: {allowOrigins: [example.com]}}]}"), "spec.rules[0].cors.allowOrigins[0]"),
        (route("{rules: [{requestMirror: {percent: 5}}]}"), "spec.rules[0].requestMirror.name"),
        (
            route("{backends: [{name: web, port: 0}]}"),
            "spec.backends[0].port in body should be greater than or equal to 1",
        ),
        (route("{requeues: 6}"), "spec.requeues in body should be less than or equal to 5"),
        (route("{timeouts: {requestMilliseconds: -1}}"), "should be greater than or equal to 0"),
    ];
    for (manifest, expected) in table {
        let said = refusal(&manifest);
        assert!(said.contains(expected), "{manifest}\nexpected: {expected}\nsaid: {said}");
    }
    for sample in ["config/samples/servicemesh.yaml", "config/demo/namespace.yaml"] {
        let output = kubectl(&["apply", "--server-side", "--dry-run=server", "-f", sample], "");
        assert!(output.status.success(), "{sample}: {}", text(&output.stderr));
    }
}

#[test]
fn a_trust_domain_or_a_lifetime_that_cannot_be_is_refused() {
    install();
    for (identity, expected) in [
        ("trustDomain: 'Bad_Domain!'", "spec.identity.trustDomain in body should match '^[a-z0-9._-]+$'"),
        ("trustDomain: ''", "spec.identity.trustDomain in body should be at least 1 chars long"),
        (
            "certificateLifetimeSeconds: 599",
            "spec.identity.certificateLifetimeSeconds in body should be greater than or equal to 600",
        ),
    ] {
        let said = refusal(&format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {{name: a}}\nspec: {{identity: {{{identity}}}}}\n"
        ));
        assert!(said.contains(expected), "{identity}\nexpected: {expected}\nsaid: {said}");
    }
}

#[test]
fn the_trust_domain_of_a_mesh_stays() {
    install();
    // On a node that no cluster has, with a name that no other test wants.
    let mesh = |spec: &str| {
        format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {{name: trust}}\nspec: {{proxy: {{nodeSelector: {{no-node: has-this}}}}, {spec}}}\n"
        )
    };
    let apply = |spec: &str, more: &[&str]| kubectl(&[&["apply", "-f", "-"], more].concat(), &mesh(spec));
    kubectl(&["delete", "servicemesh", "trust", "--ignore-not-found"], "");
    let made = apply("clusterDomain: cluster.local", &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let dry = ["--dry-run=server"];
    for same in [
        "identity: {trustDomain: cluster.local}",
        "identity: {trustDomain: cluster.local}, clusterDomain: other.local",
        "identity: {mode: Strict}",
    ] {
        let said = apply(same, &dry);
        assert!(said.status.success(), "{same}: {}", text(&said.stderr));
    }
    for other in ["identity: {trustDomain: example.org}", "clusterDomain: other.local"] {
        let said = apply(other, &dry);
        let said = text(&said.stderr);
        assert!(
            said.contains(
                "spec.identity.trustDomain, or spec.clusterDomain where that is absent, cannot be changed"
            ),
            "{other}: {said}"
        );
    }
    kubectl(&["delete", "servicemesh", "trust"], "");
}

#[test]
fn the_operators_namespace_admits_only_restricted_pods() {
    install();
    let privileged = |namespace: &str| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: privileged, namespace: {namespace}}}\nspec: {{hostNetwork: true, containers: [{{name: c, image: 'example.invalid/none:1'}}]}}\n"
        );
        kubectl(&["create", "--dry-run=server", "-f", "-"], &pod)
    };
    // Where the namespace was there before, what watches its labels is told a moment later.
    until(|| {
        let said = text(&privileged("vicino-system").stderr);
        said.contains("violates PodSecurity \"restricted:").then_some(()).ok_or(said)
    });
    let said = privileged("vicino-proxy");
    assert!(said.status.success(), "{}", text(&said.stderr));
}

/// Whether `user` may; `resource` is `plural.group`, then `/name` or `#subresource`.
fn may(user: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let (resource, subresource) = resource.split_once('#').unwrap_or((resource, ""));
    let arguments =
        ["auth", "can-i", verb, resource, "--subresource", subresource, "-n", namespace, "--as", user];
    let output = kubectl(&arguments, "");
    match text(&output.stdout).trim() {
        "yes" => true,
        "no" => false,
        other => panic!("{other}{}", text(&output.stderr)),
    }
}

#[test]
fn the_operator_may_do_its_work_and_no_more() {
    install();
    let (own, proxies, elsewhere) = ("vicino-system", "vicino-proxy", "default");
    for (verb, resource, namespace) in [
        ("watch", "services", elsewhere),
        ("list", "endpointslices.discovery.k8s.io", elsewhere),
        ("create", "meshroutes.vicino.dev", elsewhere),
        ("patch", "meshroutes.vicino.dev#status", elsewhere),
        ("patch", "servicemeshes.vicino.dev#status", elsewhere),
        ("watch", "meshpolicies.vicino.dev", elsewhere),
        ("patch", "meshpolicies.vicino.dev#status", elsewhere),
        ("delete", "meshnodes.vicino.dev", elsewhere),
        ("patch", "configmaps", proxies),
        ("create", "daemonsets.apps", proxies),
        ("update", "leases.coordination.k8s.io/vicino-operator", own),
        ("get", "secrets/vicino-authority", own),
        ("patch", "secrets/vicino-authority", own),
        ("create", "secrets", own),
        ("create", "tokenreviews.authentication.k8s.io", elsewhere),
    ] {
        // Roles count a moment after they are there.
        let problem = || format!("it may not {verb} {resource} in {namespace}");
        until(|| may(OPERATOR, verb, resource, namespace).then_some(()).ok_or_else(problem));
    }
    for (verb, resource, namespace) in [
        ("list", "secrets", own),
        ("watch", "secrets/vicino-authority", own),
        ("get", "secrets/another", own),
        ("patch", "secrets/another", own),
        ("update", "secrets/vicino-authority", own),
        ("delete", "secrets/vicino-authority", own),
        ("create", "serviceaccounts#token", proxies),
        ("get", "secrets", proxies),
        ("patch", "services", elsewhere),
        ("patch", "servicemeshes.vicino.dev", elsewhere),
        ("patch", "meshpolicies.vicino.dev", elsewhere),
        ("create", "meshpolicies.vicino.dev", elsewhere),
        ("update", "servicemeshes.vicino.dev#finalizers", elsewhere),
        ("patch", "customresourcedefinitions.apiextensions.k8s.io", elsewhere),
        ("create", "configmaps", elsewhere),
        ("create", "daemonsets.apps", elsewhere),
        ("create", "pods", proxies),
        ("update", "leases.coordination.k8s.io/another", own),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", elsewhere),
        ("bind", "clusterroles.rbac.authorization.k8s.io", elsewhere),
        ("impersonate", "users", elsewhere),
    ] {
        assert!(!may(OPERATOR, verb, resource, namespace), "it may {verb} {resource} in {namespace}");
    }
}

#[test]
fn the_operator_writes_only_cluster_roles_of_meshes_and_grants_only_what_it_has() {
    install();
    let create = |name: &str, rule: &str| {
        let dry = ["create", "--dry-run=server", "-o", "name", "--as", OPERATOR, "clusterrole", name];
        let rules: Vec<&str> = rule.split(' ').collect();
        let output = kubectl(&[&dry[..], &rules[..]].concat(), "");
        if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
    };
    let reads = "--verb=list,watch --resource=meshnodes.vicino.dev,endpointslices.discovery.k8s.io";
    // The policy takes a moment to be in force.
    until(|| match create("view-of-mine", reads) {
        Err(said) if said.contains("named vicino-<mesh>, not view-of-mine") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    create("vicino-shop", reads).unwrap();
    let said = create("vicino-shop", "--verb=get --resource=secrets").unwrap_err();
    assert!(said.contains("attempting to grant RBAC permissions not currently held"), "{said}");
    let delete = ["delete", "--dry-run=server", "--as", OPERATOR, "clusterrole", "view"];
    let said = text(&kubectl(&delete, "").stderr);
    assert!(said.contains("named vicino-<mesh>, not view"), "{said}");
}

/// A kubeconfig by which `account` of the namespace `default` speaks.
fn kubeconfig_of(account: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("vicino-{account}-{}.kubeconfig", std::process::id()));
    std::fs::copy(kubeconfig(), &path).unwrap();
    let token = kubectl(&["create", "token", account, "-n", "default"], "");
    assert!(token.status.success(), "{}", text(&token.stderr));
    let set = |arguments: &[&str]| {
        let output = Command::new("kubectl").arg("--kubeconfig").arg(&path).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    set(&["config", "set-credentials", account, "--token", text(&token.stdout).trim()]);
    set(&["config", "set-context", "--current", "--user", account]);
    path
}

#[test]
fn the_roles_that_are_named_for_the_command_line_suffice() {
    install();
    let account = "looker";
    let apply = |manifest: &str| {
        let output = kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let binding = |kind: &str, name: &str, role: &str| {
        let place = if kind == "RoleBinding" { "namespace: default" } else { "labels: {}" };
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, {place}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: '{role}'}}\n\
             subjects: [{{kind: ServiceAccount, name: {account}, namespace: default}}]\n"
        )
    };
    apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: default}}\n---\n{}",
        binding("RoleBinding", account, "view")
    ));
    let kubeconfig = kubeconfig_of(account);
    let runs = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vicino"));
        let output = command.arg("--kubeconfig").arg(&kubeconfig).args(arguments).output().unwrap();
        // 1 says that something was found.
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(format!("{arguments:?}: {}", text(&output.stderr))),
        }
    };
    until(|| runs(&["routes", "-n", "default"]));
    let said = runs(&["diff"]).unwrap_err();
    assert!(said.contains("ask for the ClusterRoles view and vicino:inspect"), "{said}");
    apply(&format!(
        "{}---\n{}",
        binding("ClusterRoleBinding", "looker-view", "view"),
        binding("ClusterRoleBinding", "looker-inspect", "vicino:inspect")
    ));
    for arguments in
        [&["diff"][..], &["render"], &["routes", "-A", "-o", "wide"], &["policy", "list", "-A"], &["version"]]
    {
        until(|| runs(arguments));
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_vicino"))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .arg("check")
        .output()
        .unwrap();
    let said = text(&checked.stdout);
    assert!(!said.contains("cannot read"), "{said}");
    kubectl(&["delete", "clusterrolebinding", "looker-view", "looker-inspect"], "");
    kubectl(&["delete", "serviceaccount", account, "-n", "default"], "");
    kubectl(&["delete", "rolebinding", account, "-n", "default"], "");
    std::fs::remove_file(kubeconfig).unwrap();
}

#[test]
fn built_in_roles_reach_our_kinds() {
    install();
    let role = |name: &str| text(&kubectl(&["get", "clusterrole", name, "-o", "json"], "").stdout);
    let has = |name: &str, verb: &str, resource: &str| {
        let role: serde_json::Value = serde_json::from_str(&role(name)).unwrap();
        let contains = |list: &serde_json::Value, word: &str| {
            list.as_array().is_some_and(|l| l.iter().any(|v| v == word))
        };
        role["rules"].as_array().into_iter().flatten().any(|rule| {
            contains(&rule["apiGroups"], "vicino.dev")
                && contains(&rule["resources"], resource)
                && contains(&rule["verbs"], verb)
        })
    };
    until(|| {
        let all = has("view", "list", "servicemeshes")
            && has("edit", "patch", "meshroutes")
            && has("edit", "create", "meshpolicies")
            && has("view", "watch", "meshpolicies")
            && has("admin", "delete", "meshroutes");
        if all { Ok(()) } else { Err(format!("not aggregated: {}", role("edit"))) }
    });
    assert!(
        !has("view", "patch", "meshroutes")
            && !has("edit", "patch", "servicemeshes")
            && !has("admin", "patch", "meshnodes")
    );
}

#[test]
fn the_command_line_sees_the_installation_and_what_files_would_change() {
    install();
    until(|| {
        let check = vicino(&["check", "--wait", "0", "-o", "json"]);
        let answer: serde_json::Value =
            serde_json::from_slice(&check.stdout).map_err(|e| format!("{e}: {}", text(&check.stderr)))?;
        let findings = answer["findings"].as_array().unwrap();
        for area in ["kubernetes", "kinds", "admission"] {
            let mut of_area = findings.iter().filter(|finding| finding["area"] == area).peekable();
            let well = of_area.peek().is_some() && of_area.all(|finding| finding["verdict"] == "ok");
            if !well {
                return Err(format!("{area}: {answer:#}"));
            }
        }
        Ok(())
    });
    // With a name of its own, so that whatever else is on this cluster is left alone.
    let files = std::env::temp_dir().join(format!("vicino-installation-{}.yaml", std::process::id()));
    let manifests = "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {name: proposed}\nspec: {proxy: {nodeSelector: {no-node: has-this}}}\n---\n\
                     apiVersion: v1\nkind: Namespace\nmetadata: {name: proposed, labels: {vicino.dev/mesh: proposed}}\n---\n\
                     apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: proposed}\nspec: {ports: [{port: 80}]}\n";
    std::fs::write(&files, manifests).unwrap();
    let diff = vicino(&["diff", "-o", "name", "-f", files.to_str().unwrap()]);
    std::fs::remove_file(&files).unwrap();
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    let names = text(&diff.stdout);
    for expected in [
        "meshroute.vicino.dev/web -n proposed\n",
        "configmap/vicino-proposed-routes-proposed -n vicino-proxy\n",
        "daemonset.apps/vicino-proposed -n vicino-proxy\n",
    ] {
        assert!(names.contains(expected), "{expected}{names}");
    }
    assert!(!kubectl(&["get", "servicemesh", "proposed"], "").status.success(), "diff must write nothing");
    let nowhere = vicino(&["routes", "--context", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("--context"), "{}", text(&nowhere.stderr));
}
