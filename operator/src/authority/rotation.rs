//! Which authority is in force, which roots proxies are told of, and what to do next so that the authority that the Secret has comes into force without a call that fails: its root goes
//! everywhere first, then certificates are issued by it, then the root before goes. Knows no clock and does no I/O.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;

use super::ca::{Authority, AuthorityError, Texts, union};
use super::reports::Reports;
use crate::world;

/// All replicas have seen a change of the Secret after this time: from then on none issues by the authority before.
const SETTLE: Duration = Duration::from_secs(15);
/// Nodes that a message names; more are counted.
const NODES_SHOWN: usize = 3;

/// What the Secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The authority that is to be in force, as a person, another controller or this one wrote it.
    pub wanted: Result<Texts, AuthorityError>,
    /// The authority that is in force. None: nobody has looked yet.
    pub active: Option<Texts>,
    /// The authority before, as long as certificates that it has signed are in use.
    pub retired: Option<Retired>,
    /// The value with which somebody asks for another root.
    pub asked: Option<String>,
    /// The value for which there was one last.
    pub rotated: Option<String>,
}

/// An authority that signs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// See [`Authority::key_id`].
    pub key_id: String,
    /// PEM of its root.
    pub root: String,
    /// Since when it signs no more.
    pub since: SystemTime,
}

/// What follows from what the Secret has and proxies report.
#[derive(Debug)]
pub struct Verdict {
    /// Certificates are issued by this; None: by none.
    pub active: Option<(Texts, Authority)>,
    /// What proxies and people are told.
    pub told: world::Authority,
    /// What to do next; nothing where nobody knows what proxies report.
    pub step: Option<Step>,
}

/// A change of the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// From now on certificates are issued by this authority.
    Issue {
        /// Which.
        by: Texts,
        /// The one that was in force.
        retired: Option<Retired>,
    },
    /// Nothing that the authority before has signed is in use any more.
    Forget,
    /// A new root is made.
    Rotate,
}

impl Step {
    /// What the Secret is to have. Makes a key where the step needs one.
    pub fn take(self, kept: &Kept, now: SystemTime) -> Result<Kept, AuthorityError> {
        let kept = kept.clone();
        Ok(match self {
            Self::Issue { by, retired } => {
                Kept { active: Some(by), retired: retired.or(kept.retired.clone()), ..kept }
            }
            Self::Forget => Kept { retired: None, ..kept },
            Self::Rotate => Kept {
                wanted: Ok(Authority::make(now)?),
                rotated: kept.asked.clone().or(kept.rotated),
                ..kept
            },
        })
    }

    /// For the log.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Issue { retired: None, .. } => {
                "certificates are issued by the authority that the Secret has"
            }
            Self::Issue { .. } => {
                "every node has the new root: certificates are issued by the new authority from now on"
            }
            Self::Forget => "no node has a certificate of the authority before: its root goes",
            Self::Rotate => "made a new root, which goes to every node before anything is issued by it",
        }
    }
}

impl Kept {
    /// What a new Secret has: an authority that was made now, and the one that is in force.
    pub fn new(made: Texts, active: Option<Texts>) -> Self {
        let active = active.unwrap_or_else(|| made.clone());
        Self { wanted: Ok(made), active: Some(active), retired: None, asked: None, rotated: None }
    }
}

/// Decides. `last` is what was in force here before; `reports` are None where nobody knows what proxies report.
pub fn decide(kept: &Kept, last: Option<&Texts>, reports: Option<&Reports>, now: SystemTime) -> Verdict {
    let read = |texts: &Texts| Some((texts.clone(), Authority::read(texts, now).ok()?));
    let wanted = kept.wanted.clone().and_then(|texts| Authority::read(&texts, now).map(|read| (texts, read)));
    let good_before = kept.active.as_ref().and_then(read).or_else(|| last.and_then(read));
    let active = good_before.or_else(|| wanted.as_ref().ok().and_then(|(texts, _)| read(texts)));
    let (step, waits) = match (&active, &wanted) {
        (Some((texts, active)), Ok((wanted_texts, wanted))) => {
            let way = Way { kept, active: (texts, active), wanted: (wanted_texts, wanted), now };
            way.next(reports)
        }
        // The last good one stays, also for replicas that start.
        (Some((texts, _)), Err(_)) if kept.active.as_ref() != Some(texts) => {
            (Some(Step::Issue { by: texts.clone(), retired: None }), None)
        }
        _ => (None, None),
    };
    let roots = [
        active.as_ref().map(|(_, active)| active.roots()),
        wanted.as_ref().ok().map(|(_, wanted)| wanted.roots()),
        kept.retired.as_ref().map(|retired| retired.root.as_str()),
    ];
    let roots = union(&roots.into_iter().flatten().collect::<Vec<_>>());
    let told = world::Authority {
        root_count: roots.len(),
        first_root_ends: roots.iter().map(|root| root.not_after).min().and_then(timestamp),
        roots: roots.into_iter().map(|root| root.pem).collect(),
        chain: active.as_ref().map(|(_, active)| active.chain().to_owned()).unwrap_or_default(),
        ends: active.as_ref().and_then(|(_, active)| timestamp(active.not_after())),
        ends_soon: active.as_ref().is_some_and(|(_, active)| active.ends_soon(now)),
        problem: wanted.err().map(|error| error.to_string()),
        waits,
    };
    Verdict { active, told, step: step.filter(|_| reports.is_some()) }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let exact = Timestamp::try_from(time).ok()?;
    Timestamp::from_second(exact.as_second()).ok()
}

/// From the authority that is in force to the one that is to be.
struct Way<'a> {
    kept: &'a Kept,
    active: (&'a Texts, &'a Authority),
    wanted: (&'a Texts, &'a Authority),
    now: SystemTime,
}

impl Way<'_> {
    /// The next step, and what keeps it from being taken.
    fn next(&self, reports: Option<&Reports>) -> (Option<Step>, Option<String>) {
        let issue = |by: &Texts, retired| (Some(Step::Issue { by: by.clone(), retired }), None);
        let Self { kept, active: (texts, active), wanted: (wanted_texts, wanted), .. } = self;
        if kept.active.as_ref() != Some(texts) {
            // As it is, so that every replica knows.
            return issue(texts, None);
        }
        if texts == wanted_texts {
            return (self.after(reports), None);
        }
        if active.root() == wanted.root() {
            return issue(wanted_texts, None);
        }
        let name = wanted.root();
        if kept.retired.is_some() {
            let waits = format!(
                "the new root {name} waits until no node has a certificate of the root before the last"
            );
            return (None, Some(waits));
        }
        match reports {
            // A replica that does not lead sees what the one that leads has decided.
            None => (None, None),
            Some(reports) => match missing(reports, name) {
                None => issue(wanted_texts, Some(self.retired())),
                Some(nodes) => (None, Some(format!("the new root {name} is not yet known {nodes}"))),
            },
        }
    }

    /// What is left to do when the right authority is in force.
    fn after(&self, reports: Option<&Reports>) -> Option<Step> {
        let Self { kept, wanted: (_, wanted), now, .. } = self;
        if let Some(retired) = &kept.retired {
            let reports = reports?;
            let age = now.duration_since(retired.since).unwrap_or_default();
            let is_over = age >= reports.lifetime + SETTLE;
            let is_unused = age >= SETTLE && !reports.uses(&retired.key_id);
            return (is_over || is_unused).then_some(Step::Forget);
        }
        let is_asked = kept.asked.is_some() && kept.asked != kept.rotated && wanted.is_made_here();
        (is_asked || wanted.is_to_be_rotated(*now)).then_some(Step::Rotate)
    }

    fn retired(&self) -> Retired {
        let (_, active) = self.active;
        let roots = union(&[active.roots()]);
        let root = roots.into_iter().find(|root| root.fingerprint == active.root());
        Retired {
            key_id: active.key_id().to_owned(),
            root: root.map(|root| root.pem).unwrap_or_default(),
            since: self.now,
        }
    }
}

/// Nodes whose ready proxy does not say that it has a root; None when all have it.
fn missing(reports: &Reports, root: &str) -> Option<String> {
    let missing = reports.without(root);
    if missing.is_empty() {
        return None;
    }
    let shown: Vec<_> = missing.iter().take(NODES_SHOWN).copied().collect();
    let more = missing.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("to the proxies of {} nodes: {}{more}", missing.len(), shown.join(", ")))
}

#[cfg(test)]
mod tests;
