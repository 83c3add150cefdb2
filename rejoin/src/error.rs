//! The errors, one enum for each moment.

use std::{error::Error, io};

use thiserror::Error;

/// Why a text is not taken as a [`Snapshot`](crate::Snapshot).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is no JSON, not a whole one, or has other fields than a snapshot has.
    #[error("not a snapshot of peers")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// It is longer than any text that a snapshot has, so it was not parsed.
    #[error("more than {max_bytes} bytes")]
    TooLarge {
        /// The length of the longest text that is read.
        max_bytes: usize,
    },
    /// Its version is not known, so a later release may have written it.
    #[error("version {0} of the format is not known")]
    Version(u64),
}

/// Why a file was not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file has been read, but is no snapshot.
    #[error("cannot use the file of peers")]
    Parse(#[from] ParseError),
    /// The system refused to read the file.
    #[error("cannot read the file of peers")]
    Read(#[source] io::Error),
    /// The system gave no thread to read the file with.
    #[error("no thread for reading the file of peers")]
    Thread(#[source] io::Error),
}

/// Why a file was not written. The old file, if any, is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The file could not be read so far, so it is not replaced. It may have more peers than are
    /// remembered now.
    #[error("not replacing a file of peers that could not be read")]
    Unread(#[source] LoadError),
    /// The system gave no thread to write the file with.
    #[error("no thread for writing the file of peers")]
    Thread(#[source] io::Error),
    /// The system refused to write the file, as on a disk that is full or read-only.
    #[error("cannot write the file of peers")]
    Write(#[source] io::Error),
}

impl LoadError {
    /// There is no file, as at the first start.
    pub(crate) fn is_not_found(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound};
        matches!(self, Self::Read(error) if matches!(error.kind(), NotADirectory | NotFound))
    }

    /// The file may have peers, and may be read later.
    pub(crate) fn may_pass(&self) -> bool {
        !self.is_not_found() && !matches!(self, Self::Parse(_))
    }
}
