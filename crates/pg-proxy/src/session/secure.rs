//! The first stages: TLS, and what the client wants. Nobody has been asked yet
//! who they are.

use std::net::SocketAddr;

use bytes::Bytes;
use insula_pg_wire::WireError;
use insula_pg_wire::startup::{CancelKey, Foreign, SessionStart, StartupPacket, recognise_foreign};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{End, turn_away};
use crate::front::Front;
use crate::journal::Asker;
use crate::link::{Link, LinkError};
use crate::parameters::wants_replication;
use crate::refusal::Refusal;
use crate::tls::{Encryption, FrontTls, Way};
use crate::wire::{Wire, prepare};

/// The first byte of a handshake in TLS (RFC 8446 §5.1). As that of a startup
/// packet it would stand for a length that none has.
const TLS_HANDSHAKE: u8 = 22;

const HTTP_ANSWER: &str = "This is the PostgreSQL port of Insula: connect with a PostgreSQL client.\n";

/// A connection that has not said anything.
#[derive(Debug)]
pub(super) struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
}

/// How the client is connected.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub peer: SocketAddr,
    pub tls: Option<Encryption>,
}

impl Channel {
    /// Nobody on the way can read along: TLS, or the same machine.
    pub fn is_private(&self) -> bool {
        self.tls.is_some() || self.peer.ip().to_canonical().is_loopback()
    }
}

/// A connection whose TLS is settled, with its first packet.
#[derive(Debug)]
pub(super) struct Secured {
    channel: Channel,
    packet: StartupPacket,
}

/// What the client wants.
#[derive(Debug)]
pub(super) enum Begun {
    Session(Started),
    Cancel(CancelKey),
}

/// A session that is to begin.
#[derive(Debug)]
pub(super) struct Started {
    pub channel: Channel,
    pub start: SessionStart,
}

impl Accepted {
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self { stream, peer }
    }

    /// Settles TLS and reads the first packet. `None` where that came to
    /// nothing; the client has been told as far as it can be.
    pub async fn secure(self, front: &Front, deadline: Instant) -> Option<(Link, Secured)> {
        prepare(&self.stream).ok()?;
        let mut channel = Channel { peer: self.peer, tls: None };
        let mut link = match &front.parts.tls {
            Some(tls) if timeout_at(deadline, begins_with_tls(&self.stream)).await.ok()? => {
                let handshake = shake_hands((front, tls), self.stream, Way::Direct, &mut channel);
                timeout_at(deadline, handshake).await.ok()??
            }
            _ => Link::new(Wire::Plain(self.stream)),
        };
        let mut asked_gss = false;
        loop {
            let packet = match timeout_at(deadline, link.startup_packet()).await {
                Ok(Ok(packet)) => packet,
                Ok(Err(error)) => {
                    turn_away_stranger(front, &mut link, error).await;
                    return None;
                }
                Err(_) => {
                    // Who has not said anything is not told anything.
                    if channel.tls.is_some() || asked_gss || !link.inbox().is_empty() {
                        turn_away(front, &mut link, &Refusal::too_slow()).await;
                    }
                    return None;
                }
            };
            match packet {
                StartupPacket::Ssl if channel.tls.is_none() => {
                    let answered = answer_tls_request(front, link, &mut channel);
                    link = timeout_at(deadline, answered).await.ok()??;
                }
                StartupPacket::GssEncryption if !asked_gss && channel.tls.is_none() => {
                    asked_gss = true;
                    answer(front, &mut link, b'N').await?;
                }
                StartupPacket::Ssl | StartupPacket::GssEncryption => {
                    turn_away(front, &mut link, &Refusal::protocol("encryption was asked for twice")).await;
                    return None;
                }
                packet @ (StartupPacket::Cancel(_) | StartupPacket::Session(_)) => {
                    return Some((link, Secured { channel, packet }));
                }
            }
        }
    }
}

/// Answers a request for TLS, with the handshake where it is configured.
async fn answer_tls_request(front: &Front, mut link: Link, channel: &mut Channel) -> Option<Link> {
    let Some(tls) = &front.parts.tls else {
        answer(front, &mut link, b'N').await?;
        return Some(link);
    };
    answer(front, &mut link, b'S').await?;
    let Ok(Wire::Plain(stream)) = link.into_wire() else { return None };
    shake_hands((front, tls), stream, Way::Asked, channel).await
}

/// Whether the client begins with TLS, without having asked (PostgreSQL 17's
/// `sslnegotiation=direct`). What it says is left where it is.
async fn begins_with_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).await.is_ok_and(|bytes| bytes == 1) && first == [TLS_HANDSHAKE]
}

async fn shake_hands(
    (front, tls): (&Front, &FrontTls),
    stream: TcpStream,
    way: Way,
    channel: &mut Channel,
) -> Option<Link> {
    match tls.accept(stream, way).await {
        Ok((stream, encryption)) => {
            channel.tls = Some(encryption);
            Some(Link::new(Wire::Tls(Box::new(stream))))
        }
        Err(error) => {
            if front.journal.admits_line() {
                tracing::info!(%error, "a TLS handshake failed");
            }
            None
        }
    }
}

/// Answers a request for encryption with one letter. What the client has sent
/// behind the request is not taken: somebody on the way may have put it there,
/// to be read as if it had come encrypted (CVE-2021-23214).
async fn answer(front: &Front, link: &mut Link, letter: u8) -> Option<()> {
    if !link.inbox().is_empty() {
        let refusal = Refusal::protocol("unencrypted data after a request for encryption");
        turn_away(front, link, &refusal).await;
        return None;
    }
    link.put(|out| out.extend_from_slice(&[letter]));
    link.flush().await.ok()
}

/// Tells a client that does not speak the protocol what it has reached.
async fn turn_away_stranger(front: &Front, link: &mut Link, error: LinkError) {
    let error = match error {
        LinkError::Wire(error) => error,
        LinkError::Closed if !link.inbox().is_empty() => {
            return turn_away(front, link, &Refusal::incomplete_startup()).await;
        }
        // Whoever only looks whether somebody listens: a balancer, a monitor.
        LinkError::Closed | LinkError::Io(_) => {
            return tracing::debug!("a connection ended before anything was asked");
        }
    };
    if recognise_foreign(link.inbox()) == Some(Foreign::Http) {
        let refusal = Refusal::protocol("a client speaks HTTP");
        front.note_refused(&Asker::default(), &refusal);
        return link.answer_foreign(http_answer()).await;
    }
    let refusal = match error {
        WireError::Version { .. } => Refusal::unsupported_version(error),
        WireError::Length { .. } | WireError::Malformed(_) => Refusal::protocol(error),
    };
    turn_away(front, link, &refusal).await;
}

fn http_answer() -> Bytes {
    let length = HTTP_ANSWER.len();
    Bytes::from(format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{HTTP_ANSWER}"
    ))
}

impl Secured {
    /// Who says that they want a session.
    pub fn asker(&self) -> Asker {
        let login = match &self.packet {
            StartupPacket::Session(start) => start.parameter("user"),
            _ => None,
        };
        Asker { login: login.map(Into::into), tenant: None }
    }

    /// Refuses what no tenant could have.
    pub fn start(self, front: &Front) -> Result<Begun, End> {
        let start = match self.packet {
            StartupPacket::Session(start) => start,
            StartupPacket::Cancel(key) => return Ok(Begun::Cancel(key)),
            StartupPacket::Ssl | StartupPacket::GssEncryption => {
                return Err(Refusal::protocol("encryption was asked for twice").into());
            }
        };
        if front.config.get().require_tls && !self.channel.is_private() {
            return Err(Refusal::tls_required().into());
        }
        if wants_replication(&start) {
            return Err(Refusal::replication().into());
        }
        Ok(Begun::Session(Started { channel: self.channel, start }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insula_credentials::scram::EndPoint;

    use super::*;

    #[test]
    fn only_tls_and_this_machine_are_private() {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert;
        let end_point = Arc::new(EndPoint::of_certificate(certificate.der()).unwrap());
        let encryption = Encryption { end_point, host: None };
        let is_private = |peer: &str, tls| Channel { peer: peer.parse().unwrap(), tls }.is_private();
        for peer in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_private(peer, None), "{peer}");
        }
        for peer in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1", "128.0.0.1:1"] {
            assert!(!is_private(peer, None) && is_private(peer, Some(encryption.clone())), "{peer}");
        }
    }
}
