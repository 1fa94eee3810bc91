//! One request to the API server: apply, apply a status, delete; every one has an end; no retry, no decision what to send.

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, Status};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use vicino_crds::names;

use crate::serve::Health;
use crate::world::{Failure, Key, Kind, ObjectId};

/// A write that takes longer than this has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The least that an API server asks for which has too many requests. It says how much in a header that the client
/// library drops; longer times come with the pauses growing.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// Why a write did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The API server refused it, or could not be reached.
    #[error("{}", answer(.0))]
    Kube(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("no answer within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
}

/// What the API server says, without the struct around it.
pub(crate) fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl SendError {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout => None,
        }
    }

    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    /// Whether the object is not what it was taken for: another incarnation, or another version.
    pub fn conflict(&self) -> bool {
        // To an apply the UID is a field like others, which cannot be changed, hence 422.
        let about_uid = |status: &Status| {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            causes.map(|cause| cause.field.as_str()).any(|field| field == "metadata.uid")
        };
        self.status().is_some_and(|status| match status.code {
            409 => true,
            422 => about_uid(status),
            _ => false,
        })
    }

    /// Whether there is no API server to be reached, as a load balancer may say in its stead.
    pub fn away(&self) -> bool {
        self.code().is_none_or(|code| matches!(code, 503 | 504))
    }

    /// Whether the API server can do nothing now, so that trying something else is of no use either.
    pub fn unavailable(&self) -> bool {
        self.away() || self.code() == Some(429)
    }

    /// Whether the same write may succeed later without anybody changing anything.
    pub fn transient(&self) -> bool {
        self.conflict() || self.unavailable() || self.code().is_some_and(|code| code >= 500)
    }

    /// How long the API server wants to be spared.
    pub fn retry_after(&self) -> Duration {
        let told =
            self.status().and_then(|status| status.details.as_ref()).map_or(0, |d| d.retry_after_seconds);
        let least = if self.code() == Some(429) { RETRY_AFTER_MIN } else { Duration::ZERO };
        Duration::from_secs(told.into()).max(least)
    }

    /// As the World keeps it.
    pub fn failure(&self) -> Failure {
        Failure { message: self.to_string(), transient: self.transient() }
    }
}

/// Whether a write takes fields from other managers. A MeshRoute that we mean to create may be there already, a user's, of which our
/// watch has not told: then the conflict is to be heard, and no label of theirs to be changed.
fn takes_over(kind: Kind, uid: Option<&str>) -> bool {
    kind != Kind::MeshRoute || uid.is_some()
}

/// A client that writes as [`names::FIELD_MANAGER`].
#[derive(Clone)]
pub struct Sender {
    client: Client,
    params: PatchParams,
    health: Health,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Sender {
    /// Writes through `client`, and tells `health` of each write that has ended.
    pub fn new(client: Client, health: Health) -> Self {
        Self { client, params: PatchParams::apply(names::FIELD_MANAGER).force(), health }
    }

    async fn bounded<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, SendError> {
        let answer = tokio::time::timeout(WRITE_TIMEOUT, request).await;
        self.health.progress();
        match answer {
            Ok(answer) => answer.map_err(|error| SendError::Kube(Box::new(error))),
            Err(_) => Err(SendError::Timeout),
        }
    }

    fn api(&self, key: &Key, resource: &ApiResource) -> Api<DynamicObject> {
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, resource)
        }
    }

    /// Server-side-applies an object. With `uid`, only that incarnation: one that was deleted meanwhile is not made again.
    pub async fn apply(
        &self,
        id: &ObjectId,
        mut manifest: Value,
        uid: Option<&str>,
    ) -> Result<DynamicObject, SendError> {
        if let Some(uid) = uid {
            manifest["metadata"]["uid"] = json!(uid);
        }
        let params = PatchParams { force: takes_over(id.kind, uid), ..self.params.clone() };
        let api = self.api(&id.key, &id.kind.resource());
        self.bounded(api.patch(&id.key.name, &params, &Patch::Apply(&manifest))).await
    }

    /// Server-side-applies the status of an object of ours at the version that the status is about: a UID would not do,
    /// since the API server does not look at it when a custom resource's status is written.
    pub async fn apply_status(
        &self,
        resource: &ApiResource,
        (key, version): (&Key, u64),
        status: Value,
    ) -> Result<DynamicObject, SendError> {
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": key.name, "resourceVersion": version.to_string() },
            "status": status,
        });
        let api = self.api(key, resource);
        self.bounded(api.patch_status(&key.name, &self.params, &Patch::Apply(&body))).await
    }

    /// Deletes one incarnation of an object as it was last seen. One that is gone already is deleted. What it is from now on, when
    /// somebody's finalizer keeps it.
    pub async fn delete(
        &self,
        id: &ObjectId,
        uid: &str,
        version: u64,
    ) -> Result<Option<DynamicObject>, SendError> {
        let only = Preconditions { uid: Some(uid.to_owned()), resource_version: Some(version.to_string()) };
        let params = DeleteParams::background().preconditions(only);
        let api = self.api(&id.key, &id.kind.resource());
        match self.bounded(api.delete(&id.key.name, &params)).await {
            Ok(answer) => Ok(answer.left().filter(|object| !object.finalizers().is_empty())),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
