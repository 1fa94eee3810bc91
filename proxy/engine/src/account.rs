//! Whose calls are whose: the service accounts of neighbours, and for which of them there are certificates.

use std::collections::HashMap;
use std::sync::Arc;

use crate::deadline::Time;
use crate::hash::FastMap;
use crate::policy::Identity;

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Account {
    /// Who it is in this trust domain.
    pub(crate) fn identity<'a>(&'a self, trust_domain: &'a str) -> Identity<'a> {
        Identity { trust_domain, namespace: &self.namespace, service_account: &self.name }
    }
}

/// The certificates that hops are made with. Each has a number, and one that replaces another has another number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Hops without TLS are neither made nor taken, and no call goes as somebody else's.
    pub is_strict: bool,
    /// The node's own, for calls of whoever has no identity.
    pub node: u64,
    /// It is for neighbours without one of their own, too, since nobody gives them any.
    pub is_shared: bool,
    /// Those of neighbours.
    pub accounts: HashMap<Account, u64>,
}

/// Who is at the other end of a hop that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Party {
    /// Nobody has proved anything.
    #[default]
    Anyone,
    /// The proxy of this node; its callers have no identity.
    Node(Arc<str>),
    /// The proxy of a node where this service account has a pod, which is the caller.
    Workload(Account),
}

impl Party {
    /// The word for each kind, in metrics and logs.
    pub const WORDS: [&str; 3] = ["anyone", "node", "workload"];

    /// Index of its kind in [`Party::WORDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Party::Anyone => 0,
            Party::Node(_) => 1,
            Party::Workload(_) => 2,
        }
    }
}

/// Number of a service account on this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AccountIndex(u32);

impl AccountIndex {
    /// Stands for the node: nobody's calls.
    pub(crate) const NODE: AccountIndex = AccountIndex(0);
}

#[derive(Debug)]
struct Known {
    account: Account,
    certificate: Option<u64>,
    /// Until when its first certificate is waited for, and the next when it has lost one.
    wait_until: Time,
    /// It has had one, which went with its last pod here.
    has_lost_one: bool,
}

/// All service accounts that have called.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// The one with index 1 first.
    known: Vec<Known>,
    by_name: FastMap<Arc<str>, FastMap<Arc<str>, AccountIndex>>,
    credentials: Option<Arc<Credentials>>,
}

impl Accounts {
    /// The number of a service account. Of one that is new here, or here again, the certificate is waited for until then.
    pub(crate) fn index(&mut self, namespace: &Arc<str>, name: &Arc<str>, wait_until: Time) -> AccountIndex {
        if let Some(index) = self.by_name.get(namespace).and_then(|names| names.get(name)) {
            let known = &mut self.known[index.0 as usize - 1];
            if std::mem::take(&mut known.has_lost_one) {
                known.wait_until = wait_until;
            }
            return *index;
        }
        let account = Account { namespace: Arc::clone(namespace), name: Arc::clone(name) };
        let certificate = self.credentials.as_ref().and_then(|held| held.accounts.get(&account).copied());
        self.known.push(Known { account, certificate, wait_until, has_lost_one: false });
        let index = AccountIndex(self.known.len() as u32);
        self.by_name.entry(Arc::clone(namespace)).or_default().insert(Arc::clone(name), index);
        index
    }

    /// None for the node.
    pub(crate) fn get(&self, index: AccountIndex) -> Option<&Account> {
        Some(&self.known(index)?.account)
    }

    fn known(&self, index: AccountIndex) -> Option<&Known> {
        self.known.get((index.0 as usize).checked_sub(1)?)
    }

    pub(crate) fn certify(&mut self, credentials: Arc<Credentials>) {
        for known in &mut self.known {
            let before = known.certificate;
            known.certificate = credentials.accounts.get(&known.account).copied();
            known.has_lost_one = known.certificate.is_none() && (before.is_some() || known.has_lost_one);
        }
        self.credentials = Some(credentials);
    }

    /// Whether hops can be made with TLS at all.
    pub(crate) fn has_any(&self) -> bool {
        self.credentials.is_some()
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.credentials.as_ref().is_some_and(|held| held.is_strict)
    }

    /// Whether calls of a service account without certificate go as nobody's.
    pub(crate) fn may_go_as_node(&self) -> bool {
        self.credentials.as_ref().is_none_or(|held| held.is_shared || !held.is_strict)
    }

    /// Whether it has no certificate yet, and may still get one soon.
    pub(crate) fn awaits(&self, index: AccountIndex, now: Time) -> bool {
        let is_to_come = |known: &Known| known.certificate.is_none() && now < known.wait_until;
        let is_given = self.credentials.as_ref().is_some_and(|held| !held.is_shared);
        is_given && self.known(index).is_some_and(is_to_come)
    }

    /// The number of the certificate with which its calls go.
    pub(crate) fn certificate(&self, index: AccountIndex) -> Option<u64> {
        match self.known(index) {
            Some(known) => known.certificate,
            None => self.credentials.as_ref().map(|held| held.node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_number_and_the_certificate_that_there_is_now() {
        let mut accounts = Accounts::default();
        let [shop, pay, web]: [Arc<str>; 3] = ["shop", "pay", "web"].map(Into::into);
        let first = accounts.index(&shop, &web, Time(9));
        assert_eq!(accounts.index(&shop, &web, Time(9)), first);
        assert_ne!(accounts.index(&pay, &web, Time(9)), first);
        assert_ne!(first, AccountIndex::NODE);
        assert_eq!(accounts.get(AccountIndex::NODE), None);
        assert_eq!((accounts.certificate(first), accounts.certificate(AccountIndex::NODE)), (None, None));
        let of = |namespace: &Arc<str>| Account { namespace: Arc::clone(namespace), name: Arc::clone(&web) };
        let held = [(of(&shop), 7), (of(&"new".into()), 8)].into();
        accounts.certify(Arc::new(Credentials {
            is_strict: false,
            node: 3,
            is_shared: false,
            accounts: held,
        }));
        assert_eq!(accounts.certificate(first), Some(7));
        assert_eq!(accounts.certificate(AccountIndex::NODE), Some(3));
        let later = accounts.index(&"new".into(), &web, Time(9));
        assert_eq!(accounts.certificate(later), Some(8), "also of one that has not called before");
        accounts.certify(Arc::default());
        assert_eq!(accounts.certificate(first), None);
        assert!(accounts.awaits(first, Time(8)) && !accounts.awaits(first, Time(9)));
        assert!(!accounts.awaits(AccountIndex::NODE, Time(8)));
        // Its last pod had gone, and another comes: once more, once.
        for until in [20, 30] {
            assert_eq!(accounts.index(&shop, &web, Time(until)), first);
        }
        assert!(accounts.awaits(first, Time(19)) && !accounts.awaits(first, Time(20)));
    }
}
