//! The guard against the real kernel: a caller, a node and a pod, each a network namespace. Needs root, `ip` and `nft`.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vicino_engine::snapshot::ServiceName;
use vicino_proxy::guard::plan::{Entry, Item, Plan, Stance};
use vicino_proxy::guard::table;

mod netns;
mod places;

use netns::inside;
use places::{CALLER4, CALLER6, POD4, POD6, Places};

/// Pods' addresses: what holds for one family holds for the other.
const PODS: [&str; 2] = [POD4, POD6];

/// For what comes at once or never.
const BOUND: Duration = Duration::from_secs(10);

fn plan(items: &[(&str, Option<u16>, Stance)]) -> Plan {
    let services: Arc<[ServiceName]> = Arc::from([]);
    let entry = |address: &str, port| Entry { address: address.parse().expect("an address"), port };
    let items = items.iter().map(|(address, port, stance)| {
        (entry(address, *port), Item { stance: *stance, services: services.clone() })
    });
    Plan { items: items.collect(), ..Plan::default() }
}

fn strict() -> Plan {
    plan(&[(POD4, None, Stance::Refuse), (POD6, None, Stance::Refuse)])
}

fn permissive() -> Plan {
    plan(&[(POD4, None, Stance::Pass), (POD6, None, Stance::Pass)])
}

/// Says something, and hears it again.
fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"ciao")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    assert_eq!(&heard, b"ciao");
    Ok(())
}

fn call(from: &str, address: &str, port: u16) -> Result<TcpStream, ErrorKind> {
    let to = SocketAddr::new(address.parse().expect("an address"), port);
    inside(from, move || {
        let mut stream = TcpStream::connect_timeout(&to, BOUND).map_err(|e| e.kind())?;
        talk(&mut stream).map_err(|e| e.kind())?;
        Ok(stream)
    })
}

fn refused(from: &str, address: &str, port: u16) {
    assert_eq!(call(from, address, port).err(), Some(ErrorKind::ConnectionRefused), "{address}:{port}");
}

/// Both families.
fn all_refused(places: &Places) {
    for pod in PODS {
        refused(&places.caller, pod, 8080);
    }
}

fn all_answer(places: &Places) {
    for pod in PODS {
        call(&places.caller, pod, 8080).expect("it answers");
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn strict_resets_and_counts_what_is_forwarded_and_nothing_else() {
    let places = Places::new("strict", &[8080, 9090, 7070]);
    let plan = plan(&[
        (POD4, None, Stance::Refuse),
        (POD4, Some(9090), Stance::Exempt),
        (POD4, Some(7070), Stance::Pass),
        (POD6, None, Stance::Refuse),
        (POD6, Some(9090), Stance::Exempt),
        (POD6, Some(7070), Stance::Pass),
    ]);
    let mut guard = places.guard();
    assert!(guard.hold(&plan).is_empty(), "nothing was there before");
    for pod in PODS {
        refused(&places.caller, pod, 8080);
        refused(&places.caller, pod, 8080);
        call(&places.caller, pod, 9090).unwrap();
        call(&places.caller, pod, 7070).unwrap();
        // As the proxy delivers, and the kubelet probes.
        call(&places.node, pod, 8080).unwrap();
    }
    let counted: Vec<_> = guard
        .hold(&plan)
        .into_iter()
        .map(|(entry, element)| (entry.address.to_string(), entry.port, element.refuses, element.packets))
        .collect();
    let of = |address: &str, port, refuses, packets| (address.to_owned(), port, refuses, packets);
    assert_eq!(
        counted,
        [
            of(POD4, None, true, 2),
            of(POD4, Some(7070), false, 1),
            of(POD4, Some(9090), false, 1),
            of(POD6, None, true, 2),
            of(POD6, Some(7070), false, 1),
            of(POD6, Some(9090), false, 1),
        ]
    );
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn a_pod_s_own_calls_and_other_protocols_are_left_alone() {
    let places = Places::new("alone", &[8080]);
    places.guard().hold(&strict());
    Places::serve(&places.caller, &[8081]);
    for caller in [CALLER4, CALLER6] {
        call(&places.pod, caller, 8081).unwrap();
    }
    let socket = inside(&places.pod, || UdpSocket::bind("[::]:5300").unwrap());
    socket.set_read_timeout(Some(BOUND)).unwrap();
    for pod in PODS {
        inside(&places.caller, || {
            let to: IpAddr = pod.parse().unwrap();
            let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(own).unwrap().send_to(b"ciao", (to, 5300)).unwrap();
        });
        let mut heard = [0; 8];
        assert_eq!(socket.recv(&mut heard).unwrap(), 4, "{pod}");
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn what_stands_lives_on_through_a_switch_and_counts_are_kept() {
    let places = Places::new("switch", &[8080]);
    let mut guard = places.guard();
    for pod in PODS {
        guard.hold(&permissive());
        let mut stands = call(&places.caller, pod, 8080).unwrap();
        call(&places.caller, pod, 8080).unwrap();
        guard.hold(&strict());
        refused(&places.caller, pod, 8080);
        talk(&mut stands).unwrap();
        let entry = Entry { address: pod.parse().unwrap(), port: None };
        let held = guard.hold(&strict());
        assert_eq!((held[&entry].refuses, held[&entry].packets), (true, 3));
        guard.hold(&permissive());
        call(&places.caller, pod, 8080).unwrap();
        talk(&mut stands).unwrap();
        assert_eq!(guard.hold(&permissive())[&entry].packets, 4);
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn no_connection_slips_through_while_rules_are_replaced() {
    let places = Places::new("atomic", &[8080]);
    let mut guard = places.guard();
    guard.hold(&strict());
    let over = Arc::new(AtomicBool::new(false));
    let (caller, told) = (places.caller.clone(), over.clone());
    let calls = std::thread::spawn(move || {
        let mut count = 0;
        while !told.load(Ordering::Relaxed) || count == 0 {
            for pod in PODS {
                refused(&caller, pod, 8080);
            }
            count += 1;
        }
        count
    });
    let others: Vec<String> =
        (1..=250).flat_map(|i| [format!("10.9.3.{i}"), format!("fd09:3::{i:x}")]).collect();
    let others = others.iter().map(String::as_str);
    let items: Vec<_> = others.chain(PODS).map(|one| (one, None, Stance::Refuse)).collect();
    for round in 0..30 {
        guard.hold(&if round % 2 == 0 { plan(&items) } else { strict() });
        // Not as it is built here, so that it is built anew.
        places.nft(&["add", "rule", "inet", &places.table(), "arrivals", "counter"]);
    }
    over.store(true, Ordering::Relaxed);
    assert!(calls.join().unwrap() > 0);
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn the_rules_outlive_the_process_and_a_successor_takes_them_over() {
    let places = Places::new("restart", &[8080]);
    let mut guard = places.guard();
    guard.hold(&strict());
    all_refused(&places);
    drop(guard);
    all_refused(&places);
    let before = places.nft(&["-a", "list", "chains", "inet"]);
    let mut successor = places.guard();
    let held = successor.hold(&strict());
    for pod in PODS {
        let entry = Entry { address: pod.parse().unwrap(), port: None };
        assert_eq!(held[&entry].packets, 2, "{pod}");
    }
    assert_eq!(places.nft(&["-a", "list", "chains", "inet"]), before, "nothing was built anew");
    all_refused(&places);
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn without_its_lease_nothing_is_refused_and_a_living_proxy_renews_it() {
    let places = Places::new("lease", &[8080]);
    let mut guard = places.guard();
    for (family, pod, other) in [("ipv4", POD4, POD6), ("ipv6", POD6, POD4)] {
        let element = format!("{{ {family} }}");
        guard.hold(&strict());
        places.nft(&["delete", "element", "inet", "vicino", "lease", &element]);
        call(&places.caller, pod, 8080).unwrap();
        refused(&places.caller, other, 8080);
        guard.hold(&strict());
        refused(&places.caller, pod, 8080);
        // More than half of it is over.
        places.nft(&["delete", "element", "inet", "vicino", "lease", &element]);
        let late = format!("{{ {family} timeout 10m }}");
        places.nft(&["add", "element", "inet", "vicino", "lease", &late]);
        guard.hold(&strict());
        let shown = places.nft(&["list", "set", "inet", "vicino", "lease"]);
        let is_whole = ["59m", "1h"].iter().any(|left| shown.contains(&format!("{family} expires {left}")));
        assert!(is_whole, "{shown}");
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn what_others_do_to_the_table_is_put_right() {
    let places = Places::new("drift", &[8080]);
    let mut guard = places.guard();
    for harm in [
        "delete table inet TABLE",
        "flush ruleset",
        "flush chain inet TABLE forward",
        "flush map inet TABLE pods4",
        "flush map inet TABLE pods6",
        "flush chain inet TABLE arrivals",
    ] {
        guard.hold(&strict());
        all_refused(&places);
        let of_table = harm.replace("TABLE", &places.table());
        places.nft(&of_table.split(' ').collect::<Vec<_>>());
        for pod in PODS {
            let is_spared = harm.ends_with(if pod == POD4 { "pods6" } else { "pods4" });
            if is_spared {
                refused(&places.caller, pod, 8080);
            } else {
                call(&places.caller, pod, 8080).unwrap();
            }
        }
    }
    guard.hold(&strict());
    all_refused(&places);
    // Strangers' tables of the same names.
    for strangers in [&["vicino"][..], &["vicino-b"], &["vicino", "vicino-b"]] {
        places.nft(&["flush", "ruleset"]);
        for name in strangers {
            places.nft(&["add", "table", "inet", name]);
        }
        guard.hold(&strict());
        all_refused(&places);
        assert!(places.table().starts_with("vicino"));
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn two_proxies_of_a_node_change_it_at_the_same_time() {
    const ROUNDS: usize = 100;
    let places = Places::new("two", &[8080]);
    let others: Vec<String> =
        (1..=50).flat_map(|i| [format!("10.9.3.{i}"), format!("fd09:3::{i:x}")]).collect();
    let others = others.iter().map(String::as_str);
    let more: Vec<_> = others.chain(PODS).map(|one| (one, None, Stance::Refuse)).collect();
    let plans = [plan(&more), strict(), permissive()];
    let together = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut guard = places.guard();
                for round in 0..ROUNDS {
                    together.wait();
                    guard.hold(&plans[round % plans.len()]);
                }
            });
        }
    });
    let held = places.guard().hold(&strict());
    assert_eq!(held.len(), plans[(ROUNDS - 1) % plans.len()].items.len());
    all_refused(&places);
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn a_plan_that_may_be_old_changes_nothing_that_is_there() {
    let places = Places::new("old", &[8080]);
    let mut guard = places.guard();
    for (family, pod) in [("ipv4", POD4), ("ipv6", POD6)] {
        guard.remove();
        guard.leave(&strict());
        refused(&places.caller, pod, 8080);
        guard.leave(&permissive());
        guard.leave(&Plan::default());
        refused(&places.caller, pod, 8080);
        let lease = format!("{{ {family} }}");
        places.nft(&["delete", "element", "inet", &places.table(), "lease", &lease]);
        guard.leave(&permissive());
        refused(&places.caller, pod, 8080);
        guard.hold(&permissive());
        guard.leave(&strict());
        call(&places.caller, pod, 8080).unwrap();
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn it_can_be_removed_more_than_once() {
    let places = Places::new("remove", &[8080]);
    let mut guard = places.guard();
    guard.remove();
    guard.hold(&strict());
    guard.remove();
    guard.remove();
    all_answer(&places);
    assert!(!places.nft(&["list", "tables"]).contains("vicino"));
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn nft_shows_it_as_the_documentation_does() {
    let places = Places::new("shown", &[8080]);
    let items = PODS.map(|pod| [(pod, None, Stance::Refuse), (pod, Some(9090), Stance::Exempt)]);
    places.guard().hold(&plan(&items.concat()));
    let shown = places.nft(&["list", "table", "inet", "vicino"]);
    for line in [
        "comment \"Vicino: connections around the mesh to pods of this node; 1\"",
        "type ipv4_addr . inet_service : verdict",
        "type ipv6_addr . inet_service : verdict",
        "type ipv4_addr : verdict",
        "type nf_proto",
        "10.9.2.2 counter packets 0 bytes 0 : goto refuse",
        "10.9.2.2 . 9090 counter packets 0 bytes 0 : accept",
        "fd09:2::2 counter packets 0 bytes 0 : goto refuse",
        "fd09:2::2 . 9090 counter packets 0 bytes 0 : accept",
        "type filter hook forward priority filter + 10; policy accept;",
        "meta nfproto @lease",
        "goto arrivals",
        "vmap @ports4",
        "ip daddr vmap @pods4",
        "vmap @ports6",
        "ip6 daddr vmap @pods6",
        "reject with tcp reset",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn without_the_capability_it_is_said_and_nothing_changes() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let places = Places::new("capability", &[8080]);
    let refused = inside(&places.node, || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        table_of_this_namespace()
    });
    assert_eq!(refused, Err(ErrorKind::PermissionDenied));
    all_answer(&places);
}

fn table_of_this_namespace() -> Result<(), ErrorKind> {
    let mut socket = vicino_proxy::guard::socket::Socket::open().map_err(|e| e.kind())?;
    table::hold(&mut socket, &strict()).map(drop).map_err(|e| e.kind())
}

#[test]
#[ignore = "needs root; run with --ignored"]
fn thousands_of_entries_are_one_transaction() {
    let places = Places::new("many", &[8080]);
    let mut guard = places.guard();
    let address = |i: u32| match i % 2 {
        0 => format!("10.10.{}.{}", i / 250, i % 250 + 1),
        _ => format!("fd09:9::{i:x}"),
    };
    let addresses: Vec<String> = (0..4000).map(address).collect();
    let mut items: Vec<_> = PODS.map(|pod| (pod, None, Stance::Refuse)).into();
    for address in &addresses {
        items.extend([(address.as_str(), None, Stance::Refuse), (address, Some(80), Stance::Pass)]);
    }
    let many = plan(&items);
    guard.hold(&many);
    all_refused(&places);
    assert_eq!(guard.hold(&many).len(), many.items.len());
    guard.hold(&strict());
    assert_eq!(guard.hold(&strict()).len(), 2);
    all_refused(&places);
}
