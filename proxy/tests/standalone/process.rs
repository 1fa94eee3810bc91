//! A running proxy: started with flags, ended with the test, its log kept for the message of a failure.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::get;
use crate::configuration::{Configuration, L2_PORT, node_address};

const BINARY: &str = env!("CARGO_BIN_EXE_vicino-proxy");
const L1_PORT: u16 = 14140;
const METRICS_PORT: u16 = 19991;

/// Waits until `reached`; fails after a time that is long for any machine.
pub(crate) fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if reached() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 30 s: {what}");
}

/// A port of 127.0.0.1 that is free, and that no other proxy of these tests is about to bind.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

pub(crate) struct Proxy {
    child: Child,
    address: String,
    admin_port: u16,
    directory: TempDir,
}

impl Proxy {
    pub(crate) fn start(configuration: &Configuration, flags: &[&str]) -> Self {
        let address = node_address(configuration.node);
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // Loopback addresses are the tests' own, but the admin interface is always on 127.0.0.1.
        let admin_port = free_port();
        let child = Command::new(BINARY)
            .args(["--node", configuration.node, "--listen-ip", &address, "--log-format", "text"])
            .args(["--config-dir".into(), configuration.path().into_os_string()])
            .args(["--run-dir".into(), directory.path().as_os_str().to_owned()])
            .args(["--l1-port", &L1_PORT.to_string(), "--l2-port", &L2_PORT.to_string()])
            .args(["--metrics-port", &METRICS_PORT.to_string(), "--admin-port", &admin_port.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address, admin_port, directory }
    }

    /// Another one for the same node, as during an upgrade.
    pub(crate) fn start_beside(older: &Self, configuration: &Configuration) -> Self {
        assert_eq!(older.address, node_address(configuration.node));
        Self::start(configuration, &[])
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().unwrap(), port)
    }

    pub(crate) fn l1(&self) -> SocketAddr {
        self.at(L1_PORT)
    }

    pub(crate) fn metrics(&self) -> SocketAddr {
        self.at(METRICS_PORT)
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::new("127.0.0.1".parse().unwrap(), self.admin_port)
    }

    pub(crate) fn is_ready(&self) {
        eventually(&format!("ready; its log:\n{}", self.log()), || {
            get(self.metrics(), "metrics", "/ready").is_ok_and(|answer| answer.status == 200)
        });
    }

    pub(crate) fn is_ready_by_probe(&self) {
        eventually("ready, as its own probe says", || self.probe("ready").is_ok());
    }

    /// What the kubelet would see.
    pub(crate) fn probe(&self, question: &str) -> Result<(), String> {
        let mut command = Command::new(BINARY);
        let output =
            command.args(["probe", question, "--run-dir"]).arg(self.directory.path()).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stdout).into_owned())
        }
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn exit_code(&mut self, within: Duration) -> Option<i32> {
        for _ in 0..within.as_millis() / 10 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    pub(crate) fn log(&self) -> String {
        let path: PathBuf = self.directory.path().join("log");
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.address, self.log());
        }
    }
}
