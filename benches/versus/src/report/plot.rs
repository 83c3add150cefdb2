//! A picture for each workload.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{prelude::*, style::text_anchor};

use crate::{
    metric::Metric,
    sample::{Column, OURS, Table},
};

/// Draws a bar for each stack and figure: the median, the quartiles, and a dot for each round.
pub fn write(table: &Table, path: &Path) -> Result<()> {
    let metrics: Vec<Metric> = table
        .metrics()
        .into_iter()
        .filter(|metric| metric.more_is_better().is_some())
        .collect();
    let rows = metrics.len().div_ceil(PER_ROW);
    let height = TITLE + (PANEL + ROW * table.columns.len() as u32) * rows as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw(&root, table, &metrics, rows).map_err(|error| anyhow!("{}: {error}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    root: &Area<'_>,
    table: &Table,
    metrics: &[Metric],
    rows: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let rest = root.titled(&table.scenario, (FONT, 22))?;
    for (panel, metric) in rest.split_evenly((rows, PER_ROW)).iter().zip(metrics) {
        draw_panel(panel, table, *metric)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    panel: &Area<'_>,
    table: &Table,
    metric: Metric,
) -> Result<(), Box<dyn std::error::Error>> {
    let highest = table
        .columns
        .iter()
        .flat_map(|column| column.all(metric))
        .fold(0.0, f64::max);
    let better = match metric.more_is_better() {
        Some(true) => "more is better",
        _ => "less is better",
    };
    let count = table.columns.len();
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{}, {better}", metric.label()), (FONT, 16))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(100)
        .build_cartesian_2d(
            0.0..(highest * 1.05).max(f64::MIN_POSITIVE),
            0.0..count as f64,
        )?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(5)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .label_style((FONT, 14))
        .draw()?;
    for (index, column) in table.columns.iter().enumerate() {
        // The first stack is on top.
        let middle = (count - index) as f64 - 0.5;
        draw_bar(&mut chart, column, metric, middle)?;
        let (x, y) = chart.backend_coord(&(0.0, middle));
        let style = (FONT, 15).into_text_style(panel).pos(text_anchor::Pos::new(
            text_anchor::HPos::Right,
            text_anchor::VPos::Center,
        ));
        let (left, top) = panel.get_base_pixel();
        panel.draw_text(&column.label, &style, (x - left - 6, y - top))?;
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_bar(
    chart: &mut Chart<'_, '_>,
    column: &Column,
    metric: Metric,
    middle: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(spread) = column.values(metric) else {
        return Ok(());
    };
    let color = if column.label.starts_with(OURS) {
        BLUE
    } else {
        BLACK
    };
    let (low, high) = (middle - 0.28, middle + 0.28);
    chart.draw_series([
        Rectangle::new(
            [(0.0, low), (spread.median, high)],
            color.mix(0.25).filled(),
        ),
        Rectangle::new(
            [(spread.low, low), (spread.high, high)],
            color.mix(0.35).filled(),
        ),
    ])?;
    let dots = column
        .all(metric)
        .map(|value| Circle::new((value, middle), 2, color.mix(0.8).filled()));
    chart.draw_series(dots)?;
    Ok(())
}

const FONT: &str = "sans-serif";
const WIDTH: u32 = 960;
const PER_ROW: usize = 3;
const TITLE: u32 = 40;
/// The margin around the bars of a panel, and the height of a bar.
const PANEL: u32 = 80;
const ROW: u32 = 22;
