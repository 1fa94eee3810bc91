//! CPU time and memory of processes as `/proc` has them; parsing apart from reading, and no decisions.

use std::collections::BTreeMap;

/// CPU time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// In user code.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
}

impl Cpu {
    /// User and system.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// What a line of `/proc/PID/stat` (proc_pid_stat(5)) says, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The parent's process id.
    pub parent: u32,
    /// User ticks: of all its threads, and of its children that were waited for.
    pub user: u64,
    /// System ticks, counted alike.
    pub system: u64,
}

/// Reads a line of `/proc/PID/stat`. The second field, the command, may hold spaces and parentheses.
pub fn parse_process_stat(line: &str) -> Option<ProcessStat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first field after the command is the third of the manual page.
    let number = |manual: usize| fields.get(manual - 3)?.parse::<u64>().ok();
    Some(ProcessStat {
        parent: u32::try_from(number(4)?).ok()?,
        user: number(14)? + number(16)?,
        system: number(15)? + number(17)?,
    })
}

/// Ticks of all cores since boot: busy (interrupts included), and stolen by the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineStat {
    /// User, nice, system, irq and softirq.
    pub busy: u64,
    /// Time in which another virtual machine ran.
    pub steal: u64,
}

/// Reads the first line of `/proc/stat`.
pub fn parse_machine_stat(text: &str) -> Option<MachineStat> {
    let mut fields = text.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let v: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = v.as_slice() else { return None };
    Some(MachineStat { busy: user + nice + system + irq + softirq, steal })
}

/// Resident KiB that `/proc/PID/smaps_rollup` names; exact, unlike `VmRSS`, which lags by a few pages a core.
pub fn parse_rss_kib(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup.lines().find_map(|l| l.strip_prefix("Rss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The processes `roots` and all below them.
pub fn tree(roots: &[u32], parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let below = parents.iter().filter(|&(pid, p)| *p == parent && !found.contains(pid));
        let below: Vec<u32> = below.map(|(&pid, _)| pid).collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// CPU time that `roots` and everything below them have used so far, as the kernel has accounted it.
pub fn tree_cpu(roots: &[u32]) -> Cpu {
    let stats: BTreeMap<u32, ProcessStat> =
        process_ids().filter_map(|pid| Some((pid, parse_process_stat(&read_of(pid, "stat")?)?))).collect();
    let parents = stats.iter().map(|(&pid, stat)| (pid, stat.parent)).collect();
    let mut cpu = Cpu::default();
    for stat in tree(roots, &parents).iter().filter_map(|pid| stats.get(pid)) {
        cpu.user += seconds(stat.user);
        cpu.system += seconds(stat.system);
    }
    cpu
}

/// Resident KiB of `roots` and everything below them.
pub fn tree_rss_kib(roots: &[u32]) -> u64 {
    let parents = process_ids()
        .filter_map(|pid| Some((pid, parse_process_stat(&read_of(pid, "stat")?)?.parent)))
        .collect();
    tree(roots, &parents).iter().filter_map(|&pid| parse_rss_kib(&read_of(pid, "smaps_rollup")?)).sum()
}

/// The machine's counters; `None` outside Linux.
pub fn machine() -> Option<MachineStat> {
    parse_machine_stat(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Clock ticks as seconds.
pub fn seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "ticks since boot stay far below 2^52")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    seconds
}

/// A process may end between listing and reading, so a failure to read is no error.
fn read_of(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

fn process_ids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_process_may_look_like_fields() {
        let line = "42 (a) 1 (b) S 7 42 42 0 -1 4194560 900 0 0 0 130 250 3 4 20 0 1 0 55 1000 200 18446744073709551615";
        let stat = parse_process_stat(line);
        assert_eq!(stat, Some(ProcessStat { parent: 7, user: 133, system: 254 }));
        assert_eq!(parse_process_stat("42 (cut off) S 7 42"), None);
    }

    #[test]
    fn busy_is_all_but_idle_waiting_and_stolen_time() {
        let text = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(parse_machine_stat(text), Some(MachineStat { busy: 163, steal: 8 }));
        assert_eq!(parse_machine_stat("intr 1 2 3"), None);
    }

    #[test]
    fn resident_memory_is_taken_from_its_own_line() {
        let text = "00400000-7fff r--p 0 00:00 0 [rollup]\nRss:               10240 kB\nPss:                 512 kB\n";
        assert_eq!(parse_rss_kib(text), Some(10240));
        assert_eq!(parse_rss_kib("Pss: 512 kB\n"), None);
    }

    #[test]
    fn a_tree_holds_grandchildren_once_and_nobody_else() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]);
        assert_eq!(tree(&[2, 3], &parents), [2, 3, 4]);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let me = std::process::id();
        assert!(tree_rss_kib(&[me]) > 100);
        let started = tree_cpu(&[me]);
        let mut sum = 0_u64;
        while tree_cpu(&[me]).since(started).total() < 0.03 {
            sum = sum.wrapping_add((0..100_000).map(std::hint::black_box).sum::<u64>());
        }
        assert_ne!(sum, 1, "the work must not be optimised away");
    }
}
