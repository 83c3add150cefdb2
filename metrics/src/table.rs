//! Tables of metrics: for each, its name, and the fields of the statistics that are its values.

use std::{fmt, time::Duration};

use libp2p_quinn::Stats;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

/// A counter or a gauge.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: MetricType,
    pub(crate) unit: Option<Unit>,
    pub(crate) series: &'static [Series],
}

/// One of the values of a metric.
pub(crate) struct Series {
    /// The path of the field in [`Stats`].
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests need the path"))]
    pub(crate) field: &'static str,
    pub(crate) labels: &'static [(&'static str, &'static str)],
    pub(crate) value: fn(&Stats) -> Value,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Count(u64),
    Seconds(f64),
}

impl Metric {
    pub(crate) fn encode(&self, stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        for series in self.series {
            let value = (series.value)(stats);
            if series.labels.is_empty() {
                value.encode(self.kind, &mut metric)?;
            } else {
                value.encode(self.kind, &mut metric.encode_family(&series.labels)?)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(self, kind: MetricType, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (kind, self) {
            (MetricType::Counter, Self::Count(count)) => counter(encoder, count),
            (MetricType::Counter, Self::Seconds(seconds)) => {
                encoder.encode_counter(&seconds, NO_EXEMPLAR)
            }
            (_, Self::Count(count)) => encoder.encode_gauge(&count),
            (_, Self::Seconds(seconds)) => encoder.encode_gauge(&seconds),
        }
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<Duration> for Value {
    fn from(duration: Duration) -> Self {
        Self::Seconds(duration.as_secs_f64())
    }
}

pub(crate) fn counter(encoder: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    encoder.encode_counter(&count, NO_EXEMPLAR)
}

/// Encodes a gauge with one value for each set of labels.
pub(crate) fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Encodes a gauge without labels.
pub(crate) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    value: u64,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, unit, MetricType::Gauge)?
        .encode_gauge(&value)
}

const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], u64>> = None;

/// Writes a table: `KIND "name" in UNIT: "help" { FIELD [LABEL = "value", …]; … }`. Unit and labels
/// may be left out.
macro_rules! table {
    (@unit) => { None };
    (@unit $unit:ident) => { Some(prometheus_client::registry::Unit::$unit) };
    ($(
        $kind:ident $name:literal $(in $unit:ident)? : $help:literal {
            $($part:ident $(. $field:ident)+ $([$($label:ident = $value:literal),+])? ;)+
        }
    )*) => {
        &[$($crate::table::Metric {
            name: $name,
            help: $help,
            kind: prometheus_client::metrics::MetricType::$kind,
            unit: $crate::table::table!(@unit $($unit)?),
            series: &[$($crate::table::Series {
                field: concat!(stringify!($part) $(, ".", stringify!($field))+),
                labels: &[$($((stringify!($label), $value)),+)?],
                value: |stats| stats.$part $(.$field)+ .into(),
            }),+],
        }),*]
    };
}
pub(crate) use table;
