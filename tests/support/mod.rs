//! Shared by the integration tests.

use libp2p_quinn::CertificateError;

#[allow(dead_code, unused_imports, reason = "each test uses a part of it")]
pub(crate) mod certificates;
