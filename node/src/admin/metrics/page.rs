//! The page: the only file that names prometheus-client, which knows how OpenMetrics spells names, labels and numbers.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::family::{Family, Labels, Samples};

/// All families as text.
///
/// # Errors
/// Never with names and labels as they are here.
pub(super) fn page(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("meridian");
    registry.register_collector(Box::new(Once(families)));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Once(Vec<Family>);

impl Collector for Once {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, samples } in &self.0 {
            let kind = match samples {
                Samples::Counters(_) | Samples::Seconds(_) => MetricType::Counter,
                Samples::Gauges(_) => MetricType::Gauge,
                Samples::Histograms(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            match samples {
                Samples::Counters(samples) => {
                    for (labels, count) in samples {
                        one(&mut family, labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
                    }
                }
                Samples::Seconds(samples) => {
                    for (labels, seconds) in samples {
                        one(&mut family, labels)?.encode_counter::<NoLabelSet, _, u64>(seconds, None)?;
                    }
                }
                Samples::Gauges(samples) => {
                    for (labels, value) in samples {
                        one(&mut family, labels)?.encode_gauge(value)?;
                    }
                }
                Samples::Histograms(samples) => {
                    for (labels, of) in samples {
                        let count = of.buckets.iter().map(|(_, count)| count).sum();
                        let buckets = &of.buckets;
                        one(&mut family, labels)?
                            .encode_histogram::<NoLabelSet>(of.sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The encoder of one sample.
fn one<'e>(family: &'e mut MetricEncoder<'_>, labels: &'e Labels) -> Result<MetricEncoder<'e>, fmt::Error> {
    family.encode_family(labels)
}

#[cfg(test)]
mod tests {
    use super::super::family::Histogram;
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let histogram = Histogram { sum: 1.5, buckets: vec![(0.001, 2), (f64::INFINITY, 1)] };
        let labels = vec![("service", "a\"b\\\n".to_owned())];
        let families = vec![
            Family::count("retries", "Further tries", 3),
            Family::gauge("in_flight_requests", "Now", 2.0),
            Family {
                name: "request_duration_seconds",
                help: "How long",
                samples: Samples::Histograms(vec![(labels, histogram)]),
            },
        ];
        let page = page(families).unwrap();
        for line in [
            "# TYPE meridian_retries counter",
            "meridian_retries_total{} 3",
            "meridian_in_flight_requests{} 2.0",
            "meridian_request_duration_seconds_bucket{le=\"0.001\",service=\"a\\\"b\\\\\\n\"} 2",
            "meridian_request_duration_seconds_bucket{le=\"+Inf\",service=\"a\\\"b\\\\\\n\"} 3",
            "meridian_request_duration_seconds_count{service=\"a\\\"b\\\\\\n\"} 3",
            "# EOF",
        ] {
            assert!(page.lines().any(|is| is == line), "{line:?} is not in\n{page}");
        }
    }
}
