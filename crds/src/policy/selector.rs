//! Pods that a policy selects by their labels, as Kubernetes' own selectors do; schema and flaws only, selecting is the engine's.

use std::collections::BTreeMap;

use kube::KubeSchema;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::flaw;
use crate::pattern;
use crate::rule::Flaw;

/// Labels, and requirements, that one selector has.
const ENTRIES_MAX: usize = 16;
/// Values of one requirement.
const VALUES_MAX: usize = 16;
/// Longest key and value of a label, in bytes.
const KEY_BYTES_MAX: usize = 317;
const VALUE_BYTES_MAX: usize = 63;

/// Pods that a policy is about: those with all of these labels for which all of the expressions hold. Of a pod that a proxy does not know, such as one that shares its node's addresses, it takes the worse: rules with `Deny` are about it, rules with `Allow` are not.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.matchLabels) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)")
        .message("pods are selected by matchLabels or matchExpressions; a policy without target is about the whole namespace")
)]
pub struct PodTarget {
    /// Labels that they have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(
        merge_strategy = MapMerge::Atomic,
        validation = Rule::new("self.size() >= 1 && self.size() <= 16").message("matchLabels has 1 to 16 labels; a policy without target is about the whole namespace"),
        validation = Rule::new("self.all(key, key.size() <= 317 && self[key].size() <= 63)").message("a label has a name of at most 317 characters and a value of at most 63")
    )]
    pub match_labels: BTreeMap<String, String>,
    /// What holds of their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// What holds of one label.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0")
        .message("In and NotIn go with values, Exists and DoesNotExist without")
)]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317), regex(pattern = crate::pattern::LABEL_KEY))]
    pub key: String,
    /// `In`: it is there with one of the values; `NotIn`: it is not there, or with another value; `Exists`: it is there; `DoesNotExist`: it is not.
    pub operator: LabelOperator,
    /// For `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63), regex(pattern = crate::pattern::LABEL_VALUE)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    /// It has one of the values.
    #[default]
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl PodTarget {
    /// The first flaw of a selector, which stands at `at`.
    pub(super) fn check(&self, at: &str) -> Result<(), Flaw> {
        let Self { match_labels, match_expressions } = self;
        let (labels, expressions) = (format!("{at}.matchLabels"), format!("{at}.matchExpressions"));
        if match_labels.is_empty() && match_expressions.is_empty() {
            let problem = "must have a label; a policy without target is about the whole namespace";
            return Err(flaw(labels, problem));
        }
        for (field, count) in [(&labels, match_labels.len()), (&expressions, match_expressions.len())] {
            if count > ENTRIES_MAX {
                return Err(flaw(field, format!("has {count} entries: at most {ENTRIES_MAX} are taken")));
            }
        }
        for (key, value) in match_labels {
            check_key(&labels, key)?;
            check_value(&format!("{labels}[{key}]"), value)?;
        }
        for (i, LabelRequirement { key, operator, values }) in match_expressions.iter().enumerate() {
            let at = format!("{expressions}[{i}]");
            check_key(&format!("{at}.key"), key)?;
            let has_values = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
            if has_values == values.is_empty() || values.len() > VALUES_MAX {
                let problem = format!(
                    "In and NotIn go with 1 to {VALUES_MAX} values, Exists and DoesNotExist without any"
                );
                return Err(flaw(format!("{at}.values"), problem));
            }
            for (j, value) in values.iter().enumerate() {
                check_value(&format!("{at}.values[{j}]"), value)?;
            }
        }
        Ok(())
    }
}

fn is(text: &str, pattern: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

fn check_key(at: &str, key: &str) -> Result<(), Flaw> {
    if is(key, pattern::LABEL_KEY, KEY_BYTES_MAX) {
        return Ok(());
    }
    Err(flaw(at, format!("{key:?} is no name of a label: write app or example.com/tier")))
}

fn check_value(at: &str, value: &str) -> Result<(), Flaw> {
    if is(value, pattern::LABEL_VALUE, VALUE_BYTES_MAX) {
        return Ok(());
    }
    let problem = format!(
        "{value:?} is no value of a label: letters, digits, '-', '_' and '.', at most {VALUE_BYTES_MAX}, with a letter or digit at both ends"
    );
    Err(flaw(at, problem))
}
