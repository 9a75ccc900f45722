//! A thread beside that of the test, for what is to happen while an applier is not
//! let go: a test and its appliers share one.

use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// The thread. It ends with the test.
pub struct Beside(Option<Runtime>);

impl Beside {
    pub fn new() -> Self {
        Self(Some(Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()))
    }

    /// Does something there, and nothing here meanwhile.
    pub fn alone<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.0.as_ref().unwrap().spawn(async move { done.send(work.await) });
        result.recv().expect("it does not fail")
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Whatever is still done there is not waited for.
        self.0.take().unwrap().shutdown_background();
    }
}
