//! The front on threads of its own: what else the process does does not hold up
//! its sessions, and there are no more threads than it has work for.

use std::future::Future;
use std::io;
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::front::PgProxy;

/// As which the system shows them.
const NAME: &str = "pg-front";

/// Threads that end with this, whoever drops it.
struct Threads(Option<Runtime>);

impl Threads {
    fn new(count: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(count).thread_name(NAME).enable_all().build().map(Some).map(Self)
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
        let count = self.threads();
        if count <= 1 {
            return on_one_thread(async move { self.serve(listeners, shutdown).await }).await;
        }
        let threads = Threads::new(count)?;
        if let Some(runtime) = &threads.0 {
            let served = runtime.spawn(async move { self.serve(listeners, shutdown).await });
            served.await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Runs something on a thread of its own, which does not have to look after
/// others and so does more. It ends with this, whoever drops it.
async fn on_one_thread(serving: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let dropped = CancellationToken::new();
    let _ends = dropped.clone().drop_guard();
    let (over, ended) = oneshot::channel();
    let serve = move || {
        runtime.block_on(dropped.run_until_cancelled_owned(serving));
        runtime.shutdown_background();
        // Nobody may be waiting for it any more.
        let _ = over.send(());
    };
    thread::Builder::new().name(NAME.to_owned()).spawn(serve)?;
    ended.await.map_err(io::Error::other)
}
