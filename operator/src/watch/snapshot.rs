//! The cluster as it is now, once: what the command line plans on; no watch.

use std::fmt::Debug;

use futures::future::{BoxFuture, FutureExt};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::{PAGE, Visit, Which, visit};
use crate::world::{Change, Settings, Step, World};

/// A kind could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {path}")]
pub struct SnapshotError {
    /// Path of the kind in the API.
    pub path: String,
    /// What the API server said.
    #[source]
    pub source: Box<kube::Error>,
}

/// Lists every kind that the pipeline looks at.
pub async fn snapshot(client: &Client, settings: Settings) -> Result<World, SnapshotError> {
    let mut lists = Lists(Vec::new());
    visit(client, &mut lists);
    let mut world = super::empty(settings);
    for list in lists.0 {
        for change in list.await? {
            world.take(change);
        }
    }
    Ok(world)
}

struct Lists(Vec<BoxFuture<'static, Result<Vec<Change>, SnapshotError>>>);

impl Visit for Lists {
    fn kind<K, T>(
        &mut self,
        api: Api<K>,
        which: Which<'_>,
        read: fn(K) -> Step<T>,
        wrap: impl Fn(Step<T>) -> Change + Send + 'static,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        let mut params = ListParams::default().limit(PAGE);
        if let Some(labels) = which.labels() {
            params = params.labels(labels);
        }
        self.0.push(list(api, (params, which == Which::IfThere), read, wrap).boxed());
    }
}

async fn list<K, T>(
    api: Api<K>,
    (mut params, is_optional): (ListParams, bool),
    read: fn(K) -> Step<T>,
    wrap: impl Fn(Step<T>) -> Change + Send + 'static,
) -> Result<Vec<Change>, SnapshotError>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let mut changes = vec![wrap(Step::Listing)];
    loop {
        let failed = |source| SnapshotError { path: api.resource_url().to_owned(), source: Box::new(source) };
        let page = match api.list(&params).await {
            Err(kube::Error::Api(status)) if is_optional && status.code == 404 => break,
            page => page.map_err(failed)?,
        };
        changes.extend(page.items.into_iter().map(|object| wrap(read(object))));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    changes.push(wrap(Step::Listed));
    Ok(changes)
}
