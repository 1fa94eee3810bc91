//! What HTTP/1.1 and HTTP/2 say in different ways, on the whole way of a call and whichever side speaks which, with clients and servers that are
//! not ours: Go's net/http at both ends, curl, nghttp, h2load.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::time::timeout;
use vicino_e2e::caller::Caller;
use vicino_e2e::mesh::programmed;
use vicino_e2e::workload::{App, EFFECT_MAX, Space, container};
use vicino_e2e::{Fixture, netns, scenario};

/// One run of a program takes no longer; who waits in vain for `100 Continue` sends the body after a minute.
const RUN_MAX: Duration = Duration::from_secs(50);

/// The server's two ports, and a Service's two, which say what is spoken behind them.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: go-NAME}
spec:
  selector: {app: NAME}
  ports:
  - {name: one, port: 81, targetPort: 9001, appProtocol: http}
  - {name: two, port: 82, targetPort: 9002, appProtocol: kubernetes.io/h2c}
";
const PORTS: [(u16, &str); 2] = [(81, "HTTP/1.1"), (82, "HTTP/2.0")];

/// What the server's `/content` is.
const CONTENT_LENGTH: usize = 10_000;

/// A call, as the Go client is told it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Call<'a> {
    method: &'a str,
    path: &'a str,
    authority: &'a str,
    fields: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    trailer: Option<&'a str>,
}

/// What came back, as the Go client tells it.
#[derive(Debug, Deserialize)]
struct Answer {
    status: u16,
    interims: Vec<Interim>,
    fields: Vec<(String, String)>,
    body: String,
    trailer: String,
}

#[derive(Debug, Deserialize)]
struct Interim {
    status: u16,
    link: String,
}

impl Answer {
    /// By curl: all heads, one after the other, and trailers as if they were one.
    fn of_curl(heads: &str, body: &[u8]) -> Result<Self> {
        let heads = heads.replace("\r\n", "\n");
        let mut heads: Vec<_> = heads.split("\n\n").filter(|head| head.starts_with("HTTP/")).collect();
        let (status, fields) = parsed(heads.pop().context("no head")?)?;
        let interim = |head: &&str| {
            let (status, fields) = parsed(head)?;
            let link = fields.into_iter().find_map(|(name, value)| (name == "link").then_some(value));
            anyhow::Ok(Interim { status, link: link.unwrap_or_default() })
        };
        let interims = heads.iter().map(interim).collect::<Result<_>>()?;
        let body = String::from_utf8_lossy(body).into_owned();
        Ok(Self { status, interims, fields, body, trailer: String::new() })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find_map(|(found, value)| (found == name).then_some(value.as_str()))
    }

    fn interims(&self) -> Vec<(u16, &str)> {
        self.interims.iter().map(|interim| (interim.status, interim.link.as_str())).collect()
    }
}

/// A head's status and fields.
fn parsed(head: &str) -> Result<(u16, Vec<(String, String)>)> {
    let (first, fields) = head.split_once('\n').unwrap_or((head, ""));
    let status = first.split(' ').nth(1).context("a status")?.parse()?;
    let field = |line: &str| line.split_once(':').map(|(n, v)| (n.to_lowercase(), v.trim().to_owned()));
    Ok((status, fields.lines().filter_map(field).collect()))
}

/// What a call is answered with: status, interim responses and their links, body.
struct Case {
    call: Call<'static>,
    status: u16,
    interims: &'static [(u16, &'static str)],
    /// The body's length, or the content's that there would be.
    content_length: Option<usize>,
    body: &'static str,
}

const EXPECTS: &[(&str, &str)] = &[("Expect", "100-continue")];

fn cases() -> Vec<Case> {
    let call = |method, path| Call { method, path, ..Call::default() };
    let case = |call, status, body| Case { call, status, interims: &[], content_length: None, body };
    let has_it = Call { fields: &[("If-None-Match", "\"v1\"")], ..call("GET", "/content") };
    let expects = Call { fields: EXPECTS, body: Some("a body"), ..call("POST", "/echo") };
    let refused = Call { path: "/refuse", ..expects.clone() };
    vec![
        Case { content_length: Some(CONTENT_LENGTH), ..case(call("HEAD", "/content"), 200, "") },
        case(has_it, 304, ""),
        case(call("GET", "/nothing"), 204, ""),
        Case {
            interims: &[(103, "</a.css>"), (103, "</b.css>")],
            ..case(call("GET", "/hints"), 200, "hinted")
        },
        Case { interims: &[(100, "")], ..case(expects, 200, "a body") },
        case(refused, 413, ""),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Go,
    Curl,
}

/// Go's program, as a client of one caller.
struct Clients<'a> {
    program: &'a Path,
    caller: &'a Caller,
}

impl Clients<'_> {
    async fn ask(&self, (client, is_http2): (Client, bool), call: &Call<'_>) -> Result<Answer> {
        match client {
            Client::Go => self.go(is_http2, call).await,
            Client::Curl => self.curl(is_http2, call).await,
        }
    }

    async fn go(&self, is_http2: bool, call: &Call<'_>) -> Result<Answer> {
        let mut command = self.caller.command(self.program);
        let protocol = if is_http2 { "h2c" } else { "http1" };
        command.args(["call", &self.caller.proxy.to_string(), protocol]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("stdin is piped")?;
        pipe.write_all(&serde_json::to_vec(call)?).await?;
        drop(pipe);
        let output = timeout(RUN_MAX, child.wait_with_output()).await.context("it takes too long")??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    async fn curl(&self, is_http2: bool, call: &Call<'_>) -> Result<Answer> {
        let (proxy, host) = (format!("http://{}", self.caller.proxy), format!("Host: {}", call.authority));
        let seconds = RUN_MAX.as_secs().to_string();
        let mut arguments = vec!["--max-time", &seconds, "--expect100-timeout", "60"];
        let url = if is_http2 {
            arguments.extend(["--http2-prior-knowledge", "--header", &host]);
            format!("{proxy}{}", call.path)
        } else {
            arguments.extend(["--proxy", &proxy]);
            format!("http://{}{}", call.authority, call.path)
        };
        match call.method {
            "HEAD" => arguments.push("--head"),
            method => arguments.extend(["--request", method]),
        }
        let fields: Vec<_> = call.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        arguments.extend(fields.iter().flat_map(|field| ["--header", field]));
        arguments.extend(call.body.iter().flat_map(|body| ["--data-binary", body]));
        let answer = self.caller.curl(&[&arguments[..], &[&url]].concat()).await?;
        // Of a HEAD curl shows the head as if it were the body.
        let body: &[u8] = if call.method == "HEAD" { &[] } else { &answer.body };
        Answer::of_curl(&answer.head, body).with_context(|| answer.to_string())
    }
}

/// Go's program, built from the source beside this file.
fn built() -> Result<PathBuf> {
    let (folder, here) = (Path::new(env!("CARGO_TARGET_TMPDIR")), Path::new(env!("CARGO_MANIFEST_DIR")));
    let program = folder.join("nethttp");
    let mut build = std::process::Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(here.join("tests/nethttp/nethttp.go")).current_dir(folder);
    ensure!(build.status().context("is Go installed?")?.success(), "nethttp.go is not built");
    Ok(program)
}

/// The server in the network namespace of an app's pod, for as long as this lives.
async fn serve(space: &Space<'_>, program: &Path, app: &str) -> Result<Child> {
    let pods = space.fixture.pods(&space.name, &format!("app={app}")).await?;
    let host = netns::of_container(&container(pods.first().context("one pod")?)?)?;
    let mut command = netns::command(&host, program);
    command.args(["serve", ":9001", ":9002"]);
    let server = command.stdin(Stdio::null()).spawn().context("start the server")?;
    space
        .fixture
        .until("the server to listen", EFFECT_MAX, async || {
            let sockets = netns::command(&host, "ss").arg("-Hltn").output().await?;
            let said = String::from_utf8_lossy(&sockets.stdout).into_owned();
            Ok([":9001 ", ":9002 "].iter().all(|port| said.contains(port)))
        })
        .await?;
    Ok(server)
}

#[test]
fn interim_and_empty_responses_are_those_of_the_application_whoever_speaks_what() {
    scenario("nethttp", async |fixture| {
        let nodes = fixture.nodes();
        let apps = [App::new("near", 1).on(&nodes[0]), App::new("far", 1).on(&nodes[1])];
        let space = Space::new(fixture, "nethttp", &apps).await?;
        let program = built()?;
        let clients = Clients { program: &program, caller: space.caller(&nodes[0]) };
        for app in ["near", "far"] {
            let _server = serve(&space, &program, app).await?;
            space.apply(&SERVICE.replace("NAME", app)).await?;
            programmed(fixture, &space.name, &format!("go-{app}")).await?;
            for (port, spoken) in PORTS {
                let authority = format!("go-{app}:{port}");
                is_there(fixture, &clients, &authority).await?;
                for is_http2 in [false, true] {
                    for client in [Client::Go, Client::Curl] {
                        let way = format!("{client:?}, HTTP/2: {is_http2}, to {authority}");
                        cases_hold(&clients, (client, is_http2), &authority, spoken).await.context(way)?;
                    }
                    let way = format!("HTTP/2: {is_http2}, to {authority}");
                    trailers_go_both_ways(&clients, is_http2, &authority).await.context(way)?;
                }
                responses_without_a_body_end_where_they_should(&clients, &authority).await?;
                http2_clients_are_content(&clients, &authority).await?;
            }
        }
        space.leave().await
    });
}

/// An endpoint may be in force a moment after its route is.
async fn is_there(fixture: &Fixture, clients: &Clients<'_>, authority: &str) -> Result<()> {
    let call = Call { method: "GET", path: "/nothing", authority, ..Call::default() };
    let is_answered =
        async || Ok(clients.ask((Client::Curl, false), &call).await.is_ok_and(|a| a.status == 204));
    fixture.until(&format!("{authority} to answer"), EFFECT_MAX, is_answered).await
}

async fn cases_hold(clients: &Clients<'_>, who: (Client, bool), authority: &str, spoken: &str) -> Result<()> {
    for case in cases() {
        let Case { call, status, interims, content_length, body } = case;
        let call = Call { authority, ..call };
        // curl of Debian 12 takes a stream that ends before its own body does for one without an answer, whoever the server is.
        if who == (Client::Curl, true) && status == 413 {
            continue;
        }
        let (method, path) = (call.method, call.path);
        let answer = clients.ask(who, &call).await.with_context(|| format!("{method} {path}"))?;
        let is_same = answer.status == status && answer.interims() == interims && answer.body == body;
        ensure!(is_same, "{method} {path}: {answer:?}");
        ensure!(
            answer.field("x-proto") == Some(spoken),
            "the application is spoken to in {spoken}: {answer:?}"
        );
        if let Some(length) = content_length {
            ensure!(
                answer.field("content-length") == Some(&*length.to_string()),
                "{method} {path}: {answer:?}"
            );
        }
        // RFC 9110 §8.6: none in a 204; RFC 9112 §6.1: no coding either.
        let is_framed =
            ["content-length", "transfer-encoding"].iter().any(|name| answer.field(name).is_some());
        ensure!(status != 204 || !is_framed, "{method} {path}: {answer:?}");
        ensure!(status != 304 || answer.field("etag") == Some("\"v1\""), "{method} {path}: {answer:?}");
    }
    Ok(())
}

async fn trailers_go_both_ways(clients: &Clients<'_>, is_http2: bool, authority: &str) -> Result<()> {
    let fields = &[("TE", "trailers")];
    let (body, trailer) = (Some("hello"), Some("5"));
    let call = Call { method: "POST", path: "/echo", authority, fields, body, trailer };
    let answer = clients.ask((Client::Go, is_http2), &call).await?;
    ensure!(answer.status == 200 && answer.body == "hello" && answer.trailer == "5", "{answer:?}");
    Ok(())
}

/// In HTTP/1.1 whoever takes a byte too many or too few for the body loses the connection, or the next response.
async fn responses_without_a_body_end_where_they_should(
    clients: &Clients<'_>,
    authority: &str,
) -> Result<()> {
    let proxy = format!("http://{}", clients.caller.proxy);
    let (content, nothing) = (format!("http://{authority}/content"), format!("http://{authority}/nothing"));
    let told = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\n"];
    let mut curl = clients.caller.command("curl");
    let calls = [
        vec!["--head", &content],
        vec!["--header", "If-None-Match: \"v1\"", &content],
        vec![&*nothing],
        vec![&*content],
    ];
    for call in &calls {
        curl.args(["--next", "--proxy", &proxy]).args(told).args(call);
    }
    let output = timeout(RUN_MAX, curl.output()).await.context("curl takes too long")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said == "200 1\n304 0\n204 0\n200 0\n", "statuses and new connections, to {authority}: {said}");
    Ok(())
}

/// nghttp shows each head, h2load makes many calls on one connection.
async fn http2_clients_are_content(clients: &Clients<'_>, authority: &str) -> Result<()> {
    let caller = clients.caller;
    let mut nghttp = caller.command("nghttp");
    nghttp.args(["-nv", "--no-dep", "-H", &format!(":authority: {authority}")]);
    nghttp.arg(format!("http://{}/hints", caller.proxy));
    let output = timeout(RUN_MAX, nghttp.output()).await.context("nghttp takes too long")??;
    let said = String::from_utf8_lossy(&output.stdout);
    let statuses: Vec<_> = said.lines().filter_map(|line| line.split_once(":status: ")).collect();
    let statuses: Vec<_> = statuses.into_iter().map(|(_, status)| status.trim()).collect();
    ensure!(statuses == ["103", "103", "200"], "nghttp to {authority}: {said}");
    // Interim responses are no part of what h2load counts by status.
    for path in ["/nothing", "/content"] {
        let answered = caller.h2load(authority, path, (200, 2)).await?;
        ensure!(answered == 200, "of 200 calls to {authority}{path} {answered} were answered with 2xx");
    }
    Ok(())
}
