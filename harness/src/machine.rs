//! The machine, and the date of what it has measured.

use std::fs;

use anyhow::Result;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The model of the CPU, if the kernel tells.
pub fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The date and the time, to the second.
pub fn now() -> Result<String> {
    Ok(OffsetDateTime::now_utc()
        .replace_nanosecond(0)?
        .format(&Rfc3339)?)
}
