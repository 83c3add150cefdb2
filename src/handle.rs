//! What the application keeps when the Swarm has taken the transport.

use std::{fmt, sync::Arc};

use crate::{driver::Core, stats::Stats};

/// Looks into a [`Transport`](crate::Transport) from outside; cheap to clone.
///
/// It keeps nothing alive: when the transport and its connections are gone, the figures stay as they were.
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
}

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The figures of now.
    ///
    /// Locks each connection for a moment; meant for every few seconds, not for every packet.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Starts all totals again from zero. What is counted as *now*, and what single connections count,
    /// stays.
    pub fn reset_stats(&self) {
        self.core.reset_stats();
    }

    #[cfg(feature = "nat")]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
