//! Which pod is behind which link of the node, and from which address a pod has gone: events in, doubts out; pure, knows no kernel and no clock.
//!
//! A binding is of a pod (its UID) at an address to the link behind that address. The rules:
//!
//! 1. A pod at an address that is new is bound to the link that is found behind it, unless that link is provably younger than the
//!    pod's network (`networkSince`): then it is another pod's already.
//! 2. When the link goes, or another one is behind the address, the pod is doubted there: whoever calls from there is not that pod.
//! 3. A doubted pod is believed again with a link that is provably older than its network (its own was found late); or when its network
//!    is said to be made anew, with a link that is not provably younger than that (its sandbox was made again, at the same address).
//! 4. What is said of another pod at the address is new, and so is nobody's business of the old one: rule 1.
//!
//! Where no link is found nothing is doubted. Links are told apart by their numbers, and by name and hardware address where a number may have
//! been used again unseen: the kernel gives a link that comes from another namespace the number that it had there.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A pod that the MeshNode has at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// UID of the pod.
    pub uid: Arc<str>,
    /// Since when it has its network, in whole seconds since 1970, rounded down; None when nobody says.
    pub since: Option<i64>,
}

/// By address.
pub type Tenants = BTreeMap<IpAddr, Tenant>;

/// A time by two clocks, of which one may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub wall_ms: i64,
    /// Milliseconds since the machine has started.
    pub boot_ms: i64,
}

/// When something has happened: not before `after`, and not after `by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// It had not happened yet.
    pub after: Moment,
    /// It had.
    pub by: Moment,
}

/// By what a link is told from another with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Face {
    /// Name of the device.
    pub name: Box<str>,
    /// Its hardware address.
    pub mac: Box<[u8]>,
}

/// A link of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it looks like now.
    pub face: Face,
    /// When it was made.
    pub made: Span,
    /// Never used twice.
    serial: u64,
}

/// What is known of a pod at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No link has been found.
    Unseen,
    /// That with this serial number; and the pod's `since` by which it was found.
    Bound(u64, Option<i64>),
    /// It is not there; and the `since` by which it had been.
    Doubted(Option<i64>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    tenant: Tenant,
    standing: Standing,
}

/// How many pods' addresses stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// With a link behind them.
    pub bound: u64,
    /// Without.
    pub unseen: u64,
    /// That their pods have gone from.
    pub doubted: u64,
}

/// A binding as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// The address.
    pub address: IpAddr,
    /// UID of the pod.
    pub uid: Arc<str>,
    /// Number of the link; None: the pod is doubted there.
    pub link: Option<u32>,
    /// [`Tenant::since`] by which the link was found.
    pub since: Option<i64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    links: HashMap<u32, Link>,
    pods: BTreeMap<IpAddr, Pod>,
    /// Of an earlier process, for pods that have not been named yet.
    bonds: HashMap<(IpAddr, Arc<str>), Standing>,
    serial: u64,
    lost: u64,
    revision: u64,
}

impl Link {
    /// Whether it was made after the second that is named, by either clock.
    fn is_younger(&self, since: i64, now: Moment) -> bool {
        estimates(self.made.after, now).into_iter().all(|made| made >= (since + 1) * 1000)
    }

    /// Whether it was there before the second that is named began, by either clock.
    fn is_older(&self, since: i64, now: Moment) -> bool {
        estimates(self.made.by, now).into_iter().all(|seen| seen <= since * 1000)
    }
}

/// The wall clock's time of a moment: as it was shown then, and as it would be shown had the clock been then as it is now.
fn estimates(moment: Moment, now: Moment) -> [i64; 2] {
    [moment.wall_ms, now.wall_ms - (now.boot_ms - moment.boot_ms)]
}

impl Bindings {
    /// Takes over what an earlier process of this boot knew; said before the first list of links.
    pub fn remember(&mut self, links: HashMap<u32, (Face, Span)>, bonds: Vec<Bond>) {
        for (index, (face, made)) in links {
            let serial = self.next();
            self.links.insert(index, Link { face, made, serial });
        }
        for Bond { address, uid, link, since } in bonds {
            let link = link.and_then(|index| self.links.get(&index));
            let standing = link.map_or(Standing::Doubted(since), |link| Standing::Bound(link.serial, since));
            self.bonds.insert((address, uid), standing);
        }
    }

    /// What a later process is to remember.
    pub fn bonds(&self) -> Vec<Bond> {
        let numbers: HashMap<u64, u32> =
            self.links.iter().map(|(index, link)| (link.serial, *index)).collect();
        let bond = |address: IpAddr, uid: &Arc<str>, standing: Standing| {
            let (link, since) = match standing {
                Standing::Unseen => return None,
                Standing::Bound(serial, since) => (numbers.get(&serial).copied(), since),
                Standing::Doubted(since) => (None, since),
            };
            Some(Bond { address, uid: uid.clone(), link, since })
        };
        let of_pods = self.pods.iter().map(|(address, pod)| (*address, &pod.tenant.uid, pod.standing));
        let earlier = self.bonds.iter().map(|((address, uid), standing)| (*address, uid, *standing));
        of_pods.chain(earlier).filter_map(|(address, uid, standing)| bond(address, uid, standing)).collect()
    }

    /// The links that there are, by number.
    pub fn links(&self) -> &HashMap<u32, Link> {
        &self.links
    }

    /// Every link that there is now. Those that were not known were made in `made`.
    pub fn list(&mut self, links: HashMap<u32, Face>, made: Span) {
        let is_same = |index: &u32, link: &Link| links.get(index).is_some_and(|face| *face == link.face);
        let gone = self.links.iter().filter(|(index, link)| !is_same(index, link));
        for index in gone.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.went(index);
        }
        for (index, face) in links {
            self.appeared(index, face, made);
        }
    }

    /// A link was made, or has changed: a number that is known is the same link until [`Bindings::went`] is said of it.
    pub fn appeared(&mut self, index: u32, face: Face, made: Span) {
        if let Some(link) = self.links.get_mut(&index) {
            if link.face != face {
                link.face = face;
                self.revision += 1;
            }
            return;
        }
        self.revision += 1;
        let serial = self.next();
        self.links.insert(index, Link { face, made, serial });
    }

    /// A link is gone, and with it whoever was behind it.
    pub fn went(&mut self, index: u32) {
        let Some(link) = self.links.remove(&index) else { return };
        self.revision += 1;
        let of_pods = self.pods.values_mut().map(|pod| &mut pod.standing);
        for standing in of_pods.chain(self.bonds.values_mut()) {
            if let Standing::Bound(serial, since) = *standing
                && serial == link.serial
            {
                *standing = Standing::Doubted(since);
                self.lost += 1;
            }
        }
    }

    /// Who is where, as the MeshNode has it. Returns the addresses that are to be looked at.
    pub fn name(&mut self, tenants: &Tenants) -> Vec<IpAddr> {
        let before = self.pods.len();
        self.pods
            .retain(|address, pod| tenants.get(address).is_some_and(|tenant| tenant.uid == pod.tenant.uid));
        self.revision += u64::from(self.pods.len() != before);
        let mut changed = Vec::new();
        for (address, tenant) in tenants {
            match self.pods.get_mut(address) {
                Some(pod) if pod.tenant == *tenant => continue,
                Some(pod) => pod.tenant = tenant.clone(),
                None => {
                    let earlier = self.bonds.get(&(*address, tenant.uid.clone()));
                    let standing = earlier.copied().unwrap_or(Standing::Unseen);
                    self.pods.insert(*address, Pod { tenant: tenant.clone(), standing });
                }
            }
            changed.push(*address);
        }
        if !tenants.is_empty() {
            self.bonds.clear();
        }
        self.revision += u64::from(!changed.is_empty());
        changed
    }

    /// The link that was found behind an address, or none. False: nothing is known of such a link yet, so this is to be asked again.
    pub fn found(&mut self, address: IpAddr, index: Option<u32>, now: Moment) -> bool {
        let Some(pod) = self.pods.get_mut(&address) else { return true };
        let Some(index) = index else { return true };
        let Some(link) = self.links.get(&index) else { return false };
        let since = pod.tenant.since;
        let may_be = || since.is_some_and(|since| !link.is_younger(since, now));
        let is_own = match pod.standing {
            Standing::Bound(serial, _) if serial == link.serial => true,
            Standing::Unseen => since.is_none() || may_be(),
            Standing::Bound(_, before) | Standing::Doubted(before) if before != since => may_be(),
            Standing::Bound(..) => false,
            Standing::Doubted(_) => since.is_some_and(|since| link.is_older(since, now)),
        };
        let before = pod.standing;
        pod.standing = match before {
            _ if is_own => Standing::Bound(link.serial, since),
            Standing::Unseen => Standing::Doubted(since),
            Standing::Bound(_, since) | Standing::Doubted(since) => Standing::Doubted(since),
        };
        self.revision += u64::from(before != pod.standing);
        self.lost += u64::from(matches!((before, pod.standing), (Standing::Bound(..), Standing::Doubted(_))));
        true
    }

    /// Whether a pod is at an address, and the number of its link when it has one.
    pub fn link_of(&self, address: IpAddr) -> Option<Option<u32>> {
        let pod = self.pods.get(&address)?;
        let Standing::Bound(serial, _) = pod.standing else { return Some(None) };
        Some(self.links.iter().find(|(_, link)| link.serial == serial).map(|(index, _)| *index))
    }

    /// All addresses of pods.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.keys().copied()
    }

    /// By address, the UID of the pod that is not there, although the MeshNode says so.
    pub fn doubted(&self) -> HashMap<IpAddr, Arc<str>> {
        let doubted = self.pods.iter().filter(|(_, pod)| matches!(pod.standing, Standing::Doubted(_)));
        doubted.map(|(address, pod)| (*address, pod.tenant.uid.clone())).collect()
    }

    /// How many addresses stand how.
    pub fn count(&self) -> Count {
        let mut count = Count::default();
        for pod in self.pods.values() {
            match pod.standing {
                Standing::Unseen => count.unseen += 1,
                Standing::Bound(..) => count.bound += 1,
                Standing::Doubted(_) => count.doubted += 1,
            }
        }
        count
    }

    /// How often a pod's link has gone from behind its address, or another was there.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Grows with every change of what is to be remembered.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

#[cfg(test)]
mod tests;
