//! Rules of a MeshRoute, on the whole way of a call: applied with kubectl, tried with curl.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;
use vicino_e2e::caller::{Caller, CurlAnswer};
use vicino_e2e::figures::Durations;
use vicino_e2e::mesh::{programmed, route_says};
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, Space, grpc, list};
use vicino_e2e::{Fixture, figures, scenario};

/// In a split by weight each share of this many calls is as good as certain to be near its weight.
const SPLIT_CALLS: usize = 400;

/// Milliseconds of a call that others wait for, and of one that stands in their way however late they come.
const SHORT: u32 = 200;
const LONG: u32 = 5000;

const RULES: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: quotes}
spec:
  rules:
  - name: testers
    matches:
    - headers: [{name: x-tester, value: 'yes'}]
    - queryParams: [{name: tester, value: '1'}]
    # As specific a path as that of the rule with retries, and a parameter more.
    - path: {value: /flaky}
      queryParams: [{name: tester, value: '1'}]
    backends: [{name: quotes-v2}]
  - name: canary
    matches: [{path: {value: /status}}]
    backends: [{name: quotes, weight: 3}, {name: quotes-v2}]
  - name: edited
    matches: [{path: {value: /api}}]
    urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /headers}}
    requestHeaderModifier: {set: [{name: x-tier, value: gold}], add: [{name: x-more, value: '1'}], remove: [x-secret]}
    responseHeaderModifier: {set: [{name: x-served-by, value: vicino}]}
  - name: moved
    matches: [{path: {type: Exact, value: /old}}]
    requestRedirect: {scheme: https, hostname: new.example, port: 8443, statusCode: 308}
  - name: teapot
    matches: [{path: {type: RegularExpression, value: '/te[ae]pot.*'}, method: GET}]
    directResponse: {statusCode: 418, body: short and stout}
  - name: broken
    matches: [{path: {value: /broken}}]
    fault: {delay: {milliseconds: 300}, abort: {statusCode: 507}}
  - name: saved
    matches: [{path: {value: /flaky}}]
    retry: {codes: [503], attempts: 2, backoffMilliseconds: 5, budgetPercent: 100, minPerSecond: 100}
  - name: rare
    matches: [{path: {value: /rare}}]
    urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /headers}}
    rateLimit: {requestsPerSecond: 1, burst: 2, key: {type: Header, name: x-user}}
  - name: quick
    matches: [{path: {value: /slow}}]
    timeouts: {requestMilliseconds: 300}
";

#[test]
fn calls_get_what_their_rule_says() {
    scenario("rules", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        // Pods of both nodes: what rules do must not depend on whether there is a hop.
        let apps = [App::new("quotes", 1).on(there), App::new("quotes-v2", 1).on(here)];
        let space = Space::new(fixture, "rules", &apps).await?;
        space.apply(RULES).await?;
        programmed(fixture, &space.name, "quotes").await?;
        let caller = space.caller(here);
        calls_go_where_they_should(caller, here, there).await?;
        heads_are_edited(caller).await?;
        rules_answer(caller).await?;
        retries_save_calls(caller).await?;
        callers_are_limited(caller).await?;
        what_is_wrong_is_said_and_changes_nothing(fixture, &space, caller).await?;
        space.leave().await
    });
}

async fn calls_go_where_they_should(caller: &Caller, here: &str, there: &str) -> Result<()> {
    for headers in [&[("x-tester", "yes")][..], &[]] {
        let url = if headers.is_empty() { "http://quotes/headers?tester=1" } else { "http://quotes/headers" };
        let answer = caller.get_with(url, headers).await?;
        ensure!(
            answer.status() == 200 && answer.headers()["x-node"] == here,
            "{url} {headers:?}: {answer:?}"
        );
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..SPLIT_CALLS {
        let answer = caller.get("http://quotes/status?code=204").await?;
        ensure!(answer.status() == 204, "{answer:?}");
        *counts.entry(answer.headers()["x-node"].to_str()?.to_owned()).or_default() += 1;
    }
    let canary = counts.get(here).copied().unwrap_or(0);
    // A quarter of 400, give or take so much that chance is against it in less than one of 10^9 runs.
    ensure!((44..=160).contains(&canary), "of {SPLIT_CALLS} calls a quarter goes to the canary: {counts:?}");
    ensure!(canary + counts.get(there).copied().unwrap_or(0) == SPLIT_CALLS, "{counts:?}");
    Ok(())
}

async fn heads_are_edited(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let answer = caller
        .curl(&[
            "--proxy",
            &proxy,
            "--header",
            "x-secret: 1",
            "--header",
            "x-tier: tin",
            "http://quotes/api?a=b",
        ])
        .await?;
    ensure!(answer.status == 200 && answer.header("x-served-by") == Some("vicino"), "{answer}");
    let arrived: Value = serde_json::from_slice(&answer.body).with_context(|| format!("{answer}"))?;
    ensure!(arrived["target"] == "/headers?a=b", "{arrived}");
    let text = arrived.to_string();
    for (part, is_there) in
        [("inner.example", true), ("gold", true), ("x-more", true), ("x-secret", false), ("tin", false)]
    {
        ensure!(text.contains(part) == is_there, "{part} in {text}");
    }
    Ok(())
}

async fn rules_answer(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let curl =
        async |arguments: &[&str]| caller.curl(&[&["--proxy", proxy.as_str()], arguments].concat()).await;
    let moved = curl(&["http://quotes/old?q"]).await?;
    let location = moved.header("location");
    ensure!(moved.status == 308 && location == Some("https://new.example:8443/old?q"), "{moved}");
    let teapot = curl(&["http://quotes/teapot/x"]).await?;
    ensure!(teapot.status == 418 && teapot.body == b"short and stout", "{teapot}");
    for (url, method, status, reason) in [
        ("http://quotes/teapot", "POST", 404, "no-matching-rule"),
        ("http://quotes/", "GET", 404, "no-matching-rule"),
        ("http://quotes/broken", "GET", 507, "fault-injected"),
        ("http://quotes/slow?ms=5000", "GET", 504, "timeout"),
    ] {
        let answer = curl(&["--request", method, url]).await?;
        ensure!(
            answer.status == status && answer.header("vicino-error") == Some(reason),
            "{method} {url}: {answer}"
        );
    }
    Ok(())
}

/// Every second call fails at the application, and none at the caller; where there are no retries, the caller sees it.
async fn retries_save_calls(caller: &Caller) -> Result<()> {
    for _ in 0..20 {
        let answer = caller.get("http://quotes/flaky?every=2").await?;
        ensure!(answer.status() == 200, "{answer:?}");
    }
    let mut failed = 0;
    for _ in 0..10 {
        let answer = caller.get("http://quotes/flaky?every=2&tester=1").await?;
        failed += usize::from(answer.status() == 503);
    }
    ensure!(failed == 5, "of ten calls without retries {failed} failed");
    Ok(())
}

/// Two at once, and then one a second; each user by itself. Whole calls take less than a second, or the count would say so.
async fn callers_are_limited(caller: &Caller) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    for user in ["x-user: a", "x-user: b"] {
        let asks = ["--proxy", &proxy, "--header", user, "http://quotes/rare"];
        let calls = (0..12).map(|_| caller.curl(&asks));
        let answers = futures::future::try_join_all(calls).await?;
        let let_through = answers.iter().filter(|answer| answer.status == 200).count();
        ensure!((2..12).contains(&let_through), "{user}: {let_through} of 12 were let through");
        let refused = answers.iter().find(|answer| answer.status != 200).context("one was refused")?;
        let said = (refused.status, refused.header("vicino-error"), refused.header("retry-after"));
        ensure!(said == (429, Some("rate-limited"), Some("1")), "{refused}");
    }
    Ok(())
}

#[test]
fn calls_wait_for_pods_with_a_limit() {
    scenario("concurrency", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let apps = [App::new("near", 1).on(here), App::new("far", 1).on(there)];
        let space = Space::new(fixture, "limits", &apps).await?;
        for name in ["near", "far"] {
            limit(&space, name, 30).await?;
            programmed(fixture, &space.name, name).await?;
            let caller = space.caller(here);
            let statuses = at_once(caller, name, 8, SHORT).await?;
            ensure!(statuses == [200; 8], "{name}: all wait for their turn: {statuses:?}");
            limit(&space, name, 2).await?;
            programmed(fixture, &space.name, name).await?;
            // The first one is served until all others have come.
            let mut statuses = at_once(caller, name, 8, LONG).await?;
            statuses.sort_unstable();
            ensure!(
                statuses == [200, 200, 200, 503, 503, 503, 503, 503],
                "{name}: one is served, two wait: {statuses:?}"
            );
        }
        space.leave().await
    });
}

/// A pod that is busy for long keeps nobody in its line who could be served elsewhere: round robin would leave every second call there.
#[test]
fn calls_go_around_a_slow_pod() {
    const BOTH: &str = "
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  selector: {both: 'yes'}
  ports: [{name: http, port: 80, targetPort: 8080}]
";
    scenario("late", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let space =
            Space::new(fixture, "late", &[App::new("one", 1).on(here), App::new("two", 1).on(there)]).await?;
        space.kubectl(&["label", "pod", "--selector", "app in (one, two)", "both=yes"]).await?;
        space.apply(BOTH).await?;
        limit(&space, "both", 50).await?;
        programmed(fixture, &space.name, "both").await?;
        space.all_reachable("both", 2).await?;
        // From beside one of the pods, and from a node that has none.
        for node in [here, &nodes[2]] {
            let caller = space.caller(node);
            // Every worker has had calls that wait, so that hops stand.
            let statuses = at_once(caller, "both", 12, SHORT).await?;
            ensure!(statuses == [200; 12], "{statuses:?}");
            for round in 0..3 {
                let slow = std::pin::pin!(caller.get("http://both/slow?ms=10000"));
                let others = std::pin::pin!(async {
                    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                    at_once(caller, "both", 6, SHORT).await
                });
                match futures::future::select(slow, others).await {
                    futures::future::Either::Left((answer, _)) => {
                        anyhow::bail!("{node} {round}: others wait behind the slow call: {answer:?}")
                    }
                    futures::future::Either::Right((statuses, slow)) => {
                        let statuses = statuses?;
                        ensure!(statuses == [200; 6], "{node} {round}: {statuses:?}");
                        // Its pod is busy until then.
                        slow.await?;
                    }
                }
            }
        }
        space.leave().await
    });
}

/// How long so many calls took, of eight callers that make them one after the other as long as there are any.
async fn durations(caller: &Caller, url: &str, count: usize) -> Result<Durations> {
    const CALLERS: usize = 8;
    let left = std::cell::Cell::new(count);
    let some = async || {
        let mut durations = Vec::new();
        while left.get() > 0 {
            left.set(left.get() - 1);
            let begun = Instant::now();
            let answer = caller.get(url).await?;
            ensure!(answer.status() == 200, "{answer:?}");
            durations.push(begun.elapsed());
        }
        Ok(durations)
    };
    let all = futures::future::try_join_all((0..CALLERS).map(|_| some())).await?;
    let mut durations = Durations::default();
    all.into_iter().flatten().for_each(|duration| durations.add(duration));
    Ok(durations)
}

/// One of three pods takes two seconds for what the others do at once. By turns every third call goes there; those who wait for whichever pod is free are seldom its.
#[test]
fn one_slow_pod_costs_few_calls_and_by_turns_every_third() {
    scenario("slow-pod", async |fixture| {
        let nodes = fixture.nodes();
        let apps: Vec<_> =
            ["a", "b", "c"].iter().zip(&nodes).map(|(name, node)| App::new(name, 1).on(node)).collect();
        let space = Space::new(fixture, "slowpod", &apps).await?;
        space.kubectl(&["set", "env", "deployment/b", "SLOWER_MILLISECONDS=2000"]).await?;
        space.kubectl(&["rollout", "status", "deployment/b", EFFECT_SECONDS_MAX]).await?;
        space.kubectl(&["label", "pod", "--selector", "app in (a, b, c)", "all=yes"]).await?;
        let service = "
apiVersion: v1
kind: Service
metadata: {name: all}
spec:
  selector: {all: 'yes'}
  ports: [{name: http, port: 80, targetPort: 8080}]
";
        space.apply(service).await?;
        limit(&space, "all", 50).await?;
        programmed(fixture, &space.name, "all").await?;
        space.all_reachable("all", 3).await?;
        let caller = space.caller(&nodes[0]);
        let ours = durations(caller, "http://all/slow?ms=20", 800).await?;
        let turns = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: all}
spec: {loadBalancer: {type: RoundRobin}}
";
        space.apply(turns).await?;
        programmed(fixture, &space.name, "all").await?;
        // A third of these take two seconds.
        let by_turns = durations(caller, "http://all/slow?ms=20", 200).await?;
        figures::print(format!("one of three pods slow (2 s): with a limit {ours}; round robin {by_turns}"));
        // A twentieth may have met the slow pod, a third has to.
        ensure!(ours.percentile(95) < by_turns.percentile(95), "{ours}; {by_turns}");
        space.leave().await
    });
}

#[test]
fn calls_that_belong_together_stay_together() {
    scenario("affinity", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "affinity", &[App::new("sticky", 4)]).await?;
        let route = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: sticky}
spec: {affinity: {type: QueryParam, name: user}}
";
        space.apply(route).await?;
        programmed(fixture, &space.name, "sticky").await?;
        let mut pods = std::collections::BTreeSet::new();
        for user in 0..20 {
            let mut of_user = std::collections::BTreeSet::new();
            for node in &nodes {
                let answer = space.caller(node).get(&format!("http://sticky/headers?user={user}")).await?;
                of_user.insert(answer.headers()["x-pod"].to_str()?.to_owned());
            }
            ensure!(of_user.len() == 1, "user {user} was sent to {of_user:?}");
            pods.extend(of_user);
        }
        ensure!(pods.len() > 1, "20 users are at more than one pod: {pods:?}");
        cookies_of_the_mesh(fixture, &space, &nodes).await?;
        turns(fixture, &space, &nodes).await?;
        a_busy_key_spreads(fixture, &space, &nodes).await?;
        space.leave().await
    });
}

/// A caller without the cookie is given one, and stays with it where it was served first.
async fn cookies_of_the_mesh(fixture: &Fixture, space: &Space<'_>, nodes: &[String]) -> Result<()> {
    let refused = space.apply(&sticky("{affinity: {type: Header, name: a, setCookie: {}}}")).await;
    ensure!(refused.is_err_and(|e| format!("{e:#}").contains("setCookie goes with type Cookie")));
    let route = "{affinity: {type: Cookie, name: home, setCookie: {maxAgeSeconds: 60}}}";
    space.apply(&sticky(route)).await?;
    programmed(fixture, &space.name, "sticky").await?;
    for _ in 0..10 {
        let first = curl_sticky(space.caller(&nodes[0]), &[]).await?;
        let set = first.header("set-cookie").context("no cookie is set")?.to_owned();
        let (pair, attributes) = set.split_once(';').with_context(|| format!("cookie {set}"))?;
        ensure!(attributes == " Path=/; HttpOnly; Max-Age=60", "{set}");
        for node in nodes {
            let next = curl_sticky(space.caller(node), &["--cookie", pair]).await?;
            ensure!(
                next.header("x-pod") == first.header("x-pod"),
                "{pair}: {} and {}",
                next.head,
                first.head
            );
            ensure!(next.header("set-cookie").is_none(), "set again: {}", next.head);
        }
    }
    Ok(())
}

/// One after the other, every pod has as many calls as the next.
async fn turns(fixture: &Fixture, space: &Space<'_>, nodes: &[String]) -> Result<()> {
    space.apply(&sticky("{loadBalancer: {type: RoundRobin}}")).await?;
    programmed(fixture, &space.name, "sticky").await?;
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..40 {
        let answer = curl_sticky(space.caller(&nodes[0]), &[]).await?;
        *counts.entry(answer.header("x-pod").context("no pod")?.to_owned()).or_default() += 1;
    }
    ensure!(counts.len() == 4 && counts.values().all(|count| *count == 10), "40 calls to 4 pods: {counts:?}");
    Ok(())
}

/// What one pod should not have alone goes to the next one of the key.
async fn a_busy_key_spreads(fixture: &Fixture, space: &Space<'_>, nodes: &[String]) -> Result<()> {
    let mut spread = Vec::new();
    for bound in ["", ", maxLoadPercent: 120"] {
        space.apply(&sticky(&format!("{{affinity: {{type: QueryParam, name: user{bound}}}}}"))).await?;
        programmed(fixture, &space.name, "sticky").await?;
        let caller = space.caller(&nodes[0]);
        let calls = (0..16).map(|_| caller.get("http://sticky/slow?ms=1000&user=bob"));
        let answers = futures::future::try_join_all(calls).await?;
        let pods: std::collections::BTreeSet<_> =
            answers.iter().map(|answer| answer.headers()["x-pod"].as_bytes().to_owned()).collect();
        spread.push(pods.len());
    }
    ensure!(
        spread[0] == 1 && spread[1] > 1,
        "16 calls at once with one key went to so many pods: {spread:?}"
    );
    Ok(())
}

fn sticky(spec: &str) -> String {
    format!("apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{name: sticky}}\nspec: {spec}\n")
}

async fn curl_sticky(caller: &Caller, more: &[&str]) -> Result<CurlAnswer> {
    let proxy = format!("http://{}", caller.proxy);
    let arguments = [&["--proxy", &*proxy, "http://sticky/headers"], more].concat();
    let answer = caller.curl(&arguments).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.head);
    Ok(answer)
}

/// Half of the pods speak gRPC where HTTP/1.1 is asked for, and fail at every call: with a circuit breaker they are left out.
#[test]
fn pods_that_fail_are_left_out() {
    const MIXED: &str = "
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec:
  selector: {mixed: 'yes'}
  ports: [{name: http, port: 80, targetPort: 8080}]
";
    const BREAKER: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: mixed}
spec: {circuitBreaker: {consecutiveFailures: 3, ejectionMilliseconds: 600000, maxEjectionMilliseconds: 600000}}
";
    scenario("breaker", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let space = Space::new(fixture, "breaker", &[App::new("well", 1).on(there)]).await?;
        space.apply(&list(&grpc("ill", there))).await?;
        space.pods_ready("ill", 1).await?;
        space.kubectl(&["label", "pod", "--selector", "app in (well, ill)", "mixed=yes"]).await?;
        space.apply(MIXED).await?;
        programmed(fixture, &space.name, "mixed").await?;
        let caller = space.caller(here);
        let what = "calls to both pods of mixed";
        let mut failed = 0;
        fixture
            .until(what, EFFECT_MAX, async || {
                failed = failures(caller, 20).await?;
                Ok((1..20).contains(&failed))
            })
            .await?;
        let lenient = BREAKER.replace("spec: {", "spec: {rules: [{failureCodes: []}], ");
        space.apply(&lenient).await?;
        programmed(fixture, &space.name, "mixed").await?;
        let mut last = 0;
        for _ in 0..3 {
            // That of two pods only the good one is called is chance in one of 10^12 runs.
            last = failures(caller, 40).await?;
        }
        ensure!(last > 0, "by the word of the rule these are no failures, and yet the pod was left out");
        space.apply(BREAKER).await?;
        programmed(fixture, &space.name, "mixed").await?;
        let first = failures(caller, 40).await?;
        ensure!(first <= 3, "before, {failed} of 20 calls failed; of the first 40 with a breaker {first}");
        let then = failures(caller, 40).await?;
        ensure!(then == 0, "the ill pod is left out, and yet {then} of 40 calls failed");
        space.leave().await
    });
}

/// How many of `count` calls to `mixed` failed.
async fn failures(caller: &Caller, count: usize) -> Result<usize> {
    let mut failed = 0;
    for _ in 0..count {
        failed += usize::from(caller.get("http://mixed/headers").await?.status() != 200);
    }
    Ok(failed)
}

async fn limit(space: &Space<'_>, name: &str, length: u32) -> Result<()> {
    let route = format!(
        "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: {name}}}
spec: {{requeues: 0, concurrency: {{perPod: 1, queue: {{length: {length}, timeoutMilliseconds: 30000}}}}}}
"
    );
    space.apply(&route).await.map(drop)
}

/// The statuses of calls that are made at the same time and take so many milliseconds.
async fn at_once(caller: &Caller, name: &str, count: usize, each: u32) -> Result<Vec<u16>> {
    let url = format!("http://{name}/slow?ms={each}");
    let calls = (0..count).map(|_| caller.get(&url));
    let answers = futures::future::try_join_all(calls).await?;
    Ok(answers.iter().map(|answer| answer.status().as_u16()).collect())
}

/// A flaw is a condition that names its field, and the rules that are in force stay.
async fn what_is_wrong_is_said_and_changes_nothing(
    fixture: &Fixture,
    space: &Space<'_>,
    caller: &Caller,
) -> Result<()> {
    let refused = RULES.replace("statusCode: 418", "statusCode: 1418");
    let said = space.apply(&refused).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("spec.rules[4].directResponse.statusCode"), "the schema says where: {said}");
    let wrong = RULES.replace("/te[ae]pot.*", "/te[ae");
    space.apply(&wrong).await?;
    let part = "spec.rules[4].matches[0].path.value";
    let condition = route_says(fixture, (&space.name, "quotes"), ("Accepted", "False"), part).await?;
    ensure!(condition.reason == "InvalidRule", "{condition:?}");
    let answer = caller.get("http://quotes/teapot").await?;
    ensure!(answer.status() == 418, "the rules in force stay: {answer:?}");
    space.apply(RULES).await?;
    programmed(fixture, &space.name, "quotes").await
}
