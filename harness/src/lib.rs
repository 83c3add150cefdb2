//! What the programs beside the library share: processes that exchange lines, what processes use,
//! statistics, and how a program ends.

mod exit;
pub mod machine;
pub mod process;
#[cfg(unix)]
pub mod resources;
pub mod statistics;

pub use exit::exit_code;
