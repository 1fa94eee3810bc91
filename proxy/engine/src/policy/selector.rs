//! Which pods have the labels that a policy names, as Kubernetes' own selectors mean it: all of what is said has to hold. Everybody who selects by a policy asks here.

use std::collections::BTreeMap;

/// Pods with these labels, for which all of this holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that they have.
    pub labels: BTreeMap<String, String>,
    /// What holds of labels.
    pub requirements: Vec<(Box<str>, Requirement)>,
}

/// What holds of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// It has one of these values.
    In(Vec<Box<str>>),
    /// It has none of these values, or is not there.
    NotIn(Vec<Box<str>>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether a pod with these labels is one of them.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
            && self
                .requirements
                .iter()
                .all(|(name, what)| what.holds(labels.get(&**name).map(String::as_str)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let is_among = |all: &[Box<str>]| value.is_some_and(|value| all.iter().any(|one| **one == *value));
        match self {
            Requirement::In(values) => is_among(values),
            Requirement::NotIn(values) => !is_among(values),
            Requirement::Exists => value.is_some(),
            Requirement::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kubectl get pods -l` has it.
    #[test]
    fn pods_are_selected_as_kubernetes_selects_them() {
        let pods: [&[(&str, &str)]; 4] =
            [&[("tier", "a"), ("app", "web")], &[("tier", "b")], &[("tier", "")], &[]];
        let selected = |selector: &Selector| {
            pods.map(|labels| {
                selector.selects(&labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
            })
        };
        let one = |what| Selector { requirements: vec![("tier".into(), what)], ..Selector::default() };
        let values = || vec!["a".into(), "".into()];
        assert_eq!(selected(&one(Requirement::In(values()))), [true, false, true, false]);
        assert_eq!(selected(&one(Requirement::NotIn(values()))), [false, true, false, true]);
        assert_eq!(selected(&one(Requirement::Exists)), [true, true, true, false]);
        assert_eq!(selected(&one(Requirement::DoesNotExist)), [false, false, false, true]);
        let both = Selector { labels: [("app".into(), "web".into())].into(), ..one(Requirement::Exists) };
        assert_eq!(selected(&both), [true, false, false, false]);
    }
}
