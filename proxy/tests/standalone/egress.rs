//! The proxy is no way to where a pod may not go by itself: by name, by address, by other spellings, in a tunnel.

use crate::client::{get, tunnel};
use crate::configuration::Configuration;
use crate::dns;
use crate::process::{Proxy, eventually};

const RECORDS: [(&str, &str); 8] = [
    ("loopback.example.com.", "127.0.0.1"),
    ("mapped.example.com.", "::ffff:127.0.0.1"),
    ("metadata.example.com.", "169.254.169.254"),
    ("own.example.com.", "0.0.0.0"),
    ("node.example.com.", "192.0.2.77"),
    ("api.example.com.", "192.0.2.78"),
    ("pod.example.com.", "10.244.0.9"),
    ("other.example.net.", "192.0.2.79"),
];

/// Names below example.com, and by address even what nobody calls.
const ALLOWED: &str = "mode: Deny\nallow:\n- {hosts: ['*.example.com']}\n\
     - {ipBlocks: [{cidr: 127.0.0.0/8}, {cidr: 169.254.0.0/16}, {cidr: 192.0.2.77/32}, {cidr: '::1/128'}]}\n\
     nodeAddresses: [192.0.2.77]\n";

fn start() -> (Proxy, Configuration) {
    let configuration = Configuration::new("a");
    configuration.nodes(&["a"]);
    configuration.egress(ALLOWED);
    let dns = dns::serve(&RECORDS).to_string();
    let proxy = Proxy::start(&configuration, &["--dns-server", &dns, "--api-server", "192.0.2.78"]);
    proxy.is_ready();
    (proxy, configuration)
}

/// What the proxy says to a request for a host, which is the same as it says to a tunnel.
fn refusal(proxy: &Proxy, host: &str) -> (u16, String) {
    let answers = [get(proxy.l1(), host, "/").unwrap(), tunnel(proxy.l1(), &format!("{host}:443")).unwrap()];
    let said =
        answers.map(|answer| (answer.status, answer.header("vicino-error").unwrap_or_default().to_owned()));
    let [plain, tunnel] = said;
    assert_eq!(plain, tunnel, "{host}");
    plain
}

#[test]
fn what_nobody_calls_is_not_called_whatever_leads_there() {
    let (proxy, _configuration) = start();
    for host in [
        "127.0.0.1",
        "169.254.169.254",
        "192.0.2.77",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "loopback.example.com",
        "LOOPBACK.example.com.",
        "mapped.example.com",
        "metadata.example.com",
        "own.example.com",
        "node.example.com",
        "api.example.com",
    ] {
        assert_eq!(refusal(&proxy, host), (403, "never-called".to_owned()), "{host}");
    }
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("metadata.example.com")).unwrap_or(&log);
    assert!(line.contains("call out of the mesh refused") && line.contains("never-called"), "{line}");
}

#[test]
fn what_is_not_allowed_or_not_there_is_told_apart() {
    let (proxy, _configuration) = start();
    for (host, status, reason) in [
        ("other.example.net", 403, "not-in-mesh"),
        ("192.0.2.79", 403, "not-in-mesh"),
        // No name is a way to pods around their Service.
        ("pod.example.com", 403, "not-in-mesh"),
        ("none.example.com", 404, "no-such-host"),
        ("broken.example.com", 502, "name-failed"),
        ("silent.example.com", 502, "name-failed"),
        // Other spellings of 127.0.0.1 are no names.
        ("2130706433", 404, "no-such-service"),
        ("127.1", 404, "no-such-service"),
        ("0x7f000001", 404, "no-such-service"),
        ("0177.0.0.1", 403, "not-in-mesh"),
        ("0x7f.0.0.0x1", 403, "not-in-mesh"),
    ] {
        assert_eq!(refusal(&proxy, host), (status, reason.to_owned()), "{host}");
    }
}

#[test]
fn a_document_that_is_refused_leaves_what_was_allowed() {
    let (proxy, configuration) = start();
    configuration.egress("mode: Deny\nweather: fine\n");
    let config = || get(proxy.admin(), "admin", "/config").map(|answer| answer.body).unwrap_or_default();
    eventually("the culprit is named", || config().contains("egress/egress.yaml"));
    assert!(config().contains("weather"));
    assert_eq!(refusal(&proxy, "none.example.com"), (404, "no-such-host".to_owned()));
    configuration.egress("mode: Deny\n");
    let status = || get(proxy.l1(), "none.example.com", "/").map(|answer| answer.status).ok();
    eventually("nothing is allowed any more", || status() == Some(403));
    assert_eq!(refusal(&proxy, "none.example.com"), (403, "not-in-mesh".to_owned()));
}
