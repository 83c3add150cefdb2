//! The addresses of this host: read from the operating system at every change, and periodically.

mod notifications;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod proc_net;
mod truth;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    channel::oneshot,
    future::{Either, select},
};

use self::notifications::Notifications;
use super::task::{self, Runtime};
use crate::sync::{AtomicWaker, Mutex, lock};

/// Minimum time between two readings, so that a network that changes constantly costs at most four
/// readings a second. One takes half a millisecond with a thousand addresses, and ten with ten
/// thousand.
const PAUSE: Duration = Duration::from_millis(250);

/// Time between two readings when the system reports no change. A reading corrects what a lost
/// notification left wrong.
const INTERVAL: Duration = Duration::from_secs(60);

/// Time between two readings when the system reports no changes, or the addresses cannot be read. A
/// peer that dials an address that is gone, or does not know a new one, then waits no longer than
/// for a handshake timeout.
const SHORT_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of this host's addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostAddresses {
    /// The addresses that other hosts may dial, from the last successful reading.
    pub(crate) ips: Arc<BTreeSet<IpAddr>>,
    /// The reason why the system does not report changes; `None` if it does.
    pub(crate) polled: Option<Arc<io::Error>>,
    /// The reason why the addresses could not be read; `None` if they could.
    pub(crate) unread: Option<Arc<io::Error>>,
}

/// Follows the addresses of this host until it is dropped.
///
/// A task waits for changes, and reads the addresses on a thread that may block: the kernel holds a
/// lock while another process changes its interfaces, which may take seconds.
pub(crate) struct AddressWatch {
    board: Arc<Board>,
    /// The version that was seen last.
    seen: u64,
    /// Ends the task when it is dropped.
    _task: oneshot::Sender<()>,
}

impl AddressWatch {
    pub(crate) fn start(runtime: &Runtime) -> Self {
        let board = Arc::new(Board::default());
        let (sender, receiver) = oneshot::channel();
        let followed = Followed(Arc::clone(&board));
        runtime.spawn(async move {
            let followed = followed;
            // The receiver resolves only when the watch is dropped.
            select(pin!(follow(&followed.0)), receiver).await;
        });
        Self {
            board,
            seen: 0,
            _task: sender,
        }
    }

    /// Ready when something has changed since the last call.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<HostAddresses> {
        // Registered before checking, so that no change is missed in between.
        self.board.watcher.register(cx.waker());
        let notes = lock(&self.board.notes);
        if notes.version == self.seen {
            return Poll::Pending;
        }
        self.seen = notes.version;
        Poll::Ready(notes.addresses.clone())
    }

    /// The addresses as far as known.
    pub(crate) fn latest(&self) -> HostAddresses {
        lock(&self.board.notes).addresses.clone()
    }

    /// Whether the runtime on which it was started is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.board.has_ended.load(Ordering::Relaxed)
    }
}

/// What the task and the watch share.
#[derive(Default)]
struct Board {
    notes: Mutex<Notes>,
    watcher: AtomicWaker,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Notes {
    version: u64,
    addresses: HostAddresses,
}

impl Board {
    /// Stores a reading, and wakes the watch if it changes anything.
    fn write(&self, read: io::Result<BTreeSet<IpAddr>>, polled: Option<io::Error>) {
        let is_new = lock(&self.notes).write(read, polled);
        if is_new && let Some(watcher) = self.watcher.take() {
            // Wakers are application code; a panic must not end the task.
            let _ = catch_unwind(AssertUnwindSafe(|| watcher.wake()));
        }
    }
}

impl Notes {
    /// Keeps the old addresses if they could not be read. A different error of the same kind counts
    /// as no change.
    fn write(&mut self, read: io::Result<BTreeSet<IpAddr>>, polled: Option<io::Error>) -> bool {
        let HostAddresses {
            ips,
            polled: was_polled,
            unread: was_unread,
        } = &mut self.addresses;
        let (read, unread) = match read {
            Ok(read) => (read, None),
            Err(error) => (BTreeSet::clone(ips), Some(error)),
        };
        let is_new = read != **ips
            || polled.is_some() != was_polled.is_some()
            || unread.is_some() != was_unread.is_some();
        if is_new {
            *ips = Arc::new(read);
            *was_polled = polled.map(Arc::new);
            *was_unread = unread.map(Arc::new);
            self.version += 1;
        }
        is_new
    }
}

/// Marks the watch as ended when the task is dropped.
struct Followed(Arc<Board>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

async fn follow(board: &Board) {
    let mut notifications = None;
    loop {
        let mut polled = None;
        if notifications.is_none() {
            // Before reading, so that no change is missed in between.
            match Notifications::subscribe() {
                Ok(subscribed) => notifications = Some(subscribed),
                Err(error) => polled = Some(error),
            }
        }
        let read = task::unblocked(truth::read).await.and_then(|read| read);
        let interval = if notifications.is_some() && read.is_ok() {
            INTERVAL
        } else {
            SHORT_INTERVAL
        };
        board.write(read, polled);
        super::sleep(PAUSE).await;
        match &mut notifications {
            Some(subscribed) => {
                if wait(subscribed, interval).await.is_err() {
                    // The next iteration opens another one, or reports why there is none.
                    notifications = None;
                }
            }
            None => super::sleep(interval).await,
        }
    }
}

/// The zone of link-local addresses, if only one link that is up has such addresses.
pub(crate) async fn only_link() -> Option<u32> {
    task::unblocked(truth::only_link).await.ok()?
}

/// Returns when an address has changed, or the interval is over.
async fn wait(notifications: &mut Notifications, interval: Duration) -> io::Result<()> {
    match select(pin!(notifications.next()), pin!(super::sleep(interval))).await {
        Either::Left((notified, _)) => notified,
        Either::Right(((), _)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn ips(ips: &[&str]) -> BTreeSet<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn refusal() -> io::Error {
        io::ErrorKind::PermissionDenied.into()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut notes = Notes::default();
        assert!(notes.write(Ok(ips(&["192.0.2.1", "::1"])), None));
        assert!(!notes.write(Ok(ips(&["::1", "192.0.2.1"])), None));
        assert!(notes.write(Ok(ips(&["::1"])), None));
        assert_eq!((notes.version, &*notes.addresses.ips), (2, &ips(&["::1"])));
    }

    #[test]
    fn addresses_that_cannot_be_read_stay_and_it_is_told_once() {
        let mut notes = Notes::default();
        notes.write(Ok(ips(&["::1"])), None);
        assert!(notes.write(Err(refusal()), None));
        assert!(!notes.write(Err(refusal()), None));
        assert_eq!(*notes.addresses.ips, ips(&["::1"]));
        assert!(notes.addresses.unread.is_some());
        assert!(notes.write(Ok(ips(&["::1"])), Some(refusal())));
        assert!(notes.addresses.unread.is_none() && notes.addresses.polled.is_some());
        assert!(!notes.write(Ok(ips(&["::1"])), Some(refusal())));
        assert!(notes.write(Ok(ips(&["::1"])), None));
        assert!(notes.addresses.polled.is_none());
    }

    #[test]
    fn watch_has_ended_with_its_runtime_and_not_before() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let start = async { AddressWatch::start(&Runtime::current().unwrap()) };
        let mut watch = runtime.block_on(start);
        let read = runtime.block_on(poll_fn(|cx| watch.poll(cx)));
        assert!(read.ips.iter().any(IpAddr::is_loopback));
        assert!(!watch.has_ended());
        drop(runtime);
        assert!(watch.has_ended());
    }

    #[tokio::test]
    async fn task_ends_with_its_watch() {
        let mut watch = AddressWatch::start(&Runtime::current().unwrap());
        poll_fn(|cx| watch.poll(cx)).await;
        let board = Arc::clone(&watch.board);
        assert!(!board.has_ended.load(Ordering::Relaxed));
        drop(watch);
        while !board.has_ended.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}
