//! What stands between an applier and its target's server, and stops a commit
//! right before it: the server has all that is sent with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The server's port, with something before it.
pub struct Between {
    port: u16,
    stops: Arc<AtomicBool>,
}

impl Between {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (own, stops) = (listener.local_addr().unwrap().port(), Arc::<AtomicBool>::default());
        let seen = Arc::clone(&stops);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&seen)));
            }
        });
        Self { port: own, stops }
    }

    /// The same URL through here, without TLS.
    pub fn through(&self, url: &str) -> String {
        let head = url.split('?').next().unwrap_or(url);
        let (authority, database) = head.rsplit_once('/').unwrap();
        let (host, _) = authority.rsplit_once(':').unwrap();
        format!("{host}:{}/{database}?sslmode=disable", self.port)
    }

    /// Has the next session that commits stop right before it. Nothing more comes
    /// of that session.
    pub fn stop_before_commit(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    /// Whether no session has come to that yet.
    pub fn is_to_stop(&self) -> bool {
        self.stops.load(Ordering::SeqCst)
    }
}

async fn relay(client: TcpStream, server: TcpStream, stops: Arc<AtomicBool>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = forth(from_client, to_server, &stops) => {}
        () = back(from_server, to_client) => {}
    }
}

async fn forth(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, stops: &AtomicBool) {
    let mut read = [0; 64 * 1024];
    loop {
        let count = from.read(&mut read).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        // The end of a transaction is written at once, and is far shorter than what is read.
        let stop = commit_in(&read[..count]).filter(|_| stops.swap(false, Ordering::SeqCst));
        if to.write_all(&read[..stop.unwrap_or(count)]).await.is_err() {
            return;
        }
        if stop.is_some() {
            // It is to answer what it has, and hears nothing more.
            to.write_all(b"H\0\0\0\x04").await.unwrap();
            while from.read(&mut read).await.is_ok_and(|count| count > 0) {}
            return;
        }
    }
}

async fn back(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // How a session ends is told by what it was used for.
    drop(tokio::io::copy(&mut from, &mut to).await);
}

/// Where the message begins that binds the statement by which sessions commit.
fn commit_in(bytes: &[u8]) -> Option<usize> {
    const BIND: usize = 1 + 4;
    let named = b"\0commit\0";
    let at = bytes.windows(named.len()).position(|window| window == named)?;
    let start = at.checked_sub(BIND)?;
    (bytes[start] == b'B').then_some(start)
}
