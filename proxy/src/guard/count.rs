//! Counters of the kernel → connections around the mesh by Service; pure, the time is given.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use vicino_crds::node::{LAST_SEEN_GRAIN_SECONDS, PLAIN_CALLS_MAX, PlainCalls};
use vicino_engine::snapshot::ServiceName;

use super::plan::{Item, Plan, Stance};
use super::table::Elements;

/// Services that are counted one by one; those beyond them are counted together, under no name.
pub const SERVICES_MAX: usize = 1000;
/// What an earlier process reported is kept so long after the last connection.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Attempts to connect to one Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Let pass.
    pub passed: u64,
    /// Refused.
    pub refused: u64,
    /// When the last one was noticed; None: before this process began.
    pub last_seen: Option<Timestamp>,
}

/// Each Service that any connection came to.
pub type ByService = BTreeMap<ServiceName, Count>;

/// What was counted since the start, and before that at entries that the kernel already had.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    by_service: ByService,
    kernel: Elements,
    began: bool,
}

impl Counts {
    /// Takes in what the kernel holds, for entries that `plan` has.
    pub fn take(&mut self, plan: &Plan, kernel: Elements, now: Timestamp) {
        for (entry, element) in &kernel {
            // A counter that is lower than before began anew.
            let before = self.kernel.get(entry).map_or(0, |before| before.packets);
            let before = if before <= element.packets { before } else { 0 };
            let more = element.packets - before;
            let is_counted = |item: &&Item| more > 0 && item.stance != Stance::Exempt;
            let Some(item) = plan.items.get(entry).filter(is_counted) else { continue };
            let last_seen = self.began.then_some(now);
            for service in item.services.iter() {
                let count = self.of(service);
                let sum = if element.refuses { &mut count.refused } else { &mut count.passed };
                *sum += more;
                count.last_seen = last_seen.or(count.last_seen);
            }
        }
        self.kernel = kernel;
        self.began = true;
    }

    fn of(&mut self, service: &ServiceName) -> &mut Count {
        let has_room = self.by_service.len() < SERVICES_MAX || self.by_service.contains_key(service);
        let service = if has_room { service.clone() } else { ServiceName::default() };
        self.by_service.entry(service).or_default()
    }

    /// See [`ByService`].
    pub fn by_service(&self) -> &ByService {
        &self.by_service
    }
}

/// For the report. What `before` says of a Service stays until its `lastSeen` moves or the first one passes or is
/// refused, and never gets less; of what came before this process began only `before` knows when it was, and what it
/// does not know is put at `now`.
pub fn report(counts: &ByService, before: &[PlainCalls], now: Timestamp) -> Vec<PlainCalls> {
    let mut all: Vec<PlainCalls> = Vec::new();
    for (service, count) in counts {
        let is_same =
            |old: &&PlainCalls| *old.namespace == *service.namespace && *old.service == *service.name;
        let old = before.iter().find(is_same);
        let seen = match (count.last_seen, old) {
            (Some(seen), _) => Time(grain(seen)),
            (None, Some(old)) => old.last_seen.clone(),
            (None, None) => Time(grain(now)),
        };
        let clamp = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (passed, refused) = (clamp(count.passed), clamp(count.refused));
        let is_as_before = |old: &&PlainCalls| {
            let begins = |old: i64, now: i64| old == 0 && now > 0;
            old.last_seen >= seen && !begins(old.passed, passed) && !begins(old.refused, refused)
        };
        all.push(match old {
            Some(old) if is_as_before(&old) => old.clone(),
            _ => PlainCalls {
                namespace: service.namespace.to_string(),
                service: service.name.to_string(),
                passed: passed.max(old.map_or(0, |old| old.passed)),
                refused: refused.max(old.map_or(0, |old| old.refused)),
                last_seen: old.map_or(seen.clone(), |old| seen.max(old.last_seen.clone())),
            },
        });
    }
    let oldest = now - REMEMBERED;
    let is_kept = |old: &&PlainCalls| {
        let is_it = |name: &ServiceName| *name.namespace == *old.namespace && *name.name == *old.service;
        old.last_seen.0 >= oldest && !counts.keys().any(is_it)
    };
    all.extend(before.iter().filter(is_kept).cloned());
    if all.len() > PLAIN_CALLS_MAX {
        all.sort_by(|a, b| b.last_seen.cmp(&a.last_seen));
        all.truncate(PLAIN_CALLS_MAX);
    }
    all.sort_by(|a, b| (&a.namespace, &a.service).cmp(&(&b.namespace, &b.service)));
    all
}

fn grain(at: Timestamp) -> Timestamp {
    let seconds = at.as_second();
    Timestamp::from_second(seconds - seconds.rem_euclid(LAST_SEEN_GRAIN_SECONDS)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use vicino_crds::node::{PLAIN_CALLS_MAX, PlainCalls};
    use vicino_engine::snapshot::ServiceName;

    use super::{Count, Counts, REMEMBERED, SERVICES_MAX, report};
    use crate::guard::plan::{Entry, Item, Plan, Stance};
    use crate::guard::table::{Element, Elements};

    fn entry(last: u8, port: Option<u16>) -> Entry {
        Entry { address: [10, 0, 0, last].into(), port }
    }

    fn name(service: &str) -> ServiceName {
        ServiceName { namespace: "demo".into(), name: service.into() }
    }

    fn plan(items: &[(Entry, Stance, &[&str])]) -> Plan {
        let item = |stance: Stance, services: &[&str]| Item {
            stance,
            services: services.iter().map(|service| name(service)).collect(),
        };
        let items = items.iter().map(|(entry, stance, services)| (*entry, item(*stance, services)));
        Plan { items: items.collect(), ..Plan::default() }
    }

    fn elements(refuses: bool, packets: &[(Entry, u64)]) -> Elements {
        packets.iter().map(|(entry, packets)| (*entry, Element { refuses, packets: *packets })).collect()
    }

    fn passed(packets: &[(Entry, u64)]) -> Elements {
        elements(false, packets)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn calls(service: &str, passed: i64, refused: i64, seen: Timestamp) -> PlainCalls {
        PlainCalls {
            namespace: "demo".to_owned(),
            service: service.to_owned(),
            passed,
            refused,
            last_seen: Time(seen),
        }
    }

    #[test]
    fn what_counters_grow_by_is_counted_for_each_service_of_the_port() {
        let (web, rest, scraped) = (entry(1, Some(80)), entry(1, None), entry(1, Some(9090)));
        let plan = plan(&[
            (web, Stance::Pass, &["a", "b"]),
            (rest, Stance::Pass, &[""]),
            (scraped, Stance::Exempt, &[""]),
        ]);
        let mut counts = Counts::default();
        counts.take(&plan, passed(&[(web, 2), (rest, 0), (scraped, 7)]), at(0));
        assert_eq!(counts.by_service()[&name("a")], Count { passed: 2, refused: 0, last_seen: None });
        counts.take(&plan, passed(&[(web, 5), (rest, 1), (scraped, 9)]), at(10));
        // Began anew, as a table does that somebody removed.
        counts.take(&plan, passed(&[(web, 1), (rest, 1), (scraped, 0)]), at(20));
        let seen = |seconds| Some(at(seconds));
        assert_eq!(counts.by_service()[&name("b")], Count { passed: 6, refused: 0, last_seen: seen(20) });
        assert_eq!(counts.by_service()[&name("")], Count { passed: 1, refused: 0, last_seen: seen(10) });
        assert_eq!(counts.by_service().len(), 3);
    }

    #[test]
    fn services_beyond_the_bound_are_counted_together() {
        let items: Vec<_> = (0..SERVICES_MAX + 5)
            .map(|i| (entry(1, u16::try_from(i).ok()), Stance::Pass, [format!("s{i}")]))
            .collect();
        let names: Vec<[&str; 1]> = items.iter().map(|(_, _, [name])| [name.as_str()]).collect();
        let items: Vec<_> = items.iter().zip(&names).map(|((e, s, _), names)| (*e, *s, &names[..])).collect();
        let mut counts = Counts::default();
        counts.take(
            &plan(&items),
            passed(&items.iter().map(|(entry, ..)| (*entry, 1)).collect::<Vec<_>>()),
            at(0),
        );
        assert_eq!(counts.by_service().len(), SERVICES_MAX + 1);
        assert_eq!(counts.by_service()[&ServiceName::default()].passed, 5);
        assert_eq!(report(counts.by_service(), &[], at(0)).len(), PLAIN_CALLS_MAX);
    }

    #[test]
    fn a_report_moves_with_the_last_connection_and_not_with_each() {
        let web = entry(1, Some(80));
        let plan = plan(&[(web, Stance::Pass, &["web"])]);
        let mut counts = Counts::default();
        counts.take(&plan, Elements::new(), at(0));
        assert!(report(counts.by_service(), &[], at(0)).is_empty());
        counts.take(&plan, passed(&[(web, 1)]), at(1));
        let first = report(counts.by_service(), &[], at(1));
        assert_eq!(first, [calls("web", 1, 0, at(0))]);
        counts.take(&plan, passed(&[(web, 9)]), at(299));
        assert_eq!(report(counts.by_service(), &first, at(299)), first);
        counts.take(&plan, passed(&[(web, 10)]), at(301));
        assert_eq!(report(counts.by_service(), &first, at(301)), [calls("web", 10, 0, at(300))]);
    }

    #[test]
    fn the_first_refused_one_is_reported_at_once() {
        let web = entry(1, Some(80));
        let mut counts = Counts::default();
        counts.take(&plan(&[]), Elements::new(), at(0));
        counts.take(&plan(&[(web, Stance::Refuse, &["web"])]), elements(true, &[(web, 2)]), at(5));
        assert_eq!(
            report(counts.by_service(), &[calls("web", 4, 0, at(0))], at(5)),
            [calls("web", 4, 2, at(0))]
        );
    }

    #[test]
    fn what_an_earlier_process_reported_is_not_forgotten_before_its_time() {
        let web = entry(1, Some(80));
        let mut counts = Counts::default();
        counts.take(&plan(&[(web, Stance::Pass, &["web"])]), passed(&[(web, 3)]), at(600));
        let seen = at(0);
        let before = [calls("gone", 1, 0, seen), calls("web", 7, 0, seen)];
        assert_eq!(report(counts.by_service(), &before, at(600)), before);
        assert_eq!(report(counts.by_service(), &[], at(600)), [calls("web", 3, 0, at(600))]);
        let late = seen + REMEMBERED + SignedDuration::from_secs(1);
        assert_eq!(report(counts.by_service(), &before, late), before[1..]);
    }
}
