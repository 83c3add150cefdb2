//! What the application is told.

use crate::error::{LoadError, SaveError};

/// What a [`Behaviour`](crate::Behaviour) tells the application. None of it asks for an answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The remembered peers are not enough, so bootstrap addresses are dialled as well. Comes once
    /// until the target is reached.
    Bootstrapping,
    /// The file has been read. Comes at most once, with no peers if there was no file.
    Loaded {
        /// How many peers are remembered now.
        peers: usize,
    },
    /// The file could not be used. The node joins by bootstrap addresses.
    ///
    /// With [`LoadError::Parse`], it writes another file at the next change, and keeps the unusable
    /// one beside it, as [`Snapshot::save`](crate::Snapshot::save) does. With the others, it reads
    /// the file again before it writes to it, and after the interval between two saves.
    LoadFailed(LoadError),
    /// The file has been written.
    Saved {
        /// How many peers were remembered.
        peers: usize,
    },
    /// The file could not be written. It is tried again after the interval between two saves.
    SaveFailed(SaveError),
    /// Enough peers are connected. Comes again when connections were lost and replaced.
    TargetReached {
        /// How many peers are connected that we have dialled, now or earlier.
        connected: usize,
    },
}
