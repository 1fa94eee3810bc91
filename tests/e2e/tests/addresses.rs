//! Addresses that one pod takes from another, again and again, also while the list of pods is behind: who calls is who is there, or nobody.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UdpSocket;
use vicino_cluster::images::PAUSE_IMAGE;
use vicino_cluster::layout::dir_of;
use vicino_crds::names::PORT_L1;
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, PODS_READY_MAX, Space};
use vicino_e2e::{Fixture, figures, mesh, netns, scenario};
use vicino_sample::client::Client;

/// Calls in all.
const CALLS: usize = 10_000;
/// Pods of each service account at a time.
const PODS: usize = 4;
/// Calls that a pod makes at once when it has its network, long before anybody has told the proxy of it.
const FIRST_CALLS: usize = 10;
/// Calls that it makes one after the other then.
const LATER_CALLS: usize = 75;
/// Rounds in which the operator is away. Calls of whoever is not known take three seconds each, so they are made at once.
const STALE_ROUNDS: usize = 3;
const STALE_CALLS: usize = 60;
/// Of the others; they end when there are enough calls.
const ROUNDS_MAX: usize = 40;
/// For pods to come and go.
const CHURN_MAX: Duration = Duration::from_mins(2);

const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";

/// Only one service account may call.
const POLICY: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: quotes}
spec:
  target: {service: {name: quotes}}
  rules: [{name: others, action: Deny, from: [{notServiceAccounts: [{name: allowed}]}]}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: allowed}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: denied}
";

/// A pod, and where its calls come from.
#[derive(Clone, Debug)]
struct Tenant {
    name: String,
    account: &'static str,
    address: IpAddr,
    netns: PathBuf,
}

/// What answers there were, by service account, status and `vicino-error`.
type Answers = BTreeMap<(&'static str, u16, String), usize>;

/// Pods of a node that take each other's addresses.
struct Churn<'a> {
    space: &'a Space<'a>,
    node: String,
    proxy: SocketAddr,
    /// Who came to which address, and when.
    history: Vec<(IpAddr, Timestamp, &'static str)>,
    /// Addresses that a pod of one account took from one of the other.
    taken: usize,
    answers: Answers,
    number: usize,
}

impl Churn<'_> {
    fn fixture(&self) -> &Fixture {
        self.space.fixture
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.fixture().client.clone(), &self.space.name)
    }

    /// The account of whoever had an address at a time: no pod calls any more when the next one comes.
    fn owner(&self, address: IpAddr, at: Timestamp) -> Option<&'static str> {
        let came = self.history.iter().filter(|(of, since, _)| *of == address && *since <= at);
        came.map(|(.., account)| *account).next_back()
    }

    fn calls(&self) -> usize {
        self.answers.values().sum()
    }

    fn count(&self, of: impl Fn(&str, u16, &str) -> bool) -> usize {
        let matching =
            self.answers.iter().filter(|((account, status, error), _)| of(account, *status, error));
        matching.map(|(_, count)| count).sum()
    }

    /// The number of the node's own network namespace.
    fn node_netns(&self) -> Result<u64> {
        let nodes = self.fixture().cluster.nodes();
        let node = nodes.iter().find(|node| node.name == self.node).context("the node is there")?;
        Ok(fs::metadata(&node.netns)?.ino())
    }

    /// The folder where the node's plugin keeps which addresses are given away.
    fn addresses(&self) -> Result<PathBuf> {
        let folder = dir_of(&self.fixture().cluster.name()).join(&self.node).join("addresses");
        let network = fs::read_dir(&folder)?.next().context("no network")??;
        Ok(network.path())
    }

    /// New pods of both accounts; the plugin begins anew with the lowest free address, so they get those that have just become free.
    async fn come(&mut self) -> Result<Vec<Tenant>> {
        let last = self.addresses()?.join("last_reserved_ip.0");
        if last.exists() {
            fs::remove_file(&last)?;
        }
        self.number += 1;
        let round = self.number;
        // The first have the lower half of the addresses, which the others had before.
        let order = if round.is_multiple_of(2) { [ALLOWED, DENIED] } else { [DENIED, ALLOWED] };
        let mut tenants = Vec::new();
        for account in order {
            let coming = (0..PODS).map(|i| self.pod(format!("{account}-{round}-{i}"), account));
            tenants.extend(try_join_all(coming).await?);
        }
        for tenant in &tenants {
            let before = self.owner(tenant.address, Timestamp::now());
            self.taken += usize::from(before.is_some_and(|before| before != tenant.account));
            self.history.push((tenant.address, Timestamp::now(), tenant.account));
        }
        Ok(tenants)
    }

    /// A pod, as soon as it has its network; the API says so a second later.
    async fn pod(&self, name: String, account: &'static str) -> Result<Tenant> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": "tenant" } },
            "spec": {
                "nodeName": self.node, "serviceAccountName": account, "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never" }],
            },
        }))?;
        let made = self.api().create(&PostParams::default(), &pod).await.context("create a pod")?;
        let uid = made.uid().context("no UID")?;
        let what = format!("a process of {name}");
        let node = self.node_netns()?;
        let process =
            vicino_cluster::wait::until_some(&what, CHURN_MAX, async || Ok(process_of_pod(&uid, node)));
        let netns = PathBuf::from(format!("/proc/{}/ns/net", process.await?));
        let proxy = self.proxy;
        let address = netns::inside(&netns, async move || -> Result<IpAddr> {
            let socket = UdpSocket::bind("0.0.0.0:0").await?;
            socket.connect(proxy).await?;
            Ok(socket.local_addr()?.ip())
        });
        let address = address.await?.context("its address")?;
        Ok(Tenant { name, account, address, netns })
    }

    /// All go, and their addresses are free.
    async fn go(&self, tenants: Vec<Tenant>) -> Result<()> {
        let (api, folder) = (self.api(), self.addresses()?);
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        try_join_all(tenants.iter().map(|tenant| api.delete(&tenant.name, &now))).await?;
        let is_free = |tenant: &Tenant| !folder.join(tenant.address.to_string()).exists();
        let what = "addresses to be free";
        self.fixture().until(what, CHURN_MAX, async || Ok(tenants.iter().all(is_free))).await
    }

    /// Has each pod call, so many at once and then so many one after the other, and looks at the answers.
    async fn call(&mut self, tenants: &[Tenant], at_once: usize, then: usize) -> Result<()> {
        let (proxy, url) = (self.proxy, format!("http://quotes.{}/status?code=200", self.space.name));
        let calls = tenants.iter().map(|tenant| {
            let (url, client) = (url.clone(), move || Client::new(Some(&format!("http://{proxy}"))));
            netns::inside(&tenant.netns, async move || {
                let one = async |client: Client| answer(&client, &url).await;
                let mut all = join_all((0..at_once).map(|_| one(client()))).await;
                let kept = client();
                for number in 0..then {
                    let is_new = number % 2 == 0;
                    all.push(if is_new { one(client()).await } else { answer(&kept, &url).await });
                }
                all
            })
        });
        let all = try_join_all(calls).await?;
        // The thread of the proxy that answers has written down what was refused by then: these lines are dated before others come.
        mesh::metrics(self.fixture(), &self.node).await?;
        for (tenant, answers) in tenants.iter().zip(all) {
            for (status, error) in answers {
                let is_taken_for_another = tenant.account == DENIED && (200..300).contains(&status);
                ensure!(!is_taken_for_another, "{tenant:?} got {status}");
                *self.answers.entry((tenant.account, status, error)).or_default() += 1;
            }
        }
        Ok(())
    }
}

/// Status and reason; 0 when there is no answer.
async fn answer(client: &Client, url: &str) -> (u16, String) {
    match client.get(url, &[]).await {
        Ok(answer) => {
            let error = answer.headers().get("vicino-error").and_then(|error| error.to_str().ok());
            (answer.status().as_u16(), error.unwrap_or_default().to_owned())
        }
        Err(_) => (0, String::new()),
    }
}

/// A process of a pod, from when its sandbox stands; all nodes are on this machine. What is still on its way into the sandbox is runc.
fn process_of_pod(uid: &str, node_netns: u64) -> Option<i32> {
    let pod = format!("pod{uid}");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.find(|number| {
        let folder = Path::new("/proc").join(number.to_string());
        let says = |what: &str, of: &dyn Fn(&str) -> bool| {
            fs::read_to_string(folder.join(what)).is_ok_and(|text| of(&text))
        };
        says("cgroup", &|groups| groups.contains(&pod))
            && says("comm", &|name| !name.starts_with("runc") && !name.starts_with("exe"))
            && fs::metadata(folder.join("ns/net")).is_ok_and(|netns| netns.ino() != node_netns)
    })
}

async fn operator_replicas(fixture: &Fixture, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    fixture.kubectl.run(["scale", "deployment/vicino-operator", "-n", "vicino-system", &replicas]).await?;
    fixture
        .until("the operator's pods", PODS_READY_MAX, async || {
            let pods = fixture.pods("vicino-system", "app.kubernetes.io/name=vicino-operator").await?;
            Ok(pods.len() == count && pods.iter().all(vicino_e2e::workload::is_ready))
        })
        .await
}

/// A line in which a proxy says that a policy has refused a call.
#[derive(Debug, Deserialize)]
struct Refusal {
    timestamp: Timestamp,
    message: String,
    caller: String,
    source: String,
}

/// All since they started.
async fn refusals(fixture: &Fixture) -> Result<Vec<Refusal>> {
    let mut all = Vec::new();
    for proxy in mesh::proxies(fixture).await? {
        let log = fixture.kubectl.run(["logs", "-n", "vicino-proxy", &proxy.name_any()]).await?;
        all.extend(log.lines().filter_map(|line| serde_json::from_str(line).ok()));
    }
    all.retain(|line: &Refusal| line.message == "call refused by policy");
    Ok(all)
}

/// Every call that was refused was so under the identity of whoever was at its address, or under none. How many under which.
async fn logged(churn: &Churn<'_>) -> Result<BTreeMap<&'static str, usize>> {
    let mut counts = BTreeMap::new();
    for line in refusals(churn.fixture()).await? {
        let address = line.source.trim_start_matches("Some(").trim_end_matches(')').parse();
        let Some(owner) = address.ok().and_then(|address| churn.owner(address, line.timestamp)) else {
            continue;
        };
        let own = format!("/ns/{}/sa/{owner}", churn.space.name);
        let who = if line.caller.ends_with(&own) { owner } else { "unidentified" };
        ensure!(line.caller.ends_with(&own) || line.caller.starts_with(who), "{owner} was there: {line:?}");
        *counts.entry(who).or_default() += 1;
    }
    Ok(counts)
}

#[test]
fn an_address_that_a_pod_takes_from_another_never_yields_the_old_identity() {
    scenario("addresses", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "addresses", &[App::new("quotes", 3)]).await?;
        space.apply(POLICY).await?;
        let wait = ["wait", "meshpolicy/quotes", "--for=condition=Programmed", EFFECT_SECONDS_MAX];
        space.kubectl(&wait).await?;
        let proxy = SocketAddr::new(space.caller(&nodes[0]).proxy.ip(), PORT_L1);
        let (history, answers) = (Vec::new(), Answers::new());
        let mut churn =
            Churn { space: &space, node: nodes[0].clone(), proxy, history, taken: 0, answers, number: 0 };

        stale(&mut churn).await?;
        let (stale_calls, stale_taken) = (churn.calls(), churn.taken);
        for _ in 0..ROUNDS_MAX {
            if churn.calls() >= CALLS {
                break;
            }
            let tenants = churn.come().await?;
            churn.call(&tenants, FIRST_CALLS, LATER_CALLS).await?;
            churn.go(tenants).await?;
        }
        let (calls, taken) = (churn.calls(), churn.taken);
        figures::print(format!(
            "{calls} calls ({stale_calls} while the operator is away), {taken} addresses ({stale_taken}) that a pod took from one of the other account: {:?}",
            churn.answers
        ));
        ensure!(calls >= CALLS, "{calls} calls");
        ensure!(
            stale_taken >= PODS * STALE_ROUNDS && taken >= 3 * PODS * STALE_ROUNDS,
            "{stale_taken}, {taken}"
        );
        let served = churn.count(|account, status, _| account == ALLOWED && status == 200);
        let refused = churn.count(|account, _, error| account == DENIED && error == "policy-denied");
        ensure!(served >= CALLS / 4 && refused >= CALLS / 4, "{served} served, {refused} refused");
        let lines = logged(&churn).await?;
        figures::print(format!("refusals in the proxies' logs, by whose they are: {lines:?}"));
        ensure!(lines.get(DENIED).is_some_and(|count| *count > 0), "no refusal is in the log");
        ensure!(!lines.contains_key(ALLOWED), "calls that may be made were refused");
        space.leave().await
    });
}

/// The operator is away, so that the list of pods says what was: pods that take the addresses of those that it has are nobody, also
/// for a proxy that begins meanwhile.
async fn stale(churn: &mut Churn<'_>) -> Result<()> {
    let fixture = churn.space.fixture;
    let mut tenants = churn.come().await?;
    let first = tenants.clone();
    fixture
        .until("the first pods to be known", EFFECT_MAX, async || {
            let listed = mesh::node(fixture, &churn.node).await?.spec.pods;
            Ok(first.iter().all(|tenant| listed.iter().any(|pod| pod.name == tenant.name)))
        })
        .await?;
    churn.call(&tenants, FIRST_CALLS, LATER_CALLS).await?;
    let known = churn.count(|account, status, _| account == ALLOWED && status == 200);
    ensure!(known >= PODS * LATER_CALLS, "{known} calls of pods that are known: {:?}", churn.answers);
    operator_replicas(fixture, 0).await?;
    let done = while_away(churn, &mut tenants).await;
    operator_replicas(fixture, 2).await?;
    done?;
    // The proxy that began meanwhile has its certificates when calls to other nodes are answered, too.
    let (proxy, url) = (churn.proxy, format!("http://quotes.{}/status?code=200", churn.space.name));
    let allowed = tenants.iter().find(|tenant| tenant.account == ALLOWED).context("one that may call")?;
    fixture
        .until("the operator's word to be heard", EFFECT_MAX, async || {
            let (client, url) = (Client::new(Some(&format!("http://{proxy}"))), url.clone());
            let answers = netns::inside(&allowed.netns, async move || {
                join_all((0..FIRST_CALLS).map(|_| answer(&client, &url))).await
            });
            Ok(answers.await?.iter().all(|(status, _)| *status == 200))
        })
        .await?;
    churn.call(&tenants, FIRST_CALLS, LATER_CALLS).await?;
    churn.go(tenants).await
}

async fn while_away(churn: &mut Churn<'_>, tenants: &mut Vec<Tenant>) -> Result<()> {
    let fixture = churn.space.fixture;
    for round in 0..STALE_ROUNDS {
        let before = churn.count(|account, status, _| account == ALLOWED && status == 200);
        churn.go(std::mem::take(tenants)).await?;
        *tenants = churn.come().await?;
        if round + 1 == STALE_ROUNDS {
            let old = mesh::proxy_on(fixture, &churn.node).await?.name_any();
            fixture.kubectl.run(["delete", "pod", "-n", "vicino-proxy", &old]).await?;
            let anew = async || Ok(mesh::proxy_on(fixture, &churn.node).await?.name_any() != old);
            fixture.until("another proxy", PODS_READY_MAX, anew).await?;
        }
        churn.call(tenants, STALE_CALLS, 0).await?;
        let after = churn.count(|account, status, _| account == ALLOWED && status == 200);
        let lost = mesh::metric(fixture, &churn.node, "vicino_proxy_pod_addresses{link=\"doubted\"}").await?;
        ensure!(lost > 0.0, "nothing is doubted");
        ensure!(after == before, "{} calls of pods that nobody knows were served", after - before);
        figures::print(format!("round {round} without the operator: {lost} addresses doubted"));
    }
    let nobody = churn
        .count(|account, status, error| account == DENIED && status == 403 && error == "not-a-neighbour");
    ensure!(nobody > 0, "nobody was nobody: {:?}", churn.answers);
    Ok(())
}
