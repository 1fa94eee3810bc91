//! The operator as a process of its own: started, asked, stopped or killed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::cluster::{Cluster, SOON, until};

pub(crate) struct Operator {
    child: Child,
    address: SocketAddr,
}

impl Operator {
    /// Starts it and waits until it has run the pipeline once.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        Self::start_within(cluster, SOON).await
    }

    /// The same on a large cluster, where the first pass takes its time.
    pub(crate) async fn start_within(cluster: &Cluster, at_most: Duration) -> Self {
        let operator = Self::launch(&cluster.kubeconfig);
        operator.leads(at_most).await;
        operator
    }

    /// Starts it with a kubeconfig and does not wait for anything.
    pub(crate) fn launch(kubeconfig: &str) -> Self {
        Self::launch_with(kubeconfig, &[])
    }

    /// With more arguments.
    pub(crate) fn launch_with(kubeconfig: &str, arguments: &[&str]) -> Self {
        // One name for all of them: an operator that was killed does not keep the next one waiting.
        Self::launch_as("api-tests", kubeconfig, arguments)
    }

    /// With a name of its own.
    pub(crate) fn launch_as(identity: &str, kubeconfig: &str, arguments: &[&str]) -> Self {
        let address = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_vicino-operator"))
            .args([
                "--identity",
                identity,
                "--log-format",
                "text",
                "--proxy-image",
                "example.invalid/proxy:1",
            ])
            .args(["--listen", &address.to_string()])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// Waits until it has run the pipeline once.
    pub(crate) async fn leads(&self, at_most: Duration) {
        let what = "the operator leads (is there another one on this cluster?)";
        until(what, at_most, async || self.get("/readyz") == "leading").await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The body of an answer; empty when there is none.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        let asked = TcpStream::connect(self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        match asked {
            Ok(_) => answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// The sum of a metric over its labels, those with `containing` only.
    pub(crate) fn metric(&self, name: &str, containing: &str) -> u64 {
        let text = self.get("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(containing));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    pub(crate) fn writes(&self) -> u64 {
        self.metric("vicino_operator_writes_total", "")
    }

    /// Waits until it has written nothing for two seconds. A lull cannot be awaited but by time.
    pub(crate) async fn settle(&self) {
        let mut last = (self.writes(), tokio::time::Instant::now());
        while last.1.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let writes = self.writes();
            if writes != last.0 {
                last = (writes, tokio::time::Instant::now());
            }
        }
    }

    /// Ends it as the kubelet does; true when it ended by itself with success.
    pub(crate) fn terminate(mut self) -> bool {
        let done = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        done.success() && self.child.wait().unwrap().success()
    }
}

/// An address of loopback that is free, and that no other program of these tests is about to bind.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}

impl Drop for Operator {
    /// As a machine that loses power.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
