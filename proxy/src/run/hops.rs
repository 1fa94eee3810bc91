//! Makes what workers make hops with, anew whenever a certificate, a root or the mode changes.

use std::sync::Arc;

use tokio::sync::watch;
use vicino_crds::identity::Identity;

use crate::config::gather::Edition;
use crate::log::chain;
use crate::secure::{Certificates, Hops, Manner, SecureError, Trust};

/// What hops are made of.
#[derive(Debug)]
pub(super) struct Source {
    /// The certificates that the node has.
    pub(super) certificates: watch::Receiver<Arc<Certificates>>,
    /// PEM of the roots by which others are known.
    pub(super) roots: watch::Receiver<Option<Arc<str>>>,
    /// Which node it is, in which trust domain, and whether hops without TLS are refused.
    pub(super) editions: watch::Receiver<Arc<Edition>>,
    /// Hops without TLS are refused whatever the mesh says; the node's certificate is for all calls.
    pub(super) manner: Manner,
}

/// What hops were made of.
#[derive(Clone, Debug)]
struct Inputs {
    certificates: Arc<Certificates>,
    roots: Option<Arc<str>>,
    node: Arc<str>,
    trust_domain: Arc<str>,
    manner: Manner,
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates)
            && self.roots == other.roots
            && (&self.node, &self.trust_domain) == (&other.node, &other.trust_domain)
            && self.manner == other.manner
    }
}

impl Source {
    fn inputs(&mut self) -> Inputs {
        let snapshot = self.editions.borrow_and_update().snapshot.clone();
        Inputs {
            certificates: self.certificates.borrow_and_update().clone(),
            roots: self.roots.borrow_and_update().clone(),
            node: snapshot.node.clone(),
            trust_domain: snapshot.trust_domain.clone(),
            manner: Manner { is_strict: self.manner.is_strict || snapshot.is_strict, ..self.manner },
        }
    }

    /// Whether there is anything to wait for.
    async fn changed(&mut self) -> bool {
        // Those that come from files never change.
        tokio::select! {
            Ok(()) = self.certificates.changed() => true,
            Ok(()) = self.roots.changed() => true,
            changed = self.editions.changed() => changed.is_ok(),
        }
    }
}

/// None while something of it is missing.
fn make(inputs: &Inputs, before: Option<&Hops>) -> Result<Option<Hops>, SecureError> {
    let is_known = !inputs.trust_domain.is_empty() && !inputs.certificates.is_empty();
    let Some(roots) = inputs.roots.as_ref().filter(|_| is_known) else { return Ok(None) };
    let node = Identity::node(&inputs.trust_domain, &inputs.node)?;
    let trust = Trust::new(roots, &inputs.trust_domain)?;
    Hops::new(&inputs.certificates, &node, (trust, inputs.manner), before)
}

/// Tells of each change; what was made last stays in force while nothing can be made.
pub(super) async fn keep(mut source: Source, told: watch::Sender<Option<Arc<Hops>>>) {
    let mut last = None;
    loop {
        let inputs = source.inputs();
        if last.as_ref() != Some(&inputs) {
            let before = told.borrow().clone();
            match make(&inputs, before.as_deref()) {
                Ok(Some(hops)) => drop(told.send_replace(Some(Arc::new(hops)))),
                Ok(None) => {}
                Err(error) => tracing::error!(error = %chain(&error), "hops stay as they are"),
            }
            last = Some(inputs);
        }
        if !source.changed().await {
            return;
        }
    }
}
