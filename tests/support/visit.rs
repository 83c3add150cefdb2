//! Threads in network namespaces.

use std::{
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use harness::{
    namespace::move_to,
    scene::{Place, Scene},
};

/// Runs this on a thread at a place, or returns why that is not possible.
pub(crate) fn run_at<T: Send + 'static>(
    scene: &Scene,
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    outcome(visit(scene.namespace(place).id(), work))
}

/// Runs this on a thread in the namespace of a process. The thread returns an error if it cannot
/// enter.
pub(crate) fn visit<T: Send + 'static>(
    process: u32,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<Result<T, String>> {
    thread::spawn(move || {
        move_to(process)?;
        Ok(work())
    })
}

/// The result of the thread.
pub(crate) fn outcome<T>(thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs this on a runtime of the current thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
