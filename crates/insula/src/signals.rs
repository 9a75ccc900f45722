//! SIGINT and SIGTERM: the first one stops in order, a second one at once.
//! SIGHUP asks to read settings and certificates again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.is_cancelled() {
                // The servers that we started see our end and end too.
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(token)
}

/// Every SIGHUP from here on, which ends the process no more.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
