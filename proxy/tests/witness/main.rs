//! The witness on the real kernel: a node with pods, each a network namespace, on routes and on a bridge. Needs root and `ip`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use vicino_proxy::witness::bindings::{Tenant, Tenants};
use vicino_proxy::witness::{Keeper, Witness};

#[path = "../guard/netns.rs"]
mod netns;

use netns::{inside, ip, run};

const A4: &str = "10.9.2.5";
const A6: &str = "fd09:2::5";
const GATEWAY4: &str = "10.9.2.1";
const GATEWAY6: &str = "fd09:2::1";
/// A hardware address that pods have one after the other, as some plugins make it of the address.
const MAC: &str = "0a:58:0a:09:02:05";
/// What the kernel does by itself (neighbours that meet) is waited for so often.
const ATTEMPTS_MAX: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(20);

/// How pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Routes,
    Bridge,
}

/// A node without pods.
struct Node {
    name: String,
    network: Network,
    pods: AtomicU32,
}

/// A pod, and its link's name.
struct Pod {
    netns: String,
    link: String,
}

impl Node {
    fn new(test: &str, network: Network) -> Self {
        let name = format!("witness-{}-{test}-{network:?}", std::process::id()).to_lowercase();
        run(Command::new("ip").args(["netns", "add", &name]));
        ip(&name, "link set lo up");
        if network == Network::Bridge {
            ip(&name, "link add pods type bridge forward_delay 0");
            ip(&name, &format!("address add {GATEWAY4}/24 dev pods"));
            ip(&name, &format!("address add {GATEWAY6}/64 dev pods nodad"));
            ip(&name, "link set pods up");
        }
        Self { name, network, pods: AtomicU32::new(0) }
    }

    /// A pod with both addresses; `index` is the number of its link.
    fn pod(&self, index: Option<u32>) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let (netns, link) = (format!("{}-{number}", self.name), format!("veth{number}"));
        run(Command::new("ip").args(["netns", "add", &netns]));
        let index = index.map(|index| format!(" index {index}")).unwrap_or_default();
        let node = &self.name;
        ip(node, &format!("link add {link}{index} type veth peer name eth0 address {MAC} netns {netns}"));
        let host = if self.network == Network::Bridge { [24, 64] } else { [32, 128] };
        ip(&netns, &format!("address add {A4}/{} dev eth0", host[0]));
        ip(&netns, &format!("address add {A6}/{} dev eth0 nodad", host[1]));
        ip(&netns, "link set eth0 up");
        ip(node, &format!("link set {link} up"));
        match self.network {
            Network::Bridge => ip(node, &format!("link set {link} master pods")),
            Network::Routes => {
                ip(node, &format!("route replace {A4}/32 dev {link}"));
                ip(node, &format!("-6 route replace {A6}/128 dev {link}"));
            }
        }
        Pod { netns, link }
    }

    /// Its link goes, as when its sandbox is torn down.
    fn remove(&self, pod: &Pod) {
        ip(&self.name, &format!("link delete {}", pod.link));
    }

    fn index(&self, pod: &Pod) -> u32 {
        let path = format!("/sys/class/net/{}/ifindex", pod.link);
        let shown = run(Command::new("ip").args(["netns", "exec", &self.name, "cat", &path]));
        shown.trim().parse().expect("a number")
    }

    fn witness(&self, keeper: Option<Keeper>) -> Witness {
        inside(&self.name, move || Witness::begin(keeper.as_ref()).expect("open sockets"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pods = self.pods.load(Ordering::Relaxed);
        let pods = (0..pods).map(|number| format!("{}-{number}", self.name));
        for netns in pods.chain([self.name.clone()]) {
            let _ = Command::new("ip").args(["netns", "delete", &netns]).status();
        }
    }
}

impl Pod {
    /// Speaks with the node, so that a bridge and the node's neighbour table know it.
    fn speaks(&self) {
        inside(&self.netns, || {
            for gateway in [GATEWAY4, GATEWAY6] {
                let to: IpAddr = gateway.parse().expect("an address");
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                // That nobody listens does not matter.
                let _ = UdpSocket::bind(any).expect("a socket").send_to(b"ciao", (to, 9));
            }
        });
    }
}

/// Has one `ip` do all of this in the node.
fn batch(node: &Node, commands: impl Iterator<Item = String>) {
    let mut command = Command::new("ip");
    command.args(["-n", &node.name, "-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("start ip");
    let mut input = child.stdin.take().expect("it is piped");
    for command in commands {
        writeln!(input, "{command}").expect("feed ip");
    }
    drop(input);
    assert!(child.wait().expect("ip ends").success());
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// That pod at both addresses.
fn at(uid: &str, since: Option<i64>) -> Tenants {
    let tenant = Tenant { uid: uid.into(), since };
    [A4, A6].map(|ip| (ip.parse().expect("an address"), tenant.clone())).into()
}

/// Who is doubted, by address.
fn doubted(witness: &mut Witness) -> BTreeMap<String, String> {
    while witness.turn(None).expect("ask the kernel") {}
    witness.doubts().pods.iter().map(|(ip, uid)| (ip.to_string(), uid.to_string())).collect()
}

fn both(uid: &str) -> BTreeMap<String, String> {
    [A4, A6].map(|ip| (ip.to_owned(), uid.to_owned())).into()
}

/// Until this is so; the kernel learns of neighbours by itself.
fn until(what: &str, witness: &mut Witness, holds: impl Fn(&Witness) -> bool) {
    for _ in 0..ATTEMPTS_MAX {
        witness.turn(None).expect("ask the kernel");
        if holds(witness) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{what}: {:?} {:?}", witness.count(), witness.doubts());
}

/// A node with a pod that is bound at both addresses.
fn bound(test: &str, network: Network, keeper: Option<Keeper>) -> (Node, Pod, Witness) {
    let node = Node::new(test, network);
    let mut witness = node.witness(keeper);
    let pod = node.pod(None);
    witness.turn(Some(&at("one", Some(now())))).expect("ask the kernel");
    if network == Network::Bridge {
        assert_eq!(witness.count().unseen, 2, "they have not spoken");
        pod.speaks();
    }
    until("both addresses are bound", &mut witness, |witness| witness.count().bound == 2);
    assert!(doubted(&mut witness).is_empty());
    (node, pod, witness)
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn a_pod_is_doubted_when_its_link_goes_and_its_successor_is_believed_when_it_is_named() {
    for network in [Network::Routes, Network::Bridge] {
        for is_same_number in [false, true] {
            let (node, one, mut witness) = bound("replaced", network, None);
            let index = node.index(&one);
            node.remove(&one);
            assert_eq!(doubted(&mut witness), both("one"));
            let two = node.pod(is_same_number.then_some(index));
            two.speaks();
            until("the successor is seen", &mut witness, |witness| witness.count().doubted == 2);
            assert_eq!(doubted(&mut witness), both("one"));
            witness.turn(Some(&at("two", Some(now() + 1)))).expect("ask the kernel");
            assert!(doubted(&mut witness).is_empty());
            until("it is bound", &mut witness, |witness| witness.count().bound == 2);
            node.remove(&two);
            assert_eq!(doubted(&mut witness), both("two"));
        }
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn another_link_behind_the_address_is_noticed_while_the_old_one_stands() {
    for network in [Network::Routes, Network::Bridge] {
        let (node, one, mut witness) = bound("moved", network, None);
        if network == Network::Bridge {
            // What comes from there does not matter any more, as when a pod is about to go.
            ip(&node.name, &format!("link set {} down", one.link));
        }
        let two = node.pod(None);
        two.speaks();
        until("the other one is noticed", &mut witness, |witness| witness.count().doubted == 2);
        assert_eq!(doubted(&mut witness), both("one"));
        // The kernel has both links, and "one" is not taken back when its own goes.
        node.remove(&one);
        assert_eq!(doubted(&mut witness), both("one"));
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn a_list_that_is_older_than_the_link_does_not_bind_it() {
    for network in [Network::Routes, Network::Bridge] {
        let node = Node::new("late", network);
        let mut witness = node.witness(None);
        let two = node.pod(None);
        witness.turn(Some(&at("one", Some(now() - 60)))).expect("ask the kernel");
        two.speaks();
        until("it is seen", &mut witness, |witness| witness.count().unseen == 0);
        assert_eq!(doubted(&mut witness), both("one"));
        witness.turn(Some(&at("two", Some(now() + 1)))).expect("ask the kernel");
        assert!(doubted(&mut witness).is_empty());
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn events_that_the_kernel_drops_are_made_up_for() {
    for network in [Network::Routes, Network::Bridge] {
        const CHANGES: usize = 30_000;
        let (node, one, mut witness) = bound("dropped", network, None);
        let other = node.pod(None);
        if network == Network::Routes {
            // The address stays where it was.
            ip(&node.name, &format!("route replace {A4}/32 dev {}", one.link));
            ip(&node.name, &format!("-6 route replace {A6}/128 dev {}", one.link));
        }
        assert!(doubted(&mut witness).is_empty());
        batch(&node, (0..CHANGES).map(|i| format!("link set {} alias name-{i}", other.link)));
        node.remove(&one);
        assert_eq!(doubted(&mut witness), both("one"));
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn what_went_while_no_process_looked_is_known_to_the_next() {
    for network in [Network::Routes, Network::Bridge] {
        let folder = tempfile::tempdir().expect("a folder");
        let keeper = || Keeper::new(folder.path(), "test");
        let (node, one, witness) = bound("restart", network, Some(keeper()));
        let since = now();
        witness.save(&keeper()).expect("write");
        drop(witness);
        let mut same = node.witness(Some(keeper()));
        same.turn(Some(&at("one", Some(since)))).expect("ask the kernel");
        assert!(doubted(&mut same).is_empty());
        drop(same);
        let index = node.index(&one);
        node.remove(&one);
        let two = node.pod(Some(index));
        two.speaks();
        let mut later = node.witness(Some(keeper()));
        later.turn(Some(&at("one", Some(since)))).expect("ask the kernel");
        assert_eq!(doubted(&mut later), both("one"));
        later.turn(Some(&at("two", Some(now() + 1)))).expect("ask the kernel");
        assert!(doubted(&mut later).is_empty());
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn a_sandbox_that_is_made_again_at_the_same_address_is_believed_when_that_is_said() {
    for network in [Network::Routes, Network::Bridge] {
        let (node, one, mut witness) = bound("sandbox", network, None);
        node.remove(&one);
        let again = node.pod(None);
        again.speaks();
        assert_eq!(doubted(&mut witness), both("one"));
        witness.turn(Some(&at("one", Some(now() + 1)))).expect("ask the kernel");
        until("it is believed", &mut witness, |witness| witness.count().bound == 2);
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn an_address_without_a_link_of_its_own_is_left_alone() {
    let node = Node::new("none", Network::Bridge);
    ip(&node.name, "link add uplink type bridge");
    ip(&node.name, "link set uplink up");
    ip(&node.name, "address add 10.9.3.1/24 dev uplink");
    ip(&node.name, "route add 10.9.4.0/24 via 10.9.3.2");
    let mut witness = node.witness(None);
    let addresses = ["10.9.4.7", "10.9.3.7", "10.9.5.7", "10.9.2.7", GATEWAY4, "127.0.0.1"];
    let tenant = |uid: &str| Tenant { uid: uid.into(), since: None };
    let tenants = addresses.map(|ip| (ip.parse().expect("an address"), tenant(ip))).into();
    witness.turn(Some(&tenants)).expect("ask the kernel");
    assert!(doubted(&mut witness).is_empty());
    assert_eq!(witness.count().unseen, addresses.len() as u64);
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn thousands_of_pods_are_bound_and_go() {
    const PODS: u32 = 4000;
    let node = Node::new("many", Network::Routes);
    let one = node.pod(None);
    let address = |i: u32| format!("10.10.{}.{}", i / 250, i % 250 + 1);
    batch(&node, (0..PODS).map(|i| format!("route add {}/32 dev {}", address(i), one.link)));
    let mut witness = node.witness(None);
    let tenant = |i: u32| Tenant { uid: format!("pod-{i}").into(), since: Some(now()) };
    let tenants: Tenants = (0..PODS).map(|i| (address(i).parse().expect("an address"), tenant(i))).collect();
    witness.turn(Some(&tenants)).expect("ask the kernel");
    assert_eq!(witness.count().bound, u64::from(PODS));
    node.remove(&one);
    assert_eq!(doubted(&mut witness).len(), PODS as usize);
}
