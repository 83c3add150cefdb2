//! A host that the test changes while it uses it.

use std::thread::JoinHandle;

use harness::namespace::Namespace;

use super::{
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
        let [home] = Namespace::hold()?;
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
        let id = self.id();
        outcome(visit(id, move || block_on(bounded(test(self)))))
    }

    /// Runs this on another thread at this host.
    pub(crate) fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<Result<T, String>> {
        visit(self.id(), work)
    }
}
