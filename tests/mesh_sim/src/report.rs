//! What a run found.

use std::fmt;
use std::time::Duration;

/// Figures with their limits, and the promises that were broken.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    pub(crate) broken: Vec<String>,
    /// What each node came to believe, and when.
    pub(crate) log: String,
}

#[derive(Debug)]
struct Row {
    name: String,
    figure: f64,
    unit: &'static str,
    limit: Option<f64>,
}

impl Report {
    /// A figure that has no limit.
    pub(crate) fn tell(&mut self, name: impl Into<String>, figure: f64, unit: &'static str) {
        self.rows.push(Row { name: name.into(), figure, unit, limit: None });
    }

    /// A figure that may be at most `limit`.
    pub(crate) fn promise(&mut self, name: impl Into<String>, figure: f64, unit: &'static str, limit: f64) {
        let name = name.into();
        if figure > limit {
            self.broken.push(format!("{name}: {figure:.3} {unit} are more than {limit}"));
        }
        self.rows.push(Row { name, figure, unit, limit: Some(limit) });
    }

    /// Something that must be so.
    pub(crate) fn must(&mut self, holds: bool, broken: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(broken());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, figure, unit, limit } in &self.rows {
            let limit = limit.map(|limit| limit.to_string()).unwrap_or_default();
            writeln!(f, "{name}\t{figure:.3}\t{unit}\t{limit}")?;
        }
        Ok(())
    }
}

/// The value that so many hundredths of all do not exceed; zero when there are none.
pub(crate) fn percentile(values: &mut [Duration], hundredths: usize) -> Duration {
    values.sort_unstable();
    let at = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_the_least_that_covers_its_share() {
        let millis = |n: u64| Duration::from_millis(n);
        let mut hundred = (1..=100).rev().map(millis).collect::<Vec<_>>();
        assert_eq!(percentile(&mut hundred, 99), millis(99));
        assert_eq!(percentile(&mut hundred, 100), millis(100));
        assert_eq!(percentile(&mut [millis(7)], 99), millis(7));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }

    #[test]
    fn a_limit_that_is_exceeded_is_a_broken_promise() {
        let mut report = Report::default();
        report.promise("a", 1.0, "s", 1.0);
        assert!(report.broken.is_empty());
        report.promise("b", 1.1, "s", 1.0);
        assert_eq!(report.broken.len(), 1);
        assert_eq!(report.to_string(), "a\t1.000\ts\t1\nb\t1.100\ts\t1\n");
    }
}
