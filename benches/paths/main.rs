//! Our transport and the official one on difficult paths and hosts: the figures of docs/paths.md.
//!
//!     cargo bench --bench paths              # everything
//!     cargo bench --bench paths -- scenes    # or forwarder
//!
//! It compares and asserts nothing: docs/paths.md names the test that holds each row.

#![allow(clippy::unwrap_used, reason = "a measurement panics where it fails")]
#![allow(clippy::disallowed_methods, reason = "it measures with the clock")]

#[cfg(target_os = "linux")]
mod forwarder;
#[cfg(target_os = "linux")]
mod scenes;
#[cfg(target_os = "linux")]
#[path = "../../tests/support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
fn main() -> Result<(), String> {
    // Cargo adds an option of its own.
    let part = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    match part.as_deref() {
        None => scenes::compare().and_then(|()| forwarder::compare()),
        Some("scenes") => scenes::compare(),
        Some("forwarder") => forwarder::compare(),
        Some(other) => Err(format!("{other}: neither scenes nor forwarder")),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the paths are network namespaces, which only Linux has");
}
