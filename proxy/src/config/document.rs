//! One document of the contract: the last good text and value, and what was refused since; knows nothing of where it came from.

use std::sync::Arc;

use vicino_crds::contract::{self, Document};

/// A document that was accepted.
#[derive(Debug)]
pub struct Good<D> {
    /// As it was read; kept, so that it can be stored and a repetition is noticed without parsing.
    pub text: Arc<str>,
    /// What it says.
    pub value: D,
}

/// A place for a document.
#[derive(Debug)]
pub struct Slot<D> {
    good: Option<Arc<Good<D>>>,
    refused: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    text: Arc<[u8]>,
    message: String,
}

/// What came of offering bytes to a [`Slot`].
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing new.
    Same,
    /// Accepted; the paths of fields that this version does not know.
    Accepted(Vec<String>),
    /// Refused, and why; the last good one stays.
    Refused(String),
}

impl<D> Default for Slot<D> {
    fn default() -> Self {
        Self { good: None, refused: None }
    }
}

impl<D: Document> Slot<D> {
    /// Takes bytes in. `check` says what the document itself cannot know, such as whether it lies in the right place.
    pub fn offer(&mut self, bytes: &[u8], check: impl Fn(&D) -> Result<(), String>) -> Offer {
        if self.refused.as_ref().is_some_and(|r| *r.text == *bytes) {
            return Offer::Same;
        }
        if let Some(good) = &self.good
            && good.text.as_bytes() == bytes
        {
            let cured = self.refused.take().is_some();
            return if cured { Offer::Accepted(Vec::new()) } else { Offer::Same };
        }
        let read = contract::read::<D>(bytes).map_err(|e| e.to_string());
        match read.and_then(|r| check(&r.document).map(|()| r)) {
            Ok(read) => {
                let text = Arc::from(String::from_utf8_lossy(bytes));
                self.good = Some(Arc::new(Good { text, value: read.document }));
                self.refused = None;
                Offer::Accepted(read.unknown)
            }
            Err(message) => {
                self.refused = Some(Refusal { text: Arc::from(bytes), message: message.clone() });
                Offer::Refused(message)
            }
        }
    }

    /// The document in force.
    pub fn good(&self) -> Option<&Arc<Good<D>>> {
        self.good.as_ref()
    }

    /// Why the newest text is not in force.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|r| r.message.as_str())
    }
}

#[cfg(test)]
mod tests {
    use vicino_crds::contract::Bootstrap;

    use super::{Offer, Slot};

    fn bootstrap(mesh: &str) -> String {
        format!(
            "version: 1\nmesh: {mesh}\nclusterDomain: cluster.local\nworkers: 1\nlogLevel: info\ndrainSeconds: 5\n...\n"
        )
    }

    #[test]
    fn the_last_good_text_stays_until_a_better_one_comes() {
        let mut slot = Slot::<Bootstrap>::default();
        let offer = |slot: &mut Slot<Bootstrap>, text: &str| slot.offer(text.as_bytes(), |_| Ok(()));
        assert_eq!(offer(&mut slot, &bootstrap("a")), Offer::Accepted(vec![]));
        assert_eq!(offer(&mut slot, &bootstrap("a")), Offer::Same);
        let half = bootstrap("b").replace("...\n", "");
        assert!(matches!(offer(&mut slot, &half), Offer::Refused(m) if m.contains("half-written")));
        assert_eq!(offer(&mut slot, &half), Offer::Same, "one refusal is one piece of news");
        assert_eq!(slot.good().map(|g| g.value.mesh.as_str()), Some("a"));
        assert!(slot.refused().is_some());
        assert_eq!(offer(&mut slot, &bootstrap("a")), Offer::Accepted(vec![]), "back to the good one");
        assert_eq!(slot.refused(), None);
    }

    #[test]
    fn a_document_in_the_wrong_place_is_refused() {
        let mut slot = Slot::<Bootstrap>::default();
        let offer = slot.offer(bootstrap("a").as_bytes(), |d| match d.mesh.as_str() {
            "b" => Ok(()),
            other => Err(format!("mesh: is {other}")),
        });
        assert_eq!(offer, Offer::Refused("mesh: is a".into()));
        assert!(slot.good().is_none());
    }

    #[test]
    fn fields_of_a_newer_operator_are_named_and_tolerated() {
        let mut slot = Slot::<Bootstrap>::default();
        let text = bootstrap("a").replace("version: 1\n", "version: 1\nfuture: {x: 1}\n");
        assert_eq!(slot.offer(text.as_bytes(), |_| Ok(())), Offer::Accepted(vec!["future".into()]));
    }
}
