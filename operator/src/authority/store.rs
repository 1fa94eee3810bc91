//! The Secret that the authority lies in: read, made when there is none, changed as [`rotation`](super::rotation) says. Of two replicas that would change it at one time only one does.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use vicino_crds::names;

use super::ca::{AuthorityError, Key, Texts};
use super::rotation::{Kept, Retired};

/// Its name. One that is there already is taken as it is.
pub const SECRET: &str = names::AUTHORITY_SECRET;
/// The authority as of cert-manager and `kubectl create secret tls`: certificate, key, and where it comes from.
const WANTED: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// The one that is in force, which is another while a change is under way.
const ACTIVE: [&str; 3] = ["active.crt", "active.key", "active-ca.crt"];
/// The one before: the root, the name of its key, and since when it signs no more (RFC 3339).
const RETIRED: [&str; 3] = ["retired-ca.crt", "retired-issuer", "retired-since"];

/// Why the Secret cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("the Secret {SECRET} cannot be {verb}")]
pub struct StoreError {
    /// What was to be done.
    verb: &'static str,
    /// Why not.
    #[source]
    source: Box<kube::Error>,
}

impl StoreError {
    /// Whether somebody else was quicker.
    pub fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 409)
    }

    /// Whether this process may not, which does not change by itself.
    pub fn is_forbidden(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 403)
    }
}

/// The Secret of a namespace.
#[derive(Clone, Debug)]
pub struct Store {
    api: Api<Secret>,
}

impl Store {
    /// That of `namespace`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// What it has, with its version; None when there is none.
    pub async fn read(&self) -> Result<Option<(Kept, String)>, StoreError> {
        let secret = self.api.get_opt(SECRET).await.map_err(failed("read"))?;
        Ok(secret.map(|secret| {
            let version = secret.metadata.resource_version.clone().unwrap_or_default();
            (kept(&secret), version)
        }))
    }

    /// Makes it.
    pub async fn create(&self, kept: &Kept) -> Result<(), StoreError> {
        let texts = texts(kept).into_iter().filter_map(|(field, text)| Some((field.to_owned(), text?)));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(BTreeMap::from([(
                    names::LABEL_MANAGED_BY.to_owned(),
                    names::MANAGED_BY.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(texts.map(|(field, text)| (field, ByteString(text.into_bytes()))).collect()),
            ..Secret::default()
        };
        let created = self.api.create(&PostParams::default(), &secret).await;
        created.map(drop).map_err(failed("created"))
    }

    /// Changes what differs, unless somebody has changed it since `version`.
    pub async fn change(&self, from: (&Kept, &str), to: &Kept) -> Result<(), StoreError> {
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch(from, to));
        self.api.patch(SECRET, &params, &patch).await.map(drop).map_err(failed("changed"))
    }
}

fn failed(verb: &'static str) -> impl Fn(kube::Error) -> StoreError {
    move |source| StoreError { verb, source: Box::new(source) }
}

fn patch((from, version): (&Kept, &str), to: &Kept) -> Value {
    let (before, after) = (texts(from), texts(to));
    let changed = after.into_iter().filter(|(field, text)| before.get(field) != Some(text));
    let data: BTreeMap<_, _> =
        changed.map(|(field, text)| (field, text.map(|text| ByteString(text.into_bytes())))).collect();
    let mut metadata = json!({ "resourceVersion": version });
    if from.rotated != to.rotated {
        metadata["annotations"] = json!({ names::ANNOTATION_ROTATED_ROOT: to.rotated });
    }
    json!({ "metadata": metadata, "data": data })
}

/// Every field that this has a say in; None: it is not to be there.
fn texts(kept: &Kept) -> BTreeMap<&'static str, Option<String>> {
    let Kept { wanted, active, retired, asked: _, rotated: _ } = kept;
    let mut all = BTreeMap::new();
    let mut put = |fields: [&'static str; 3], texts: Option<[String; 3]>| {
        let texts = texts.map_or([None, None, None], |texts| texts.map(Some));
        all.extend(fields.into_iter().zip(texts));
    };
    let of = |Texts { certificates, key: Key(key), roots }: &Texts| {
        [certificates.clone(), key.clone(), roots.clone()]
    };
    // What cannot be read is somebody else's.
    if let Ok(wanted) = wanted {
        put(WANTED, Some(of(wanted)));
    }
    put(ACTIVE, active.as_ref().map(of));
    put(
        RETIRED,
        retired.as_ref().map(|Retired { key_id, root, since }| {
            let since = Timestamp::try_from(*since).unwrap_or_default();
            [root.clone(), key_id.clone(), since.to_string()]
        }),
    );
    all
}

fn kept(secret: &Secret) -> Kept {
    let annotation = |name: &str| secret.metadata.annotations.as_ref()?.get(name).cloned();
    let read = |fields: [&'static str; 3]| {
        let [certificates, key, roots] = fields;
        let has_roots = secret.data.as_ref().is_some_and(|data| data.contains_key(roots));
        Ok(Texts {
            certificates: text(secret, certificates)?,
            key: Key(text(secret, key)?),
            roots: if has_roots { text(secret, roots)? } else { String::new() },
        })
    };
    let retired = || {
        let [root, key_id, since] = RETIRED.map(|field| text(secret, field).ok());
        let since: Timestamp = since?.trim().parse().ok()?;
        Some(Retired { root: root?, key_id: key_id?, since: SystemTime::from(since) })
    };
    Kept {
        wanted: read(WANTED),
        active: read(ACTIVE).ok(),
        retired: retired(),
        asked: annotation(names::ANNOTATION_ROTATE_ROOT),
        rotated: annotation(names::ANNOTATION_ROTATED_ROOT),
    }
}

fn text(secret: &Secret, field: &'static str) -> Result<String, AuthorityError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(field)).map(|bytes| bytes.0.clone());
    let problem = |problem: &str| AuthorityError::Field { field, problem: problem.to_owned() };
    let bytes = bytes.ok_or_else(|| problem("is missing: the Secret must be of type kubernetes.io/tls"))?;
    String::from_utf8(bytes).map_err(|_| problem("is no text: it must be PEM"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn of(name: &str) -> Texts {
        Texts {
            certificates: format!("{name}.crt"),
            key: Key(format!("{name}.key")),
            roots: format!("{name}-ca"),
        }
    }

    fn all() -> Kept {
        let since = UNIX_EPOCH + Duration::from_hours(500_000);
        let retired = Retired { key_id: "0123".to_owned(), root: "root".to_owned(), since };
        Kept {
            wanted: Ok(of("a")),
            active: Some(of("b")),
            retired: Some(retired),
            asked: None,
            rotated: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let wanted = Kept { retired: None, ..all() };
        for kept in [all(), wanted, Kept { active: None, ..all() }] {
            let data = texts(&kept)
                .into_iter()
                .filter_map(|(field, text)| Some((field.to_owned(), ByteString(text?.into_bytes()))));
            let secret = Secret { data: Some(data.collect()), ..Secret::default() };
            assert_eq!(super::kept(&secret), kept);
        }
    }

    #[test]
    fn a_change_has_what_differs_and_the_version_that_it_is_of() {
        let before = all();
        let after = Kept { active: Some(of("a")), retired: None, rotated: Some("1".to_owned()), ..all() };
        let expected = json!({
            "metadata": { "resourceVersion": "7", "annotations": { "vicino.dev/rotated-root": "1" } },
            "data": {
                "active.crt": "YS5jcnQ=", "active.key": "YS5rZXk=", "active-ca.crt": "YS1jYQ==",
                "retired-ca.crt": null, "retired-issuer": null, "retired-since": null,
            },
        });
        assert_eq!(patch((&before, "7"), &after), expected);
        // Nothing is said of what somebody else wrote and nobody can read.
        let broken = super::text(&Secret::default(), "tls.key").unwrap_err();
        let unread = Kept { wanted: Err(broken), ..all() };
        assert_eq!(patch((&unread, "7"), &unread)["data"], json!({}));
    }
}
