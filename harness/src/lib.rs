//! What the programs beside the library share: processes that exchange lines, hosts of their own,
//! what processes use, statistics, command lines, and how a program ends.

pub mod command;
pub mod command_line;
mod exit;
pub mod machine;
pub mod namespace;
pub mod process;
#[cfg(unix)]
pub mod resources;
pub mod scene;
pub mod statistics;

pub use exit::exit_code;
