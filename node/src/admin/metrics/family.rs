//! Metrics as plain values, before anybody spells them.

/// One metric with all its samples.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Family {
    /// Without the prefix, and without `_total`.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: Samples,
}

/// Labels, and their values.
pub(super) type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Samples {
    /// Only grows while the node lives.
    Counters(Vec<(Labels, u64)>),
    /// The same, in fractions: seconds.
    Seconds(Vec<(Labels, f64)>),
    /// Goes up and down.
    Gauges(Vec<(Labels, f64)>),
    /// How many were how long.
    Histograms(Vec<(Labels, Histogram)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    /// In seconds.
    pub(super) sum: f64,
    /// Upper bounds in seconds, the last one infinite, each with what is in it and in none before.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Family {
    /// A counter without labels.
    pub(super) fn count(name: &'static str, help: &'static str, count: u64) -> Self {
        Self { name, help, samples: Samples::Counters(vec![(Labels::new(), count)]) }
    }

    /// Counters by one label.
    pub(super) fn counts<L: ToString>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        counts: impl IntoIterator<Item = (L, u64)>,
    ) -> Self {
        let samples = counts.into_iter().map(|(value, count)| (vec![(label, value.to_string())], count));
        Self { name, help, samples: Samples::Counters(samples.collect()) }
    }

    /// A gauge without labels.
    pub(super) fn gauge(name: &'static str, help: &'static str, value: impl Into<f64>) -> Self {
        Self { name, help, samples: Samples::Gauges(vec![(Labels::new(), value.into())]) }
    }

    /// What is in use of something bounded, and its bound: two gauges, each with its name and its words.
    pub(super) fn bounded(
        [used, limit]: [(&'static str, &'static str); 2],
        samples: impl IntoIterator<Item = (Labels, f64, f64)>,
    ) -> [Self; 2] {
        let (now, most): (Vec<_>, Vec<_>) =
            samples.into_iter().map(|(labels, now, most)| ((labels.clone(), now), (labels, most))).unzip();
        [Self::gauges(used.0, used.1, now), Self::gauges(limit.0, limit.1, most)]
    }

    /// Gauges with any labels.
    pub(super) fn gauges(
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        Self { name, help, samples: Samples::Gauges(samples.into_iter().collect()) }
    }
}
