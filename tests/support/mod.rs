//! Shared by the integration tests.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]

use libp2p_quinn::CertificateError;

#[cfg(target_os = "linux")]
pub(crate) mod cables;
#[cfg(target_os = "linux")]
pub(crate) mod capture;
pub(crate) mod certificates;
pub(crate) mod complaints;
pub(crate) mod example;
pub(crate) mod far;
pub(crate) mod forwarder;
#[cfg(target_os = "linux")]
pub(crate) mod home;
pub(crate) mod hostile_tls;
#[cfg(target_os = "linux")]
pub(crate) mod icmp;
pub(crate) mod node;
pub(crate) mod program;
pub(crate) mod relay;
pub(crate) mod required;
#[cfg(target_os = "linux")]
pub(crate) mod sandbox;
#[cfg(target_os = "linux")]
pub(crate) mod sockets;
pub(crate) mod streams;
#[cfg(target_os = "linux")]
pub(crate) mod stun_server;
pub(crate) mod swarm;
pub(crate) mod trace;
pub(crate) mod trap;
#[cfg(target_os = "linux")]
pub(crate) mod visit;
