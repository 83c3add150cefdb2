//! Shared by the integration tests.

use libp2p_quinn::CertificateError;

#[allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]
pub(crate) mod certificates;
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]
pub(crate) mod node;
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]
pub(crate) mod relay;
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]
pub(crate) mod streams;
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part of it, and panics where it fails"
)]
pub(crate) mod swarm;
