//! Tasks of applications: futures that are polled when they are woken, and alarms in virtual time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::{Future, poll_fn},
    mem,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use futures::future::{FutureExt, LocalBoxFuture};

/// The tasks of a network, in the order of their creation. Only woken tasks are polled, so that a
/// forgotten waker shows.
#[derive(Default)]
pub(crate) struct Tasks {
    running: BTreeMap<u64, Task>,
    begun: u64,
    woken: Arc<Woken>,
}

struct Task {
    future: LocalBoxFuture<'static, ()>,
    waker: Arc<TaskWaker>,
}

/// Tasks to poll, in the order in which they were woken.
#[derive(Default)]
struct Woken(Mutex<VecDeque<u64>>);

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Tasks {
    pub(crate) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let waker = Arc::new(TaskWaker {
            task: self.begun,
            queued: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        waker.wake_by_ref();
        let future = future.boxed_local();
        self.running.insert(self.begun, Task { future, waker });
        self.begun += 1;
    }

    /// The number of tasks that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Polls each woken task once. Returns `false` if there is none.
    pub(crate) fn run(&mut self) -> bool {
        let woken = mem::take(&mut *self.woken.0.lock().unwrap());
        let progress = !woken.is_empty();
        for number in woken {
            // A task that has ended may still be woken.
            let Some(task) = self.running.get_mut(&number) else {
                continue;
            };
            task.waker.queued.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&task.waker));
            if task
                .future
                .poll_unpin(&mut Context::from_waker(&waker))
                .is_ready()
            {
                self.running.remove(&number);
            }
        }
        progress
    }
}

/// A waker that notes that it was called.
#[derive(Debug, Default)]
pub(crate) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether it is set. It is not afterwards.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.0.lock().unwrap().push_back(self.task);
        }
    }
}

/// Wakes tasks at their times.
#[derive(Clone)]
pub(crate) struct Alarms(Rc<RefCell<Set>>);

struct Set {
    now: Instant,
    /// By time, then in the order of setting.
    wakers: BTreeMap<(Instant, u64), Waker>,
    set: u64,
}

impl Alarms {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Rc::new(RefCell::new(Set {
            now,
            wakers: BTreeMap::new(),
            set: 0,
        })))
    }

    /// Resolves after this much virtual time.
    pub(crate) fn after(&self, time: Duration) -> impl Future<Output = ()> + use<> {
        let alarms = Rc::clone(&self.0);
        let due = alarms.borrow().now + time;
        let mut is_set = false;
        poll_fn(move |cx| {
            let mut alarms = alarms.borrow_mut();
            if alarms.now >= due {
                return Poll::Ready(());
            }
            // Only the task that polls it first ever polls it.
            if !mem::replace(&mut is_set, true) {
                alarms.set += 1;
                let number = alarms.set;
                alarms.wakers.insert((due, number), cx.waker().clone());
            }
            Poll::Pending
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.borrow().now
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        let alarms = self.0.borrow();
        alarms.wakers.first_key_value().map(|(&(due, _), _)| due)
    }

    pub(crate) fn ring(&self, now: Instant) {
        let mut alarms = self.0.borrow_mut();
        alarms.now = now;
        while let Some(first) = alarms.wakers.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
    }
}
