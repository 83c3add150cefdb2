//! A driver under control: every interleaving with its users, and its timers.

#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod timers;
mod world;
