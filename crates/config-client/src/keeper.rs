//! Writes the file of the last good values, some time after a change and at the
//! end.

use std::sync::Arc;
use std::time::Duration;

use insula_domain::Entropy;
use tokio::sync::watch;

use crate::file::KeptFile;
use crate::session::random;
use crate::shared::{Origin, Shared};
use crate::view::View;

/// How long changes are collected: a write waits for the disk.
const COLLECTING: Duration = Duration::from_secs(1);

/// Writes what comes, until there is nobody left to send.
pub(crate) async fn keep(
    file: KeptFile,
    mut views: watch::Receiver<Arc<View>>,
    shared: Arc<Shared>,
    entropy: Arc<dyn Entropy>,
) {
    let mut is_open = true;
    while is_open {
        is_open = views.changed().await.is_ok();
        if !is_open {
            return;
        }
        let until_closed = async { while views.changed().await.is_ok() {} };
        is_open = tokio::time::timeout(COLLECTING, until_closed).await.is_err();
        let view = Arc::clone(&views.borrow_and_update());
        if view.origin == Origin::Server {
            save(&file, view, &shared, random(&*entropy)).await;
        }
    }
}

async fn save(file: &KeptFile, view: Arc<View>, shared: &Shared, random: u64) {
    let file = file.clone();
    let saved = tokio::task::spawn_blocking(move || file.save(&view, random)).await;
    let trouble = match saved {
        Ok(Ok(())) => None,
        Ok(Err(trouble)) => Some(trouble.to_string()),
        Err(error) => Some(format!("the file was not written: {error}")),
    };
    if let Some(trouble) = &trouble {
        tracing::warn!(trouble, "the last good configuration could not be kept");
    }
    shared.file_trouble.store(trouble.map(Arc::new));
}
