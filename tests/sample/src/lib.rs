//! The sample application of the demo: `web` calls `quotes`, which calls `authors` and `ratings`; it knows nothing of
//! the mesh but the `http_proxy` variable that any HTTP client knows.
//!
//! Reading order: [`options`] says who it is, [`serve`] owns the listener and an orderly end, [`answer`] picks the
//! endpoint, [`role`] is what `/` says, [`client`] makes the calls, [`body`] are the streams, `websocket` is the one that goes both ways.
//! [`calls`] is the other thing that the binary can do: call, and sum up.

pub mod answer;
pub mod body;
pub mod calls;
pub mod client;
pub mod options;
pub mod role;
pub mod serve;
mod websocket;
