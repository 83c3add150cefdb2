//! A driver under the control of tests: all interleavings with its users, its mailbox, its
//! requests, and its timers.

#[cfg(not(loom))]
mod mailbox;
#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod requests;
#[cfg(not(loom))]
mod timers;
mod world;
