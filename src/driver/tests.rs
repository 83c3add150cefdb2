//! A driver under the control of tests: all interleavings with its users, its requests, and its
//! timers.

#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod requests;
#[cfg(not(loom))]
mod timers;
mod world;
