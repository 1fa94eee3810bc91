//! How much of the machine the proxy takes: workers, descriptors, connections; asks the system, opens nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vicino_engine::CoreConfig;

use crate::options::RunOptions;
use crate::worker::Plan;

/// More workers than this are never started.
const WORKERS_MAX: u32 = 256;
/// Of the descriptors, what the connections of one sort (callers, hops) may take: a call needs one towards the pod as well.
const SHARE: usize = 4;

/// Raises the limit of open files as far as the process may; gives what it is then.
pub(super) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// Workers as flags and bootstrap say; 0 is one for each core.
pub(super) fn workers(options: &RunOptions, bootstrap: u32) -> Plan {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let workers = match options.workers.unwrap_or(bootstrap) {
        0 => cores(),
        some => some,
    };
    let workers = workers.clamp(1, WORKERS_MAX);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let core = CoreConfig::default();
    Plan {
        workers,
        ip: options.listen_ip,
        l1_port: options.l1_port,
        l2_port: options.l2_port,
        core: CoreConfig {
            own_ports: vec![options.l1_port, options.l2_port, options.admin_port, options.metrics_port],
            own_addresses: options.listen_ip.into_iter().collect(),
            connections_max: core.connections_max.min((descriptors / SHARE / workers as usize).max(1)),
            ..core
        },
    }
}
