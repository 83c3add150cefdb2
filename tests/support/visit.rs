//! Threads in network namespaces: a socket is where the thread is that opens it.

use std::{
    fs::File,
    os::fd::AsFd,
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::scene::{Place, Scene};

/// Runs this on a thread that is at a place, or says why no thread can get there.
pub(crate) fn run_at<T: Send + 'static>(
    scene: &Scene,
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    outcome(visit(&scene.enter(place), work)?)
}

/// Has this run on a thread in the namespace that these words enter; it ends with why it cannot get there.
pub(crate) fn visit<T: Send + 'static>(
    enter: &[String],
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Result<T, String>>, String> {
    // As `nsenter` is told.
    let path = enter.iter().find_map(|word| word.strip_prefix("--net="));
    let namespace = File::open(path.unwrap()).map_err(|error| error.to_string())?;
    Ok(thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).map_err(|error| error.to_string())?;
        Ok(work())
    }))
}

/// How the thread has ended.
pub(crate) fn outcome<T>(thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs this on a runtime of this thread alone.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
