//! Plots of what was left after each slice.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::{churn::settled, sample::Sample, trend::Trend};

/// Draws a panel for each figure: a dot for each slice, and the trend of the second half.
pub fn churn(samples: &[Sample], path: &Path) -> Result<()> {
    draw(samples, path).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// The figure of a panel.
type Of = fn(&Sample) -> f64;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(samples: &[Sample], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels: [(&str, Of); 5] = [
        ("allocated, MiB", |sample| megabytes(sample.live_bytes)),
        ("resident, MiB", |sample| megabytes(sample.resident_bytes)),
        ("entries in the registry", |sample| sample.entries as f64),
        ("tasks", |sample| sample.tasks as f64),
        ("descriptors", |sample| sample.descriptors as f64),
    ];
    let areas = root.split_evenly((panels.len().div_ceil(PER_ROW), PER_ROW));
    for (area, (caption, of)) in areas.iter().zip(panels) {
        let points: Vec<_> = samples
            .iter()
            .map(|sample| (sample.connections as f64, of(sample)))
            .collect();
        draw_panel(area, caption, &points)?;
    }
    root.present()?;
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn draw_panel(
    area: &Area<'_>,
    caption: &str,
    points: &[(f64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let last = points.last().map_or(1.0, |point| point.0).max(1.0);
    let highest = points.iter().map(|point| point.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(48)
        // The axis begins at zero, so that a line that looks flat is flat.
        .build_cartesian_2d(0.0..last * 1.02, 0.0..highest * 1.15)?;
    chart
        .configure_mesh()
        .x_labels(3)
        .y_labels(5)
        .x_label_formatter(&|connections| connections.to_string())
        .y_label_formatter(&|value| value.to_string())
        .x_desc("connections so far")
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .label_style((FONT, 13))
        .draw()?;
    let settled = settled(points);
    if let (Some(trend), Some(first)) = (Trend::of(settled), settled.first()) {
        let ends = [first.0, last].map(|x| (x, trend.at(x)));
        chart.draw_series(LineSeries::new(ends, RED.stroke_width(2)))?;
    }
    chart.draw_series(
        points
            .iter()
            .map(|&point| Circle::new(point, 3, BLUE.mix(0.7).filled())),
    )?;
    Ok(())
}

const FONT: &str = "sans-serif";
const WIDTH: u32 = 960;
const HEIGHT: u32 = 560;
const PER_ROW: usize = 3;
