//! Metrics for Prometheus, in the OpenMetrics text format, on an HTTP port of their own.
//!
//! Nothing is counted here: reactors, target and devices count, a scrape reads. [`families`] is the one list of what there
//! is; the exposition and `docs/metrics.md` come from it.

mod docs;
mod families;
mod http;

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

pub use docs::reference;
pub use families::{LocalController, Snapshot};
pub use http::{CLIENTS_MAX, serve};

use families::{FAMILIES, Family, Labels, Reading, Shape, UnitOf};

/// Where a scrape reads.
pub trait Source: Send + Sync + 'static {
    /// The counters now.
    fn snapshot(&self) -> Snapshot;
}

/// The text of one scrape.
///
/// # Errors
/// Never for a `String`; the encoder's interface says so.
pub fn expose(source: Arc<dyn Source>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(source)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(Arc<dyn Source>);

impl std::fmt::Debug for Scrape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let snapshot = self.0.snapshot();
        for family in FAMILIES {
            let mut readings = Vec::new();
            (family.read)(&snapshot, &mut readings);
            encode_family(&mut encoder, family, &readings)?;
        }
        Ok(())
    }
}

fn encode_family(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    readings: &[(Labels, Reading)],
) -> Result<(), std::fmt::Error> {
    let shape = match family.shape {
        Shape::Counter => MetricType::Counter,
        Shape::Gauge => MetricType::Gauge,
        Shape::Histogram => MetricType::Histogram,
    };
    let unit = match family.unit {
        UnitOf::Count => None,
        UnitOf::Seconds => Some(Unit::Seconds),
        UnitOf::Bytes => Some(Unit::Bytes),
    };
    let mut metric = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), shape)?;
    for (values, reading) in readings {
        let labels: Vec<(&str, &str)> =
            family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let labels = labels.as_slice();
        encode_reading(metric.encode_family(&labels)?, family.shape, reading)?;
    }
    Ok(())
}

fn encode_reading(
    mut metric: MetricEncoder<'_>,
    shape: Shape,
    reading: &Reading,
) -> Result<(), std::fmt::Error> {
    type NoLabels = [(&'static str, &'static str); 0];
    match (shape, reading) {
        (Shape::Gauge, Reading::Number(value)) => {
            metric.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))
        }
        (Shape::Gauge, Reading::Seconds(value)) => metric.encode_gauge(value),
        (_, Reading::Number(value)) => metric.encode_counter::<NoLabels, u64, u64>(value, None),
        (_, Reading::Seconds(value)) => metric.encode_counter::<NoLabels, f64, u64>(value, None),
        (_, Reading::Histogram { sum, count, buckets }) => {
            metric.encode_histogram::<NoLabels>(*sum, *count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{ReactorStats, TargetStats};
    use reactors::ReactorSnapshot;

    struct Fixed;

    impl Source for Fixed {
        fn snapshot(&self) -> Snapshot {
            let busy = ReactorSnapshot { busy_ns: 1_500_000_000, turns: 7, ..ReactorSnapshot::default() };
            let served = ReactorStats { io_queues: 3, ..ReactorStats::default() };
            let target = TargetStats { reactors: vec![served], ..TargetStats::default() };
            Snapshot { reactors: vec![(4, busy)], target, ..Snapshot::default() }
        }
    }

    #[test]
    fn a_scrape_has_names_units_labels_and_values() {
        let text = expose(Arc::new(Fixed)).expect("text");
        for line in [
            "# TYPE pollux_reactor_busy_seconds counter",
            "# UNIT pollux_reactor_busy_seconds seconds",
            "pollux_reactor_busy_seconds_total{core=\"4\"} 1.5",
            "pollux_reactor_turns_total{core=\"4\"} 7",
            "pollux_reactor_queues{core=\"4\",kind=\"io\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn names_are_unique_and_have_the_prefix() {
        for (index, family) in FAMILIES.iter().enumerate() {
            assert!(family.name.starts_with("pollux_"));
            assert!(FAMILIES[..index].iter().all(|other| other.name != family.name));
        }
    }
}
