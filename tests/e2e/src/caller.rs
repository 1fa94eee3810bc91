//! Calls as an application does, from the network namespace of one pod: with the sample application's client, with curl,
//! or byte by byte.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use hyper::Response;
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use vicino_cluster::load::{self, Load, Report};
use vicino_crds::names::PORT_L1;
use vicino_sample::client::{CallError, Client};

use crate::netns;

/// One call takes no longer.
const CALL_SECONDS_MAX: Duration = Duration::from_mins(1);
/// One exchange, byte by byte, takes no longer.
const RAW_SECONDS_MAX: Duration = Duration::from_mins(1);
/// One run of curl, h2load or gRPC's client takes no longer.
const PROGRAM_SECONDS_MAX: Duration = Duration::from_mins(2);
/// Pause between two calls of a wait.
const POLL: Duration = Duration::from_millis(10);

/// A pod to call from.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its name.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: IpAddr,
    /// L1 of its node.
    pub proxy: SocketAddr,
    /// Its network namespace.
    pub netns: PathBuf,
}

/// What curl saw.
#[derive(Debug)]
pub struct CurlAnswer {
    /// The last status; 0 when there was no answer.
    pub status: u16,
    /// The head, or heads when there was a tunnel, with lower-case names.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl CurlAnswer {
    /// The value of the last header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| -> Option<(usize, usize)> {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some((found.len() + 1, value.len()))
        };
        self.head.lines().rev().find_map(|line| value(line).map(|(from, _)| line[from..].trim()))
    }
}

impl fmt::Display for CurlAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(1000)];
        write!(f, "{}\n{}\n{}", self.status, self.head, String::from_utf8_lossy(body))
    }
}

impl Caller {
    /// From the network namespace of a running pod.
    pub fn of(pod: &Pod) -> Result<Self> {
        let name = pod.name_any();
        let status = pod.status.as_ref().context("a pod without status")?;
        let container = status.container_statuses.iter().flatten().find_map(|c| c.container_id.clone());
        let container = container.with_context(|| format!("pod {name} has no container yet"))?;
        let address = |text: &Option<String>, what| {
            let text = text.as_ref().with_context(|| format!("pod {name} has no {what}"))?;
            text.parse::<IpAddr>().with_context(|| format!("{what} of pod {name}"))
        };
        Ok(Self {
            ip: address(&status.pod_ip, "address")?,
            proxy: SocketAddr::new(address(&status.host_ip, "node address")?, PORT_L1),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            netns: netns::of_container(&container)
                .with_context(|| format!("network namespace of pod {name}"))?,
            pod: name,
        })
    }

    /// This caller, but asking another node's L1.
    #[must_use]
    pub fn asking(&self, proxy: IpAddr) -> Self {
        Self { proxy: SocketAddr::new(proxy, PORT_L1), ..self.clone() }
    }

    /// This caller, but asking at another address.
    #[must_use]
    pub fn at(&self, proxy: SocketAddr) -> Self {
        Self { proxy, ..self.clone() }
    }

    /// One GET through L1, as an application with `http_proxy` makes it.
    pub async fn get(&self, url: &str) -> Result<Response<Bytes>> {
        self.get_with(url, &[]).await
    }

    /// One GET through L1 with extra headers.
    pub async fn get_with(
        &self,
        url: &str,
        headers: &'static [(&'static str, &'static str)],
    ) -> Result<Response<Bytes>> {
        let (client, asked) = (self.client(), url.to_owned());
        let answer = netns::inside(&self.netns, async move || client.get(&asked, headers).await).await?;
        answer.with_context(|| format!("{} calls {url}", self.node))
    }

    /// The sample application's client; its sockets belong to the namespace of the thread that uses it first.
    pub fn client(&self) -> Client {
        Client::new(Some(&format!("http://{}", self.proxy))).within(CALL_SECONDS_MAX)
    }

    /// Calls again and again until an answer is `as_wished`, or errors with the last answer.
    pub async fn calls_until<F>(&self, url: &str, bound: Duration, as_wished: F) -> Result<()>
    where
        F: Fn(&Result<Response<Bytes>, CallError>) -> bool + Send + 'static,
    {
        let (client, asked) = (self.client(), url.to_owned());
        let last = netns::inside(&self.netns, async move || {
            let mut last = String::new();
            let poll = async {
                loop {
                    let answer = client.get(&asked, &[]).await;
                    if as_wished(&answer) {
                        return;
                    }
                    last = shown(&answer);
                    sleep(POLL).await;
                }
            };
            timeout(bound, poll).await.map_err(|_| last)
        });
        let last = last.await?;
        last.map_err(|last| {
            anyhow::anyhow!("{} calls {url}: not within {bound:?}; the last answer was {last}", self.node)
        })
    }

    /// Waits until a call is answered with 2xx.
    pub async fn reaches(&self, url: &str, bound: Duration) -> Result<()> {
        self.calls_until(url, bound, |answer| answer.as_ref().is_ok_and(|a| a.status().is_success())).await
    }

    /// Waits until calls are answered by `count` different pods.
    pub async fn reaches_all(&self, url: &str, count: usize, bound: Duration) -> Result<()> {
        let seen = Mutex::new(BTreeSet::new());
        let (what, one_more) =
            (format!("{count} pods"), move |answer: &Result<Response<Bytes>, CallError>| {
                let pod = answer.as_ref().ok().and_then(|answer| answer.headers().get("x-pod"));
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(pod.map(|pod| pod.as_bytes().to_owned()));
                seen.len() >= count
            });
        self.calls_until(url, bound, one_more).await.context(what)
    }

    /// Waits until the proxy knows who calls: it looks the name up, which is nobody's, only for those.
    pub async fn is_known(&self, bound: Duration) -> Result<()> {
        self.calls_until("http://nobody/", bound, |answer| answer.as_ref().is_ok_and(|a| a.status() == 404))
            .await
    }

    /// Runs Debian's curl in this pod's network namespace.
    pub async fn curl(&self, arguments: &[&str]) -> Result<CurlAnswer> {
        let head = tempfile("head")?;
        let mut command = self.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "100", "--dump-header"]).arg(&head.0);
        command.args(["--write-out", "%{stderr}%{http_code}"]).args(arguments);
        let output =
            timeout(PROGRAM_SECONDS_MAX, command.output()).await.context("curl takes too long")??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let digits = said.len().checked_sub(3).and_then(|at| said.get(at..));
        let Some(status) = digits.and_then(|digits| digits.parse().ok()) else {
            bail!("curl {arguments:?}: {said}");
        };
        let head = std::fs::read_to_string(&head.0).unwrap_or_default();
        Ok(CurlAnswer { status, head, body: output.stdout })
    }

    /// A program in this pod's network namespace. What this machine is told about proxies is not this pod's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = netns::command(&self.netns, program);
        for name in
            ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"]
        {
            command.env_remove(name);
        }
        command
    }

    /// Runs one of gRPC's interoperability tests with Go's client, which finds the mesh as other programs do: by `HTTPS_PROXY`.
    pub async fn grpc(&self, host: &str, case: &str) -> Result<()> {
        let mut command = self.command(vicino_cluster::prepare::grpc_client()?);
        command.env("HTTPS_PROXY", format!("http://{}", self.proxy));
        command.args(["--server_port=80", &format!("--server_host={host}"), &format!("--test_case={case}")]);
        let output =
            timeout(PROGRAM_SECONDS_MAX, command.output()).await.context("gRPC takes too long")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{case} from {} to {host}: {:.1000}", self.node, said);
        Ok(())
    }

    /// Runs h2load with prior knowledge: `count` calls on `connections`, ten streams each; how many were answered with 2xx.
    pub async fn h2load(&self, authority: &str, path: &str, (count, connections): (u32, u32)) -> Result<u32> {
        let mut command = self.command("h2load");
        command.args(["-m10", &format!("-n{count}"), &format!("-c{connections}")]);
        command.args(["-H", &format!(":authority: {authority}"), &format!("http://{}{path}", self.proxy)]);
        let output =
            timeout(PROGRAM_SECONDS_MAX, command.output()).await.context("h2load takes too long")??;
        let said = String::from_utf8_lossy(&output.stdout);
        let answered = said.lines().find_map(|line| line.strip_prefix("status codes: ")?.split(' ').next());
        answered.and_then(|number| number.parse().ok()).with_context(|| format!("h2load said {said}"))
    }

    /// Sends `bytes` to L1 on a connection of their own and reads until it closes, or until what came `is_enough`.
    pub async fn raw(&self, bytes: &[u8], is_enough: fn(&str) -> bool) -> Result<String> {
        let (proxy, bytes) = (self.proxy, bytes.to_vec());
        let exchange = netns::inside(&self.netns, async move || {
            timeout(RAW_SECONDS_MAX, async {
                let mut stream = TcpStream::connect(proxy).await?;
                stream.write_all(&bytes).await?;
                let mut answer = Vec::new();
                // A reset after the answer is how a peer refuses what it does not want to read.
                while stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {
                    if is_enough(&String::from_utf8_lossy(&answer)) {
                        break;
                    }
                }
                std::io::Result::Ok(answer)
            })
            .await
        });
        let answer = exchange.await?.context("the exchange takes too long")?.context("talk to L1")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Opens a WebSocket through L1 with a library that is not ours, says each message and hears what comes back, then closes it properly.
    pub async fn websocket(&self, url: &str, messages: Vec<Message>) -> Result<Vec<Message>> {
        let (proxy, request) = (self.proxy, url.into_client_request()?);
        let talk = netns::inside(&self.netns, async move || {
            timeout(RAW_SECONDS_MAX, async {
                let stream = TcpStream::connect(proxy).await?;
                let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
                let mut heard = Vec::new();
                for message in messages {
                    socket.send(message).await?;
                    heard.extend(socket.next().await.transpose()?);
                }
                socket.close(None).await?;
                while let Some(message) = socket.next().await.transpose()? {
                    ensure!(message.is_close(), "after the close came {message:?}");
                }
                anyhow::Ok(heard)
            })
            .await
        });
        talk.await?
            .context("the WebSocket takes too long")?
            .with_context(|| format!("{} talks to {url}", self.node))
    }

    /// Sends a load through L1.
    pub async fn load(&self, load: Load) -> Result<Report> {
        ensure!(load.via == Some(self.proxy), "a pod asks the proxy of its own node");
        netns::inside(&self.netns, async move || load::run(&load).await).await?
    }
}

/// An answer in one line, for messages.
pub fn shown(answer: &Result<Response<Bytes>, CallError>) -> String {
    match answer {
        Err(error) => error.to_string(),
        Ok(response) => {
            let header =
                |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-");
            format!(
                "{} vicino-error={} x-pod={} x-node={}",
                response.status(),
                header("vicino-error"),
                header("x-pod"),
                header("x-node")
            )
        }
    }
}

/// A file that goes with this value.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tempfile(what: &str) -> Result<TemporaryFile> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = crate::fixture::output_dir();
    ensure!(folder.is_dir(), "no folder {}", folder.display());
    Ok(TemporaryFile(folder.join(format!("{what}-{}-{number}", std::process::id()))))
}
