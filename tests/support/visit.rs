//! Threads in network namespaces: a socket belongs to the namespace of the thread that opens it.

use std::{
    fs::File,
    os::fd::AsFd,
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::scene::{Place, Scene};

/// Runs this on a thread at a place, or returns why that is not possible.
pub(crate) fn run_at<T: Send + 'static>(
    scene: &Scene,
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    outcome(visit(&scene.enter(place), work)?)
}

/// Runs this on a thread in the namespace that these words enter. The thread returns an error if it
/// cannot enter.
pub(crate) fn visit<T: Send + 'static>(
    enter: &[String],
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Result<T, String>>, String> {
    // Uses the path in the arguments for `nsenter`.
    let path = enter.iter().find_map(|word| word.strip_prefix("--net="));
    let namespace = File::open(path.unwrap()).map_err(|error| error.to_string())?;
    Ok(thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).map_err(|error| error.to_string())?;
        Ok(work())
    }))
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
