//! Tasks of the runtime.

use tokio::runtime::Handle;

/// No tokio runtime is running where one was needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRuntime;

/// A tokio runtime with its I/O driver, to spawn on and to open sockets in.
#[derive(Clone, Debug)]
pub(crate) struct Runtime(Handle);

impl Runtime {
    /// The runtime that the caller runs on.
    pub(crate) fn current() -> Result<Self, NoRuntime> {
        Handle::try_current().map(Self).map_err(|_| NoRuntime)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}
