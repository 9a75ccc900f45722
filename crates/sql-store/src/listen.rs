//! Listening to a store's notifications. A notification is only a wake-up:
//! one that is lost, or dropped because nobody took the last ones, must cost
//! time and never correctness.

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use crate::connect::{ConnectError, Connector};

/// Notifications that wait to be taken; more are dropped.
const WAITING: usize = 1_024;

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The channel on which it came.
    pub channel: String,
    /// What it says.
    pub payload: String,
}

/// A connection that listens. When it ends, [`Listener::next`] says so, and
/// whoever listens opens another one and looks at everything once.
#[derive(Debug)]
pub struct Listener {
    // Dropping the client ends the connection.
    client: Client,
    notices: mpsc::Receiver<Notice>,
}

impl Listener {
    /// Opens a connection and listens on the channels. What is notified after
    /// this returns is heard.
    ///
    /// # Errors
    /// Where the server refuses or does not answer in time.
    pub async fn open(connector: &Connector, channels: &[&'static str]) -> Result<Self, ConnectError> {
        let refused = |source| ConnectError::Refused { host: connector.host(), source };
        let (sender, notices) = mpsc::channel(WAITING);
        let client = match &connector.tls {
            None => {
                let (client, connection) = connector.config.connect(NoTls).await.map_err(refused)?;
                tokio::spawn(drive(connection, sender));
                client
            }
            Some(tls) => {
                let (client, connection) = connector.config.connect(tls.clone()).await.map_err(refused)?;
                tokio::spawn(drive(connection, sender));
                client
            }
        };
        for channel in channels {
            client.batch_execute(&format!("listen {channel}")).await.map_err(refused)?;
        }
        Ok(Self { client, notices })
    }

    /// The connection, on which questions can be asked as well.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The next notification; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Takes what is waiting, so that one look answers many notifications.
    pub fn drain(&mut self) {
        while self.notices.try_recv().is_ok() {}
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, notices: mpsc::Sender<Notice>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(notification)) => {
                // Full: the ones that wait wake the listener anyway.
                let _ = notices.try_send(Notice {
                    channel: notification.channel().to_owned(),
                    payload: notification.payload().to_owned(),
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a listening connection ended");
                return;
            }
        }
    }
}
