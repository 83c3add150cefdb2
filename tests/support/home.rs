//! A host that the test changes while it uses it.

use std::thread::JoinHandle;

use super::{
    namespace::Namespace,
    node::bounded,
    visit::{block_on, outcome, visit},
};

/// A network namespace.
pub(crate) struct Home(Namespace);

/// Runs a test at a host that this batch for `ip` has configured, or returns why that is not
/// possible.
pub(crate) fn at_home<F: Future<Output = ()>>(
    batch: &str,
    test: impl FnOnce(Home) -> F + Send + 'static,
) -> Result<(), String> {
    Home::build(batch)?.run(test)
}

impl Home {
    pub(crate) fn build(batch: &str) -> Result<Self, String> {
        let mut hosts = Namespace::hold(1)?;
        let Some(home) = hosts.pop() else {
            unreachable!("one was asked for");
        };
        home.run(&["ip", "-batch", "-"], batch)?;
        Ok(Self(home))
    }

    /// Runs this batch with `ip`, and panics if that fails. It blocks the calling thread.
    pub(crate) fn ip(&self, batch: &str) {
        self.0.run(&["ip", "-batch", "-"], batch).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs a test at this host.
    pub(crate) fn run<F: Future<Output = ()>>(
        self,
        test: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<(), String> {
        let enter = self.0.enter();
        outcome(visit(&enter, move || block_on(bounded(test(self))))?)
    }

    /// Runs this on another thread at this host.
    pub(crate) fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, String>>, String> {
        visit(&self.0.enter(), work)
    }
}
