//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677) as PostgreSQL
//! speaks them: the stored verifier, the server's side with a mock exchange for
//! unknown names, the client's side, and channel binding to the server's
//! certificate (`tls-server-end-point`, RFC 5929 §4).

mod channel_binding;
mod client;
mod message;
mod server;
mod tls;
mod verifier;

use aws_lc_rs::hmac;
use thiserror::Error;

pub use channel_binding::EndPoint;
pub use client::{ScramClient, ServerFirstSeen};
pub use server::{Mechanism, MockSecrets, ScramServer};
pub use tls::client_config_bound_later;
pub use verifier::{InvalidVerifier, LOGIN_ITERATIONS, ScramVerifier};

/// Bytes of an HMAC-SHA256, and of every key of the protocol.
const KEY_BYTES: usize = 32;

/// Random bytes of a nonce, before base64: as many as PostgreSQL uses.
const NONCE_BYTES: usize = 18;

/// Why an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScramError {
    /// The other side broke the protocol; the text says how.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The two sides do not agree about channel binding.
    #[error("SCRAM channel binding: {0}")]
    ChannelBinding(&'static str),
    /// The proof is wrong, or the name is not known.
    #[error("the SCRAM proof is wrong")]
    WrongProof,
    /// The server does not know the verifier: it is not the server we meant.
    #[error("the server could not prove that it knows the role's verifier")]
    WrongServer,
    /// The server refused the exchange.
    #[error("the server refused the SCRAM exchange")]
    RefusedByServer,
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(context.sign().as_ref());
    bytes
}
