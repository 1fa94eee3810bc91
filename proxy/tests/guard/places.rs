//! Three network namespaces in a row: a caller, a node that forwards, and a pod that answers what it is told.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use vicino_proxy::guard::plan::Plan;
use vicino_proxy::guard::socket::Socket;
use vicino_proxy::guard::table::{self, Elements};

use crate::netns::{inside, ip, run};

pub(crate) const CALLER4: &str = "10.9.1.2";
pub(crate) const CALLER6: &str = "fd09:1::2";
pub(crate) const POD4: &str = "10.9.2.2";
pub(crate) const POD6: &str = "fd09:2::2";

/// Until a new network carries something.
const PAUSE: Duration = Duration::from_millis(100);
const ATTEMPTS_MAX: usize = 50;

/// The namespaces' names.
pub(crate) struct Places {
    pub(crate) caller: String,
    pub(crate) node: String,
    pub(crate) pod: String,
}

impl Places {
    /// Namespaces of one test; the pod listens at `ports`.
    pub(crate) fn new(test: &str, ports: &[u16]) -> Self {
        let name = |of: &str| format!("guard-{}-{test}-{of}", std::process::id());
        let places = Self { caller: name("c"), node: name("n"), pod: name("p") };
        let Self { caller, node, pod } = &places;
        for place in [caller, node, pod] {
            run(Command::new("ip").args(["netns", "add", place]));
            ip(place, "link set lo up");
        }
        for (end, device, net) in [(caller, "caller", 1), (pod, "pod", 2)] {
            ip(node, &format!("link add {device} type veth peer name eth0 netns {end}"));
            for (place, device, host) in [(node, device, 1), (end, "eth0", 2)] {
                ip(place, &format!("address add 10.9.{net}.{host}/24 dev {device}"));
                ip(place, &format!("address add fd09:{net}::{host}/64 dev {device} nodad"));
                ip(place, &format!("link set {device} up"));
            }
            ip(end, &format!("route add default via 10.9.{net}.1"));
            ip(end, &format!("-6 route add default via fd09:{net}::1"));
        }
        inside(node, || {
            for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{knob}"), "1").expect("make the node forward");
            }
        });
        Self::serve(pod, ports);
        places.meet(ports);
        places
    }

    /// Waits until neighbours know each other, so that no SYN is sent twice.
    fn meet(&self, ports: &[u16]) {
        let addresses = [POD4, POD6].map(|address| address.parse::<IpAddr>().expect("an address"));
        for (address, port) in addresses.into_iter().zip(ports.iter().copied().cycle()) {
            inside(&self.caller, move || {
                let met = (0..ATTEMPTS_MAX).any(|_| {
                    let met = TcpStream::connect_timeout(&SocketAddr::new(address, port), PAUSE * 10).is_ok();
                    if !met {
                        std::thread::sleep(PAUSE);
                    }
                    met
                });
                assert!(met, "{address} is not reached");
            });
        }
    }

    /// Repeats to everybody what they say, for as long as the process lives.
    pub(crate) fn serve(place: &str, ports: &[u16]) {
        for port in ports {
            let listener = inside(place, {
                let port = *port;
                move || TcpListener::bind(("::", port)).expect("listen")
            });
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut heard = [0; 64];
                        while let Ok(count @ 1..) = stream.read(&mut heard) {
                            if stream.write_all(&heard[..count]).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        }
    }

    /// A guard of the node, as a process begins it.
    pub(crate) fn guard(&self) -> Guard {
        Guard(inside(&self.node, || Socket::open().expect("open a socket")))
    }

    /// The name that the table has now.
    pub(crate) fn table(&self) -> String {
        let tables = self.nft(&["list", "tables", "inet"]);
        let names: Vec<_> = tables.split_whitespace().filter(|word| word.starts_with("vicino")).collect();
        let [name] = names[..] else { panic!("one table, not {tables}") };
        name.to_owned()
    }

    /// What `nft` says in the node.
    pub(crate) fn nft(&self, arguments: &[&str]) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.node, "nft"]).args(arguments))
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for place in [&self.caller, &self.node, &self.pod] {
            let _ = Command::new("ip").args(["netns", "delete", place]).status();
        }
    }
}

/// A socket in the node's namespace, whose it stays.
pub(crate) struct Guard(Socket);

impl Guard {
    pub(crate) fn hold(&mut self, plan: &Plan) -> Elements {
        table::hold(&mut self.0, plan).expect("hold the table")
    }

    pub(crate) fn leave(&mut self, plan: &Plan) -> Elements {
        table::leave(&mut self.0, plan).expect("leave the table")
    }

    pub(crate) fn remove(&mut self) {
        table::remove(&mut self.0).expect("remove the table");
    }
}
