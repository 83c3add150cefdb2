//! What is told of the measurements.

pub mod text;
