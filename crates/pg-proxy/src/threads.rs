//! The front on threads of its own: what else the process does does not hold up
//! its sessions, and there are no more threads than it has work for.

use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::front::PgProxy;

/// Threads that end with this, whoever drops it.
struct Threads(Option<Runtime>);

impl Threads {
    fn new(count: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(count.max(1)).thread_name("pg-front").enable_all().build().map(Some).map(Self)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl PgProxy {
    /// Serves as [`PgProxy::serve`] does, on threads of its own.
    ///
    /// # Errors
    /// Where there can be no such threads.
    pub async fn serve_apart(
        self,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let threads = Threads::new(self.threads())?;
        if let Some(runtime) = &threads.0 {
            let served = runtime.spawn(async move { self.serve(listeners, shutdown).await });
            served.await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}
