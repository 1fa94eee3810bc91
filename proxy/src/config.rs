//! From bytes to the snapshot, the same way for every source; what the snapshot means is the engine's.
//!
//! A source ([`kubernetes`] or [`directory`]) turns what it sees into [`Change`]s. [`gather`] applies them to [`Inputs`],
//! coalesced, and has [`build`] make the next snapshot of it. [`document`], [`bundle`] and [`slice`] are what inputs
//! consist of.

pub mod build;
pub mod bundle;
pub mod directory;
pub mod document;
pub mod freshness;
pub mod gather;
pub mod inotify;
pub mod inputs;
pub mod kubernetes;
pub mod slice;

use std::sync::Arc;

pub use bundle::RawBundle;
pub use inputs::Inputs;
pub use slice::{Slice, SliceKey};
use vicino_crds::MeshNodeSpec;

/// News from a source. `All…` is a complete list: what it does not hold is gone.
#[derive(Debug)]
pub enum Change {
    /// The bootstrap's bytes.
    Bootstrap(Vec<u8>),
    /// One ConfigMap or directory appeared or changed.
    Bundle(RawBundle),
    /// One is gone, by name.
    BundleGone(Arc<str>),
    /// Every one that there is.
    AllBundles(Vec<RawBundle>),
    /// One EndpointSlice appeared or changed.
    Slice(Slice),
    /// One is gone.
    SliceGone(SliceKey),
    /// Every one that there is.
    AllSlices(Vec<Slice>),
    /// A manifest of an EndpointSlice that can't be read, and why: the last good one stays.
    SliceRefused(SliceKey, String),
    /// The own MeshNode. There is no change for its deletion: the neighbours that were known stay until the operator has
    /// made it anew, so that deleting the object by mistake cuts nobody off.
    MeshNode(OwnNode),
    /// The own MeshNode's manifest can't be read, and why.
    MeshNodeRefused(String),
}

/// What the proxy takes from its own MeshNode.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnNode {
    /// `metadata.generation`, 0 when there is none.
    pub generation: i64,
    /// Its spec.
    pub spec: MeshNodeSpec,
}
