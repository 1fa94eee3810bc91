//! Side-by-side cost of two-hop meshes, in the clear and with mutual TLS between the hops, in the order in which a run goes; no part of the product.
//!
//! ```text
//!   caller's node (namespace A)                        callee's node (namespace B)
//!   load generator -> L1 ------------- veth pair ------------> L2 -> backend
//! ```
//!
//! [`prepare`] finds or installs what is needed, [`net`] makes the two nodes, [`certificates`] what they know each other by, [`peers`] says how each proxy is started,
//! [`measure`] runs one peer once ([`process`], [`load`], [`procfs`], [`syscalls`]), [`figures`] reduces repetitions to medians, and
//! [`report`] prints them. Peers run in turn inside every repetition, so that a slow spell of the machine hits all of
//! them alike; only figures of one run can be compared.

pub mod certificates;
pub mod clock;
pub mod figures;
pub mod load;
pub mod machine;
pub mod measure;
pub mod net;
pub mod options;
pub mod peers;
pub mod prepare;
pub mod process;
pub mod procfs;
pub mod report;
pub mod run;
pub mod syscalls;
