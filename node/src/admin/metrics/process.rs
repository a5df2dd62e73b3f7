//! What the system says of this process. What cannot be read is left out.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::family::{Family, Labels, Samples};

pub(super) fn families() -> Vec<Family> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let files = fs::read_dir("/proc/self/fd").map(|open| open.count()).ok();
    let mut families = of_stat(&stat, clock_ticks_per_second(), page_size() as u64);
    families.extend(files.map(|files| Family::gauge("process_open_fds", "Open files", files as f64)));
    families.extend(
        getrlimit(Resource::Nofile)
            .current
            .map(|most| Family::gauge("process_open_fds_limit", "Files that may be open", most as f64)),
    );
    families
}

/// proc_pid_stat(5): numbers follow the name, which ends with the last parenthesis.
fn of_stat(stat: &str, ticks: u64, page: u64) -> Vec<Family> {
    let numbers = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let field = |number: usize| -> Option<u64> { numbers.split(' ').nth(number - 3)?.parse().ok() };
    let mut families = Vec::new();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = (user + system) as f64 / ticks.max(1) as f64;
        families.push(Family {
            name: "process_cpu_seconds",
            help: "Time on a core, of user and system together",
            samples: Samples::Seconds(vec![(Labels::new(), seconds)]),
        });
    }
    families.extend(field(20).map(|threads| Family::gauge("process_threads", "Threads", threads as f64)));
    let resident = field(24).map(|pages| (pages * page) as f64);
    families
        .extend(resident.map(|bytes| Family::gauge("process_resident_memory_bytes", "Memory in use", bytes)));
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 100 1000000 321 18446744073709551615";
        let families = of_stat(stat, 100, 4096);
        assert_eq!(families[0].samples, Samples::Seconds(vec![(Labels::new(), 2.0)]));
        assert_eq!(families[1].samples, Samples::Gauges(vec![(Labels::new(), 9.0)]));
        assert_eq!(families[2].samples, Samples::Gauges(vec![(Labels::new(), 321.0 * 4096.0)]));
        assert!(of_stat("", 100, 4096).is_empty() && of_stat("nonsense) S", 100, 4096).is_empty());
    }

    #[test]
    fn this_process_is_read() {
        assert_eq!(families().len(), 5);
    }
}
