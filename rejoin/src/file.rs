//! The file of the configuration, read and written by a thread: the Swarm's task does not wait for
//! the disk, and needs no particular runtime.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use futures::{FutureExt, channel::oneshot};
use web_time::Instant;

use crate::{
    clock,
    error::{LoadError, SaveError},
    snapshot::{Snapshot, remove_leftovers},
};

/// How long the drop of a behaviour waits for a write that is under way: a disk that hangs must not
/// hang the application.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    interval: Duration,
    /// At most one thread at a time. Nothing is written before the file has been read.
    job: Job,
    /// The file has been read, or has nothing that could be. Otherwise it is not replaced: a disk
    /// or a permission may have failed for a moment.
    known: bool,
    /// Is disconnected when the thread that writes has ended. Dropping this waits for it, so that
    /// an older list does not replace one that is saved after that.
    writer: Option<mpsc::Receiver<Infallible>>,
    /// When the file was last written, or was tried to.
    written: Option<Instant>,
    /// The user wants it to be written at once.
    asked: bool,
    /// There is something to write.
    dirty: bool,
}

#[derive(Debug)]
enum Job {
    Unread,
    Load(oneshot::Receiver<Result<Snapshot, LoadError>>),
    Save(oneshot::Receiver<Result<usize, SaveError>>),
    None,
}

/// What a thread has done.
#[derive(Debug)]
pub(crate) enum Done {
    Loaded(Result<Snapshot, LoadError>),
    /// With the number of peers.
    Saved(Result<usize, SaveError>),
}

impl SnapshotFile {
    pub(crate) fn new(path: PathBuf, interval: Duration) -> Self {
        Self {
            path,
            interval,
            job: Job::Unread,
            known: false,
            writer: None,
            written: None,
            asked: false,
            dirty: false,
        }
    }

    /// Whether it is being read for the first time.
    pub(crate) fn is_loading(&self) -> bool {
        self.written.is_none() && matches!(self.job, Job::Unread | Job::Load(_))
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    pub(crate) fn change(&mut self) {
        self.dirty = true;
    }

    /// When to write, if there is a reason and the file is not in use.
    pub(crate) fn next_write(&self, now: Instant) -> Option<Instant> {
        match self.job {
            Job::None if self.asked => Some(now),
            Job::None if self.dirty => Some(self.written.map_or(now, |at| at + self.interval)),
            _ => None,
        }
    }

    /// Writes `snapshot`, or reads the file first if it is not known.
    pub(crate) fn write(&mut self, snapshot: Snapshot, now: Instant) {
        if !self.known {
            self.job = Job::Load(self.load());
            return;
        }
        self.asked = false;
        self.dirty = false;
        self.written = Some(now);
        let (running, writer) = mpsc::sync_channel(0);
        self.writer = Some(writer);
        self.job = Job::Save(run(&self.path, SaveError::Thread, move |path| {
            let saved = snapshot.save(path).map(|()| snapshot.peers().len());
            drop(running);
            saved
        }));
    }

    /// Begins to read the file if that has not been done, and tells what a thread has done.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Done> {
        if let Job::Unread = self.job {
            self.job = Job::Load(self.load());
        }
        let done = match &mut self.job {
            Job::Load(job) => {
                let result = ready!(job.poll_unpin(cx));
                let result = result.unwrap_or_else(|_| Err(LoadError::Thread(gone())));
                self.loaded(result, now)
            }
            Job::Save(job) => {
                let result = ready!(job.poll_unpin(cx));
                let result = result.unwrap_or_else(|_| Err(SaveError::Thread(gone())));
                // What was not written has still to be.
                self.dirty |= result.is_err();
                Done::Saved(result)
            }
            Job::Unread | Job::None => return Poll::Pending,
        };
        self.job = Job::None;
        Poll::Ready(done)
    }
}

impl SnapshotFile {
    fn load(&self) -> oneshot::Receiver<Result<Snapshot, LoadError>> {
        run(&self.path, LoadError::Thread, |path| {
            remove_leftovers(path, clock::unix_seconds());
            Snapshot::load(path)
        })
    }

    fn loaded(&mut self, result: Result<Snapshot, LoadError>, now: Instant) -> Done {
        match result {
            Err(error) if error.may_pass() => {
                // It is read again when it would be written, at the latest after the interval.
                self.dirty = true;
                if self.written.replace(now).is_none() {
                    return Done::Loaded(Err(error));
                }
                self.asked = false;
                Done::Saved(Err(SaveError::Unread(error)))
            }
            result => {
                self.known = true;
                Done::Loaded(result)
            }
        }
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // There is nothing to receive.
            let _ = writer.recv_timeout(LONGEST_WAIT);
        }
    }
}

/// Runs `work` in a thread, of which there is one a minute: a pool would not pay.
fn run<T, E>(
    path: &Path,
    no_thread: fn(io::Error) -> E,
    work: impl FnOnce(&Path) -> Result<T, E> + Send + 'static,
) -> oneshot::Receiver<Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let path = path.to_owned();
    let thread = thread::Builder::new().name("libp2p-rejoin".into());
    // Nobody waits any more if the behaviour is gone.
    let spawned = thread.spawn(move || drop(sender.send(work(&path))));
    if let Err(error) = spawned {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Err(no_thread(error)));
        return receiver;
    }
    receiver
}

fn gone() -> io::Error {
    io::Error::other("the thread has panicked")
}
