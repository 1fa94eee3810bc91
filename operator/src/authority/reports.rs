//! What proxies report of roots and certificates, as far as a change of the authority depends on it; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use vicino_crds::names;

use crate::world::{Key, World};

/// Certificates live so long where no mesh says anything.
const LIFETIME: Duration = Duration::from_hours(24);

/// What the proxies of all meshes report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// By node.
    pub nodes: BTreeMap<String, Report>,
    /// No certificate of any mesh lives longer.
    pub lifetime: Duration,
}

/// What a node's proxy reports. Empty while it has reported nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether there is a ready one.
    pub is_ready: bool,
    /// Fingerprints of the roots that a ready one has.
    pub roots: Vec<String>,
    /// Those that have signed the certificates that it has.
    pub issuers: Vec<String>,
}

impl Reports {
    /// Of all that run.
    pub fn of(world: &World) -> Self {
        let mut nodes: BTreeMap<String, Report> = BTreeMap::new();
        let proxies = world.pods.in_namespace(names::PROXY_NAMESPACE);
        for (key, row) in proxies.filter(|(_, row)| row.value.proxy_of.is_some()) {
            let report = nodes.entry(row.value.node.clone()).or_default();
            let said = world.neighbourhoods.get(&Key::cluster(&row.value.node)).map(|row| &row.value.status);
            let said = said.filter(|said| said.proxy.as_ref().is_some_and(|proxy| proxy.pod == key.name));
            let certificates = said.and_then(|said| said.certificates.as_ref());
            if row.value.ready {
                report.is_ready = true;
                // While two proxies live on a node, only the word of one that is ready counts.
                report.roots.extend(certificates.into_iter().flat_map(|held| held.roots.iter().cloned()));
            }
            report.issuers.extend(certificates.into_iter().flat_map(|held| held.issuers.iter().cloned()));
        }
        let specs = world.meshes.iter().filter_map(|(_, row)| row.value.spec.as_ref().ok());
        let lifetimes = specs.map(|spec| spec.identity.lifetime());
        Self { nodes, lifetime: lifetimes.max().unwrap_or(LIFETIME) }
    }

    /// Nodes with a ready proxy that does not say that it has a root.
    pub fn without(&self, root: &str) -> Vec<&str> {
        let lacks = |report: &Report| report.is_ready && !report.roots.iter().any(|one| one == root);
        self.nodes.iter().filter(|(_, report)| lacks(report)).map(|(node, _)| node.as_str()).collect()
    }

    /// Whether a proxy says that it has certificates of an authority.
    pub fn uses(&self, key_id: &str) -> bool {
        self.nodes.values().any(|report| report.issuers.iter().any(|issuer| issuer == key_id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{SHOP, converge, load, proxy_pod, report, world};

    #[test]
    fn a_ready_proxy_is_known_by_its_own_report_and_one_that_ends_counts_for_what_it_holds() {
        let mut world = world(SHOP);
        converge(&mut world);
        let reported = |pod: &str| {
            json!({
                "proxy": { "pod": pod, "version": "1", "contract": 1, "state": "Ready" },
                "certificates": { "count": 1, "roots": ["r1", "r2"], "issuers": ["k1"] },
            })
        };
        load(&mut world, &proxy_pod("default", "node1", "p1"));
        load(&mut world, &proxy_pod("default", "node2", "p2"));
        report(&mut world, "node1", &reported("p1"));
        report(&mut world, "node2", &reported("the-one-before"));
        let reports = Reports::of(&world);
        assert_eq!((reports.without("r1"), reports.without("r3")), (vec!["node2"], vec!["node1", "node2"]));
        assert!(reports.uses("k1") && !reports.uses("k2"));
        assert_eq!(reports.lifetime, Duration::from_hours(24));

        let ends = proxy_pod("default", "node1", "p1").replace("'True'", "'False'");
        load(&mut world, &ends);
        let reports = Reports::of(&world);
        assert_eq!(reports.without("r3"), ["node2"]);
        assert!(reports.uses("k1"));
        // Nothing is left of a proxy that is gone.
        report(&mut world, "node1", &reported("the-one-before"));
        assert!(!Reports::of(&world).uses("k1"));
    }
}
