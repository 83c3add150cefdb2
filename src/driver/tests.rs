//! A driver under control: every interleaving with its users, what waits for it, and its timers.

#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod requests;
#[cfg(not(loom))]
mod timers;
mod world;
