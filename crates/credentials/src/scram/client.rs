//! The client's side of an exchange, with which the front opens a backend.
//! The server's last message proves that it knows the role's verifier: a server
//! that took over an address cannot make it.

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_domain::Entropy;
use zeroize::Zeroizing;

use super::channel_binding::EndPoint;
use super::message::{fresh_nonce, parse_server_final, parse_server_first, text_of};
use super::server::Mechanism;
use super::verifier::{ITERATIONS_MAX, salted_password};
use super::{KEY_BYTES, ScramError, hmac_sha256};
use crate::secret::Secret;

/// An exchange that has not seen the server's first message yet.
pub struct ScramClient {
    secret: Secret,
    nonce: String,
    gs2_header: &'static str,
    binding: Vec<u8>,
}

/// An exchange that waits for the server's last message.
pub struct ServerFirstSeen {
    expected_signature: [u8; KEY_BYTES],
}

impl ScramClient {
    /// Begins an exchange. With an end point the mechanism is
    /// [`Mechanism::Plus`], bound to the server's certificate.
    #[must_use]
    pub fn new(secret: Secret, end_point: Option<EndPoint>, entropy: &dyn Entropy) -> Self {
        let (gs2_header, binding) = match end_point {
            Some(end_point) => ("p=tls-server-end-point,,", end_point.as_bytes().to_vec()),
            None => ("n,,", Vec::new()),
        };
        Self { secret, nonce: fresh_nonce(entropy), gs2_header, binding }
    }

    /// The mechanism to name to the server.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        if self.binding.is_empty() { Mechanism::Plain } else { Mechanism::Plus }
    }

    /// The client's first message. PostgreSQL takes the user from the startup
    /// packet and ignores the name here.
    #[must_use]
    pub fn first_message(&self) -> String {
        format!("{}{}", self.gs2_header, self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server's first message and makes the client's last.
    ///
    /// # Errors
    /// [`ScramError`] where the message is malformed or asks for more than
    /// 100,000 iterations.
    pub fn server_first(self, message: &[u8]) -> Result<(ServerFirstSeen, String), ScramError> {
        let server_first = text_of(message)?;
        let parsed = parse_server_first(server_first)?;
        if !parsed.nonce.starts_with(&self.nonce) || parsed.nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed("the nonce does not continue ours"));
        }
        let iterations = NonZeroU32::new(parsed.iterations)
            .filter(|iterations| iterations.get() <= ITERATIONS_MAX)
            .ok_or(ScramError::Malformed("the number of iterations is 0 or above 100,000"))?;
        let salted = salted_password(&self.secret, &parsed.salt, iterations);
        let binding = [self.gs2_header.as_bytes(), &self.binding].concat();
        let without_proof = format!("c={},r={}", STANDARD.encode(binding), parsed.nonce);
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare());

        let mut client_key = Zeroizing::new(hmac_sha256(salted.as_slice(), &[b"Client Key"]));
        let stored_key = digest(&SHA256, client_key.as_slice());
        let signature = hmac_sha256(stored_key.as_ref(), &[auth_message.as_bytes()]);
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let server_key = Zeroizing::new(hmac_sha256(salted.as_slice(), &[b"Server Key"]));
        let expected_signature = hmac_sha256(server_key.as_slice(), &[auth_message.as_bytes()]);
        let last = format!("{without_proof},p={}", STANDARD.encode(client_key.as_slice()));
        Ok((ServerFirstSeen { expected_signature }, last))
    }
}

impl ServerFirstSeen {
    /// Checks the server's proof.
    ///
    /// # Errors
    /// [`ScramError::WrongServer`] where the server does not know the
    /// verifier, others where it refuses or breaks the protocol.
    pub fn server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let signature = parse_server_final(text_of(message)?)?;
        verify_slices_are_equal(&signature, &self.expected_signature).map_err(|_| ScramError::WrongServer)
    }
}

impl std::fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramClient(redacted)")
    }
}

impl std::fmt::Debug for ServerFirstSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerFirstSeen(redacted)")
    }
}
