//! Samples, what is said of them, and what they should be.

use std::fmt::Write;

use serde::Serialize;

/// What a sample counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    GigabitsPerSecond,
    Ratio,
    PerSecond,
    Mebibytes,
    Count,
}

impl Unit {
    fn short(self) -> &'static str {
        match self {
            Self::Seconds => " s",
            Self::Milliseconds => " ms",
            Self::GigabitsPerSecond => " Gbit/s",
            Self::Ratio | Self::Count => "",
            Self::PerSecond => " /s",
            Self::Mebibytes => " MiB",
        }
    }
}

/// Something that was measured a number of times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figure {
    name: String,
    wanted: String,
    unit: Unit,
    runs: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    min: f64,
    max: f64,
    samples: Vec<f64>,
}

impl Figure {
    pub(super) fn new(name: &str, wanted: &str, unit: Unit, samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share| percentile(&sorted, share);
        Self {
            name: name.to_owned(),
            wanted: wanted.to_owned(),
            unit,
            runs: sorted.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            min: at(0),
            max: at(100),
            samples,
        }
    }
}

/// The smallest sample that `share` percent of all are not above (nearest rank).
pub(super) fn percentile(sorted: &[f64], share: usize) -> f64 {
    let rank = (sorted.len() * share).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A table.
pub(super) fn markdown(figures: &[Figure]) -> String {
    let mut text = "| figure | wanted | runs | min | p50 | p90 | p99 | max |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for figure in figures {
        let unit = figure.unit.short();
        let value = |value: f64| format!("{value:.2}{unit}");
        let values = [figure.min, figure.p50, figure.p90, figure.p99, figure.max]
            .map(value)
            .join(" | ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {values} |",
            figure.name, figure.wanted, figure.runs
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let figure = Figure::new("x", "", Unit::Milliseconds, samples);
        let all = [figure.min, figure.p50, figure.p90, figure.p99, figure.max];
        assert_eq!(all, [1.0, 100.0, 180.0, 198.0, 200.0]);
        let one = Figure::new("x", "<= 1", Unit::Seconds, vec![0.5]);
        assert_eq!((one.p50, one.p99), (0.5, 0.5));
        assert!(markdown(&[one]).contains("| x | <= 1 | 1 | 0.50 s |"));
    }
}
