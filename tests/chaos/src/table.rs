//! What came of each scenario, and what may come of it at most.

use std::fmt::Write;
use std::time::Duration;

/// What a scenario may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Failed requests.
    pub failed: u64,
    /// Until a node of the victim's region suspects it.
    pub near: Option<Duration>,
    /// Until all nodes do.
    pub far: Option<Duration>,
    /// Until users are no longer sent there.
    pub dns: Option<Duration>,
    /// From the end of the fault until everything is as before.
    pub healed: Duration,
    /// Sessions that changed their backend.
    pub moved: u64,
}

/// What it cost.
#[derive(Debug, Clone)]
pub struct Row {
    /// The scenario.
    pub what: &'static str,
    /// Requests that were answered.
    pub done: u64,
    /// Requests that were not.
    pub failed: u64,
    /// As in [`Limits`].
    pub near: Option<Duration>,
    /// As in [`Limits`].
    pub far: Option<Duration>,
    /// As in [`Limits`].
    pub dns: Option<Duration>,
    /// As in [`Limits`].
    pub healed: Option<Duration>,
    /// As in [`Limits`].
    pub moved: u64,
    /// Nodes that were held for dead though they were well: `ap-1 by eu-2`.
    pub falsely_dead: Vec<String>,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// What it may cost.
    pub limits: Limits,
}

impl Row {
    /// What exceeds its limit.
    pub fn excesses(&self) -> Vec<String> {
        let Self { what, limits, .. } = self;
        let mut excesses = Vec::new();
        for (name, value, limit) in
            [("failed requests", self.failed, limits.failed), ("sessions moved", self.moved, limits.moved)]
        {
            if value > limit {
                excesses
                    .push(format!("{what}: {value} {name}, {limit} allowed; {}", self.failures.join("; ")));
            }
        }
        for (name, value, limit) in [
            ("suspected in its region", self.near, limits.near),
            ("suspected everywhere", self.far, limits.far),
            ("out of DNS", self.dns, limits.dns),
            ("healed", self.healed, Some(limits.healed)),
        ] {
            if let Some(limit) = limit
                && value.is_none_or(|value| value > limit)
            {
                let value = value.map_or("never".to_owned(), |value| format!("after {value:.1?}"));
                excesses.push(format!("{what}: {name} {value}, {limit:.1?} allowed"));
            }
        }
        excesses.extend(self.falsely_dead.iter().map(|dead| format!("{what}: held for dead: {dead}")));
        excesses
    }
}

/// The table as people read it.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::from(
        "scenario                      answered  failed  suspected near / far   out of DNS   healed   moved\n",
    );
    let time =
        |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
    for row in rows {
        let suspected = format!("{} / {}", time(row.near), time(row.far));
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<30}{:>8}{:>8}  {:>20}{:>13}{:>9}{:>8}",
            row.what,
            row.done,
            row.failed,
            suspected,
            time(row.dns),
            time(row.healed),
            row.moved
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_is_named() {
        let second = Duration::from_secs(1);
        let limits =
            Limits { failed: 1, near: Some(second), far: None, dns: Some(second), healed: second, moved: 0 };
        let mut row = Row {
            what: "rain",
            done: 10,
            failed: 1,
            near: Some(second),
            far: None,
            dns: Some(second),
            healed: Some(second),
            moved: 0,
            falsely_dead: Vec::new(),
            failures: Vec::new(),
            limits,
        };
        assert_eq!(row.excesses(), Vec::<String>::new());
        row.failed = 2;
        row.dns = None;
        row.near = Some(2 * second);
        row.falsely_dead.push("eu-1 by us-1".into());
        assert_eq!(
            row.excesses(),
            [
                "rain: 2 failed requests, 1 allowed; ",
                "rain: suspected in its region after 2.0s, 1.0s allowed",
                "rain: out of DNS never, 1.0s allowed",
                "rain: held for dead: eu-1 by us-1",
            ]
        );
        assert!(render(&[row]).contains("2.0 s / -"));
    }
}
