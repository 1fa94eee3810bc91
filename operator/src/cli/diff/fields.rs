//! What a live object says that the operator answers for: the fields that it manages, and those that it is about to set; pure.

use serde_json::{Map, Value};
use vicino_crds::names;

/// `live` without what is none of the operator's: fields that the API server or somebody else sets, and the status.
/// A field is the operator's when `managedFields` says so or when `wanted` has it.
pub(super) fn said(live: &Value, wanted: &Value) -> Value {
    let managers = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = managers.iter().find(|entry| {
        entry["manager"] == names::FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry["subresource"].is_null()
    });
    let none = Value::Null;
    let managed = ours.map_or(&none, |entry| &entry["fieldsV1"]);
    let mut said = part(live, wanted, managed);
    for field in ["apiVersion", "kind"] {
        said[field] = live[field].clone();
    }
    for field in ["name", "namespace"] {
        if let Some(value) = live["metadata"].get(field) {
            said["metadata"][field] = value.clone();
        }
    }
    said
}

/// The part of `live` that `wanted` has or `managed`, a FieldsV1, names.
fn part(live: &Value, wanted: &Value, managed: &Value) -> Value {
    match live {
        Value::Object(fields) => {
            // A field that is managed as a whole (`f:x: {}`) or that is `wanted` as a scalar is taken whole.
            let whole = managed.as_object().is_some_and(Map::is_empty) && !wanted.is_object();
            let kept = fields.iter().filter_map(|(name, value)| {
                let (wanted, managed) = (wanted.get(name), managed.get(format!("f:{name}")));
                let of_interest = whole || wanted.is_some() || managed.is_some();
                let empty = Value::Object(Map::new());
                let managed = managed.unwrap_or(if whole { &empty } else { &Value::Null });
                of_interest.then(|| (name.clone(), part(value, wanted.unwrap_or(&Value::Null), managed)))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => list(items, wanted, managed),
        scalar => scalar.clone(),
    }
}

/// Elements of a list: those that `managed` names by key, or, where the list is managed as a whole, all.
fn list(items: &[Value], wanted: &Value, managed: &Value) -> Value {
    let keyed: Vec<(Value, &Value)> = managed
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, fields)| Some((serde_json::from_str(name.strip_prefix("k:")?).ok()?, fields)))
        .collect();
    let none = Vec::new();
    let wanted = wanted.as_array().unwrap_or(&none);
    let by_key = !keyed.is_empty();
    let kept = items.iter().enumerate().filter_map(|(index, item)| {
        let named = keyed.iter().find(|(key, _)| is_of(item, key));
        let twin = match named {
            Some((key, _)) => wanted.iter().find(|wanted| is_of(wanted, key)),
            None => wanted.get(index).filter(|_| !by_key),
        };
        match (named, by_key) {
            (Some((_, fields)), _) => Some(part(item, twin.unwrap_or(&Value::Null), fields)),
            (None, true) => None,
            (None, false) => Some(twin.map_or_else(|| item.clone(), |twin| part(item, twin, &Value::Null))),
        }
    });
    Value::Array(kept.collect())
}

/// Whether a list's element has the fields of `key`.
fn is_of(item: &Value, key: &Value) -> bool {
    key.as_object().is_some_and(|key| key.iter().all(|(name, value)| item.get(name) == Some(value)))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::super::output;
    use super::*;

    #[test]
    fn what_others_set_is_left_out_and_what_is_rendered_no_longer_stays() {
        let live = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {
                "name": "d", "namespace": "n", "uid": "u", "labels": {"ours": "1", "theirs": "2"},
                "managedFields": [
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
                    {"manager": "vicino-operator", "operation": "Apply", "fieldsV1": {
                        "f:metadata": {"f:labels": {"f:ours": {}}},
                        "f:spec": {"f:selector": {}, "f:template": {"f:spec": {
                            "f:containers": {"k:{\"name\":\"proxy\"}": {".": {}, "f:name": {}, "f:image": {}, "f:command": {}}},
                            "f:tolerations": {}
                        }}}
                    }},
                ],
            },
            "spec": {
                "revisionHistoryLimit": 10, "selector": {"matchLabels": {"a": "b"}},
                "template": {"spec": {
                    "containers": [
                        {"name": "injected", "image": "x"},
                        {"name": "proxy", "image": "old", "command": ["/old"], "terminationMessagePath": "/dev/null"},
                    ],
                    "tolerations": [{"operator": "Exists", "key": "k"}], "restartPolicy": "Always",
                }},
            },
            "status": {"numberReady": 3},
        });
        let wanted =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "new"}]}}}});
        expect![[r#"
            apiVersion: apps/v1
            kind: DaemonSet
            metadata:
              labels:
                ours: "1"
              name: d
              namespace: "n"
            spec:
              selector:
                matchLabels:
                  a: b
              template:
                spec:
                  containers:
                  - command:
                    - /old
                    image: old
                    name: proxy
                  tolerations:
                  - key: k
                    operator: Exists
        "#]]
        .assert_eq(&output::yaml(&said(&live, &wanted)));
    }

    #[test]
    fn an_object_without_managed_fields_is_compared_in_what_is_wanted() {
        let live = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "uid": "u"}, "data": {"a": "1", "b": "2"}});
        let said = said(&live, &json!({"data": {"a": "3"}}));
        assert_eq!(
            said,
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "1"}})
        );
    }
}
