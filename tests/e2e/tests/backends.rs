//! Where calls go besides the Service that was called: copies, Services of other namespaces; and what heads say on the way, by backend and for pages of other origins.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use kube::ResourceExt;
use rustix::process::{Signal, kill_process};
use vicino_e2e::caller::{Caller, CurlAnswer};
use vicino_e2e::mesh::{programmed, route_says};
use vicino_e2e::workload::{App, EFFECT_MAX, LABEL, PODS_READY_MAX, Space, is_ready, list, process};
use vicino_e2e::{Fixture, scenario};

const ROUTE: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: front}
spec:
  overrides: [{name: shadow}]
  rules:
  - matches: [{path: {value: /flaky}}]
    requestMirror: {name: shadow}
  - cors: {allowOrigins: ['https://*.example'], allowMethods: [PUT], allowCredentials: true, maxAgeSeconds: 60}
    backends:
    - name: front
      requestHeaderModifier: {set: [{name: x-tier, value: gold}], remove: [x-secret]}
      responseHeaderModifier: {set: [{name: x-served-by, value: front}]}
";

/// What the Gateway API installs, as far as this test needs it.
const GRANT_KIND: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: referencegrants.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: 'unapproved, a part of the Gateway API for a test'}
spec:
  group: gateway.networking.k8s.io
  names: {kind: ReferenceGrant, plural: referencegrants, singular: referencegrant}
  scope: Namespaced
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// Another name for the front, and another for that.
const ALIASES: &str = "
apiVersion: v1
kind: Service
metadata: {name: old-front}
spec: {type: ExternalName, externalName: front.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: older-front}
spec: {type: ExternalName, externalName: old-front.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: front}
spec: {rules: [{responseHeaderModifier: {set: [{name: x-route, value: front}]}}]}
";

async fn curl(caller: &Caller, arguments: &[&str]) -> Result<CurlAnswer> {
    let proxy = format!("http://{}", caller.proxy);
    caller.curl(&[&["--proxy", &*proxy], arguments].concat()).await
}

#[test]
fn services_have_other_names() {
    scenario("names", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "names", &[App::new("front", 1).on(&nodes[1])]).await?;
        space.apply(&ALIASES.replace("NAMESPACE", &space.name)).await?;
        programmed(fixture, &space.name, "front").await?;
        let caller = space.caller(&nodes[0]);
        let get = async |url: &str| curl(caller, &[url]).await;
        let whole = format!("older-front.{}.svc.cluster.local", space.name);
        for name in ["old-front", "older-front", &whole] {
            let url = format!("http://{name}/headers");
            fixture
                .until(&format!("{name} is the front"), EFFECT_MAX, async || {
                    let answer = get(&url).await?;
                    Ok(answer.status == 200 && answer.header("x-route") == Some("front"))
                })
                .await?;
        }
        let answer = get("http://outside/").await?;
        ensure!(answer.status == 404 && answer.header("vicino-error") == Some("no-such-service"), "{answer}");
        space.kubectl(&["delete", "service", "old-front"]).await?;
        fixture
            .until("the name is gone", EFFECT_MAX, async || {
                Ok(get("http://older-front/").await?.status == 404)
            })
            .await?;
        let routes = space.kubectl(&["get", "meshroutes", "-o", "name"]).await?;
        ensure!(routes.trim() == "meshroute.vicino.dev/front", "other names have no routes: {routes}");
        space.leave().await
    });
}

#[test]
fn copies_of_calls_and_heads_by_backend_and_origin() {
    scenario("copies", async |fixture| {
        let nodes = fixture.nodes();
        let apps = [App::new("front", 1).on(&nodes[0]), App::new("shadow", 1).on(&nodes[1])];
        let space = Space::new(fixture, "copies", &apps).await?;
        space.apply(ROUTE).await?;
        programmed(fixture, &space.name, "front").await?;
        let callers = [space.caller(&nodes[0]), space.caller(&nodes[2])];
        for caller in callers {
            for _ in 0..10 {
                let answer = curl(caller, &["http://front/flaky?every=1000"]).await?;
                ensure!(answer.status == 200, "{answer}");
            }
        }
        // The shadow counts its calls, these as well: each call of the front's is there once, the last ones perhaps a moment later.
        let (mut asked, mut counted) = (0, 0);
        let copied = fixture.until("20 copies at the shadow", EFFECT_MAX, async || {
            let answer = curl(callers[0], &["http://shadow/flaky?every=1000000"]).await?;
            asked += 1;
            counted = answer.header("x-call").context("no number")?.parse().context("a number")?;
            Ok(counted == 20 + asked)
        });
        let copied = copied.await;
        copied.with_context(|| format!("{counted} calls at the shadow, {asked} of them no copies"))?;

        for caller in callers {
            let answer = curl(caller, &["--header", "x-secret: 1", "http://front/headers"]).await?;
            let seen = String::from_utf8_lossy(&answer.body).into_owned();
            ensure!(answer.header("x-served-by") == Some("front"), "{answer}");
            ensure!(seen.contains(r#"["x-tier","gold"]"#) && !seen.contains("x-secret"), "{seen}");
            ensure!(answer.header("access-control-allow-origin").is_none(), "no page has asked: {answer}");

            let page = ["--header", "Origin: https://shop.example"];
            let answer = curl(caller, &[&page[..], &["http://front/headers"]].concat()).await?;
            ensure!(answer.status == 200, "{answer}");
            ensure!(answer.header("access-control-allow-origin") == Some("https://shop.example"), "{answer}");
            ensure!(answer.header("vary") == Some("Origin"), "{answer}");
            let asked = ["--request", "OPTIONS", "--header", "Access-Control-Request-Method: PUT"];
            let answer = curl(caller, &[&page[..], &asked, &["http://front/headers"]].concat()).await?;
            ensure!(
                answer.status == 204 && answer.body.is_empty(),
                "a preflight is answered by the mesh: {answer}"
            );
            ensure!(answer.header("access-control-allow-methods") == Some("PUT"), "{answer}");
            let other = ["--header", "Origin: https://elsewhere.test"];
            let answer = curl(caller, &[&other[..], &["http://front/headers"]].concat()).await?;
            ensure!(answer.header("access-control-allow-origin").is_none(), "{answer}");
        }
        for (wish, status, app) in [
            ("vicino-route: front=shadow", 200, "shadow-"),
            ("vicino-route: other=x, front=shadow", 200, "shadow-"),
            ("vicino-route: other=shadow", 200, "front-"),
            ("vicino-route: front=other", 403, ""),
        ] {
            let answer = curl(callers[1], &["--header", wish, "http://front/headers"]).await?;
            let pod = answer.header("x-pod").unwrap_or_default();
            ensure!(answer.status == status && pod.starts_with(app), "{wish}: {answer}");
            let seen = String::from_utf8_lossy(&answer.body);
            ensure!(status == 403 || seen.contains("vicino-route"), "the application hears of it: {seen}");
        }
        let told =
            space.apply(&ROUTE.replace("requestMirror: {name: shadow", "requestMirror: {name: nobody")).await;
        told?;
        let said = "spec.rules[0].requestMirror.name: there is no Service \"nobody\"";
        route_says(fixture, (&space.name, "front"), ("Accepted", "False"), said).await?;
        let answer = curl(callers[0], &["http://front/headers"]).await?;
        ensure!(answer.header("x-served-by") == Some("front"), "what was in force stays: {answer}");
        space.leave().await
    });
}

/// A namespace in no mesh, with a Service that has one pod, on `node`; the pod's name.
async fn ledger(fixture: &Fixture, bank: &str, node: &str) -> Result<String> {
    let kubectl = &fixture.kubectl;
    let namespace =
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {bank}, labels: {{{LABEL}: bank}}}}}}");
    kubectl.run_with(["apply", "-f", "-"], &namespace).await?;
    let ledger = list(&App::new("ledger", 1).on(node).manifests());
    kubectl.run_with(["apply", "-n", bank, "-f", "-"], &ledger).await?;
    let mut pod = String::new();
    fixture
        .until("the ledger's pod", PODS_READY_MAX, async || {
            let pods = fixture.pods(bank, "app=ledger").await?;
            pod = pods.first().map(ResourceExt::name_any).unwrap_or_default();
            Ok(pods.len() == 1 && pods.iter().all(is_ready))
        })
        .await?;
    Ok(pod)
}

/// A Service of another namespace is called through a route when that namespace grants it, and only as long as it does.
#[test]
fn a_service_of_another_namespace_is_called_as_long_as_that_grants_it() {
    scenario("grants", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "grants", &[App::new("front", 1)]).await?;
        let bank = format!("{}-bank", space.name);
        let kubectl = &fixture.kubectl;
        let pod = ledger(fixture, &bank, &nodes[1]).await?;
        let route = format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: front}}
spec: {{backends: [{{name: ledger, namespace: {bank}}}]}}
"
        );
        space.apply(&route).await?;
        let front = (&*space.name, "front");
        let refused = "spec.backends[0].namespace: no ReferenceGrant of the namespace";
        for kind in ["Accepted", "ResolvedRefs"] {
            let said = route_says(fixture, front, (kind, "False"), refused).await?;
            ensure!(said.reason == "RefNotPermitted", "{said:?}");
        }
        space.reachable("front").await.context("it stays as it was")?;

        kubectl.run_with(["apply", "-f", "-"], GRANT_KIND).await?;
        let wait = ["wait", "--for=condition=Established", "crd/referencegrants.gateway.networking.k8s.io"];
        kubectl.run(wait).await?;
        let grant = format!(
            "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: front}}
spec:
  from: [{{group: vicino.dev, kind: MeshRoute, namespace: {}}}]
  to: [{{group: '', kind: Service, name: ledger}}]
",
            space.name
        );
        // A kind that is established is found by kubectl a moment later.
        fixture
            .until("the grant to be taken", EFFECT_MAX, async || {
                kubectl.run_with(["apply", "-n", &bank, "-f", "-"], &grant).await.map(|_| true)
            })
            .await?;
        programmed(fixture, &space.name, "front").await?;
        for node in &nodes {
            let answer = curl(space.caller(node), &["http://front/headers"]).await?;
            ensure!(
                answer.status == 200 && answer.header("x-pod") == Some(&*pod),
                "{pod} from {node}: {answer}"
            );
        }
        let column =
            space.kubectl(&["get", "meshroute", "front", "-o", "jsonpath={.status.backends}"]).await?;
        ensure!(column.starts_with(&format!("{bank}/ledger:80")), "{column}");

        kubectl.run(["delete", "-n", &bank, "referencegrant", "front"]).await?;
        route_says(fixture, front, ("Accepted", "False"), refused).await?;
        for node in &nodes {
            let caller = space.caller(node);
            caller
                .calls_until("http://front/headers", EFFECT_MAX, |a| {
                    a.as_ref().is_ok_and(|a| a.status() == 404)
                })
                .await?;
        }
        kubectl.run(["delete", "crd", "referencegrants.gateway.networking.k8s.io"]).await?;
        kubectl.run(["delete", "namespace", &bank, "--wait=false"]).await?;
        space.leave().await
    });
}

const STATEFUL: &str = "
apiVersion: v1
kind: Service
metadata: {name: store}
spec:
  clusterIP: None
  selector: {app: store}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
";

/// Pods of a StatefulSet are called by the names that DNS has for them.
#[test]
fn pods_of_a_stateful_set_are_called_by_name() {
    scenario("stateful", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "stateful", &[]).await?;
        let mut app = App::new("store", 3).manifests();
        let deployment =
            app.iter_mut().find(|m| m["kind"] == "Deployment").context("the app's Deployment")?;
        deployment["kind"] = "StatefulSet".into();
        deployment["spec"]["serviceName"] = "store".into();
        deployment["spec"]["podManagementPolicy"] = "Parallel".into();
        if let Some(spec) = deployment["spec"].as_object_mut() {
            spec.remove("strategy");
        }
        let set = list(std::slice::from_ref(deployment));
        space.apply(STATEFUL).await?;
        space.apply(&set).await?;
        space.pods_ready("store", 3).await?;
        programmed(fixture, &space.name, "store").await?;
        space.all_reachable("store", 3).await?;
        for node in &nodes {
            for i in 0..3 {
                let pod = format!("store-{i}");
                for host in [format!("{pod}.store"), format!("{pod}.store.{}.svc.cluster.local", space.name)]
                {
                    let answer = curl(space.caller(node), &[&format!("http://{host}/headers")]).await?;
                    ensure!(answer.header("x-pod") == Some(&*pod), "{host} from {node}: {answer}");
                }
            }
            let answer = curl(space.caller(node), &["http://store-7.store/headers"]).await?;
            ensure!(answer.status == 404, "{answer}");
        }
        space.leave().await
    });
}

/// One of two pods stands still: calls are answered by the other, long before the caller gives up.
#[test]
fn a_pod_that_stands_still_costs_calls_a_short_time_only() {
    const HEDGE: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: front}
spec: {hedge: {delayMilliseconds: 100, budgetPercent: 100, minPerSecond: 100}}
";
    scenario("hedges", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "hedges", &[App::new("front", 2)]).await?;
        space.apply(HEDGE).await?;
        programmed(fixture, &space.name, "front").await?;
        let pods = fixture.pods(&space.name, "app=front").await?;
        let still = pods.first().context("two pods")?;
        let process = process(still)?;
        kill_process(process, Signal::STOP).context("stop a pod")?;
        // At once, as Kubernetes will have noticed soon: each call is at that pod as likely as not.
        let callers: Vec<_> = nodes.iter().map(|node| space.caller(node)).cycle().take(12).collect();
        let calls = callers.iter().map(|caller| curl(caller, &["--max-time", "20", "http://front/headers"]));
        let answers = futures::future::join_all(calls).await;
        kill_process(process, Signal::CONT).context("continue it")?;
        for answer in answers {
            let answer = answer?;
            ensure!(answer.status == 200, "{answer}");
            ensure!(answer.header("x-pod") != Some(&*still.name_any()), "it stands still: {answer}");
        }
        space.leave().await
    });
}

/// Of two pods of a node one stands still. By turns each second call is lost there; by the calls in flight only those that find that out are.
#[test]
fn a_pod_that_stands_still_gets_its_turns_by_turns_only() {
    const CALLS: usize = 48;
    const AT_ONCE: usize = 8;
    let route = |kind: &str| {
        format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: front}}
spec: {{loadBalancer: {{type: {kind}}}, timeouts: {{requestMilliseconds: 4000}}, requeues: 0}}
"
        )
    };
    scenario("turns", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "turns", &[App::new("front", 2).on(&nodes[1])]).await?;
        let pods = fixture.pods(&space.name, "app=front").await?;
        let process = process(pods.first().context("two pods")?)?;
        let caller = space.caller(&nodes[0]);
        let mut lost = Vec::new();
        for kind in ["RoundRobin", "LeastRequest"] {
            space.apply(&route(kind)).await?;
            programmed(fixture, &space.name, "front").await?;
            kill_process(process, Signal::STOP).context("stop a pod")?;
            let calls = (0..CALLS).map(|_| curl(caller, &["http://front/headers"]));
            let answers: Vec<_> = futures::stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
            kill_process(process, Signal::CONT).context("continue it")?;
            let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
            lost.push(answers.iter().filter(|answer| answer.status != 200).count());
        }
        ensure!(lost[0] >= CALLS / 3, "by turns {} of {CALLS} calls were lost", lost[0]);
        ensure!(
            lost[1] * 2 <= lost[0],
            "by turns {} calls were lost, by those in flight {}",
            lost[0],
            lost[1]
        );
        eprintln!("of {CALLS} calls {} were lost by turns, {} by the calls in flight", lost[0], lost[1]);
        space.leave().await
    });
}
