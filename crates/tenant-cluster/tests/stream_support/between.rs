//! What stands between an applier and its target's server, and stops a session
//! right before one of its statements: the server has all that is sent before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The server's port, with something before it.
pub struct Between {
    port: u16,
    stops: Arc<AtomicBool>,
}

/// Statements of an applier's session, by the names under which they are prepared.
#[derive(Debug, Clone, Copy)]
pub enum Before {
    Commit,
    /// What is behind it.
    IsKnown,
}

impl Before {
    /// How the message goes on that binds it, behind its tag and length.
    fn bound(self) -> &'static [u8] {
        match self {
            Self::Commit => b"\0commit\0",
            Self::IsKnown => b"\0is_known\0",
        }
    }
}

impl Between {
    pub async fn new(port: u16, before: Before) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (own, stops) = (listener.local_addr().unwrap().port(), Arc::<AtomicBool>::default());
        let seen = Arc::clone(&stops);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&seen), before));
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

    /// Has the next session stop that comes to the statement. Nothing more comes of it.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
    }

    /// Whether no session has come to that yet.
    pub fn is_to_stop(&self) -> bool {
        self.stops.load(Ordering::SeqCst)
    }
}

async fn relay(client: TcpStream, server: TcpStream, stops: Arc<AtomicBool>, before: Before) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = forth(from_client, to_server, &stops, before) => {}
        () = back(from_server, to_client) => {}
    }
}

async fn forth(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    stops: &AtomicBool,
    before: Before,
) {
    let mut read = [0; 64 * 1024];
    loop {
        let count = from.read(&mut read).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        // The end of a transaction is written at once, and is far shorter than what is read.
        let stop = bound_in(&read[..count], before).filter(|_| stops.swap(false, Ordering::SeqCst));
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

/// Where the message begins that binds the statement.
fn bound_in(bytes: &[u8], statement: Before) -> Option<usize> {
    const HEADER: usize = 1 + 4;
    let bound = statement.bound();
    let at = bytes.windows(bound.len()).position(|window| window == bound)?;
    let start = at.checked_sub(HEADER)?;
    (bytes[start] == b'B').then_some(start)
}
