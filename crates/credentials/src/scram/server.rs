//! The server's side of an exchange: first message in, first message out, last
//! message in, last message out. An unknown name gets the same exchange with a
//! made-up verifier, so that it cannot be told from a wrong secret.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_domain::Entropy;
use zeroize::Zeroizing;

use super::channel_binding::EndPoint;
use super::message::{Gs2Flag, fresh_nonce, parse_client_final, parse_client_first, text_of};
use super::verifier::{LOGIN_ITERATIONS, SALT_BYTES, ScramVerifier};
use super::{KEY_BYTES, ScramError, hmac_sha256};
use crate::master_key::MasterKeys;

/// Which of the two mechanisms the client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// `SCRAM-SHA-256`.
    Plain,
    /// `SCRAM-SHA-256-PLUS`, with channel binding.
    Plus,
}

impl Mechanism {
    /// The mechanism of a name, as it stands in the protocol.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"SCRAM-SHA-256" => Some(Self::Plain),
            b"SCRAM-SHA-256-PLUS" => Some(Self::Plus),
            _ => None,
        }
    }

    /// The name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "SCRAM-SHA-256",
            Self::Plus => "SCRAM-SHA-256-PLUS",
        }
    }
}

/// Makes up salts for unknown names: the same name always gets the same salt,
/// as a known one does.
pub struct MockSecrets(Zeroizing<[u8; KEY_BYTES]>);

impl MockSecrets {
    /// From the oldest master key, so that a rotation does not change the
    /// salts and thereby show which names are made up.
    #[must_use]
    pub fn new(keys: &MasterKeys) -> Self {
        let oldest = keys.generations().next().unwrap_or_else(|| keys.current_generation());
        Self(keys.derive("scram mock salt", &[], oldest).unwrap_or_default())
    }

    /// A verifier that no secret fits.
    #[must_use]
    pub fn verifier_for(&self, name: &[u8], entropy: &dyn Entropy) -> ScramVerifier {
        let salt = hmac_sha256(self.0.as_slice(), &[name])[..SALT_BYTES].to_vec();
        let mut keys = Zeroizing::new([0; 2 * KEY_BYTES]);
        entropy.fill(keys.as_mut_slice());
        let (mut stored_key, mut server_key) = ([0; KEY_BYTES], [0; KEY_BYTES]);
        stored_key.copy_from_slice(&keys[..KEY_BYTES]);
        server_key.copy_from_slice(&keys[KEY_BYTES..]);
        ScramVerifier { iterations: LOGIN_ITERATIONS, salt, stored_key, server_key }
    }
}

impl std::fmt::Debug for MockSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecrets(redacted)")
    }
}

/// An exchange after the server's first message: it waits for the client's last.
pub struct ScramServer {
    verifier: ScramVerifier,
    nonce: String,
    client_first_bare: String,
    server_first: String,
    /// What `c=` must hold: the GS2 header, and the binding where one is used.
    expected_binding: Vec<u8>,
}

impl ScramServer {
    /// Reads the client's first message and makes the answer to it.
    ///
    /// `end_point` is the binding to our certificate where the connection has
    /// TLS and [`Mechanism::Plus`] was therefore offered.
    ///
    /// # Errors
    /// [`ScramError`] where the message is malformed, or where its view of
    /// channel binding contradicts what was offered (a downgrade on the way).
    pub fn start(
        verifier: ScramVerifier,
        mechanism: Mechanism,
        end_point: Option<&EndPoint>,
        client_first: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<(Self, String), ScramError> {
        let first = parse_client_first(text_of(client_first)?)?;
        let mut expected_binding = first.gs2_header.as_bytes().to_vec();
        expected_binding.extend_from_slice(agreed_binding(first.flag, mechanism, end_point)?);
        let nonce = format!("{}{}", first.nonce, fresh_nonce(entropy));
        let server_first =
            format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let client_first_bare = first.bare.to_owned();
        let answer = server_first.clone();
        Ok((Self { verifier, nonce, client_first_bare, server_first, expected_binding }, answer))
    }

    /// Checks the client's last message and makes the server's own proof.
    ///
    /// # Errors
    /// [`ScramError::WrongProof`] for a wrong secret and for a made-up
    /// verifier, others where the message breaks the protocol.
    pub fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let last = parse_client_final(text_of(client_final)?)?;
        if last.channel_binding != self.expected_binding {
            return Err(ScramError::ChannelBinding("the binding is not the one of this connection"));
        }
        if last.nonce != self.nonce {
            return Err(ScramError::Malformed("the nonce is not the one of this exchange"));
        }
        let auth_message = format!("{},{},{}", self.client_first_bare, self.server_first, last.without_proof);
        let signature = hmac_sha256(&self.verifier.stored_key, &[auth_message.as_bytes()]);
        let mut client_key = Zeroizing::new(last.proof);
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let stored_key = digest(&SHA256, client_key.as_slice());
        verify_slices_are_equal(stored_key.as_ref(), &self.verifier.stored_key)
            .map_err(|_| ScramError::WrongProof)?;
        let proof = hmac_sha256(&self.verifier.server_key, &[auth_message.as_bytes()]);
        Ok(format!("v={}", STANDARD.encode(proof)))
    }
}

impl std::fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramServer(redacted)")
    }
}

/// The bytes that follow the GS2 header in `c=`, by RFC 5802 §6.
fn agreed_binding(
    flag: Gs2Flag,
    mechanism: Mechanism,
    end_point: Option<&EndPoint>,
) -> Result<&[u8], ScramError> {
    match (mechanism, flag, end_point) {
        (Mechanism::Plus, Gs2Flag::EndPoint, Some(end_point)) => Ok(end_point.as_bytes()),
        (Mechanism::Plus, _, None) => Err(ScramError::ChannelBinding("it was not offered here")),
        (Mechanism::Plus, _, Some(_)) => Err(ScramError::ChannelBinding("the mechanism needs it")),
        (Mechanism::Plain, Gs2Flag::EndPoint, _) => {
            Err(ScramError::ChannelBinding("the mechanism does not have it"))
        }
        (Mechanism::Plain, Gs2Flag::ServerDoesNot, Some(_)) => {
            Err(ScramError::ChannelBinding("it was offered, but the client was told that it was not"))
        }
        (Mechanism::Plain, Gs2Flag::ServerDoesNot, None) | (Mechanism::Plain, Gs2Flag::NotSupported, _) => {
            Ok(&[])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use insula_domain::OsEntropy;

    use super::super::client::ScramClient;
    use super::*;
    use crate::secret::Secret;

    fn end_point(byte: u8) -> EndPoint {
        // A certificate is not needed: what matters is whether the two agree.
        let mut der = vec![0x30, 0x82, 0, 16, 0x30, 0, 0x30, 0x0a, 0x06, 0x08];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02, byte, byte]);
        EndPoint::of_certificate(&der).unwrap()
    }

    struct Exchange {
        verifier: ScramVerifier,
        offered: Option<EndPoint>,
        used: Option<EndPoint>,
    }

    impl Exchange {
        fn run(self, secret: &str) -> Result<(), ScramError> {
            let client = ScramClient::new(Secret::new(secret.into()), self.used, &OsEntropy);
            let (mechanism, first) = (client.mechanism(), client.first_message());
            let (server, answer) = ScramServer::start(
                self.verifier,
                mechanism,
                self.offered.as_ref(),
                first.as_bytes(),
                &OsEntropy,
            )?;
            let (client, last) = client.server_first(answer.as_bytes())?;
            client.server_final(server.finish(last.as_bytes())?.as_bytes())
        }
    }

    fn verifier(secret: &str) -> ScramVerifier {
        ScramVerifier::for_random_secret(&Secret::new(secret.into()), &OsEntropy)
    }

    #[test]
    fn the_right_secret_gets_in_and_no_other() {
        let exchange = || Exchange { verifier: verifier("right"), offered: None, used: None };
        assert_eq!(exchange().run("right"), Ok(()));
        assert_eq!(exchange().run("wrong"), Err(ScramError::WrongProof));
        assert_eq!(exchange().run(""), Err(ScramError::WrongProof));
        // A verifier that a client could compute from the stored text alone is
        // not enough: the stored key is the hash of what the proof needs.
        let stored = verifier("right");
        let text = STANDARD.encode(stored.stored_key);
        assert_eq!(exchange().run(&text), Err(ScramError::WrongProof));
    }

    #[test]
    fn the_exchange_of_rfc_7677_gives_its_signatures() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let secret = Secret::new("pencil".into());
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server = ScramServer {
            verifier: ScramVerifier::compute(&secret, &salt, NonZeroU32::new(4096).unwrap()),
            nonce: nonce.to_owned(),
            client_first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
            server_first: format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            expected_binding: b"n,,".to_vec(),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let answer = server.finish(last.as_bytes()).unwrap();
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_message_of_another_exchange_is_refused() {
        let start = || {
            let client = ScramClient::new(Secret::new("s".into()), None, &OsEntropy);
            let first = client.first_message();
            let (server, answer) =
                ScramServer::start(verifier("s"), Mechanism::Plain, None, first.as_bytes(), &OsEntropy)
                    .unwrap();
            let (_, last) = client.server_first(answer.as_bytes()).unwrap();
            (server, last)
        };
        let ((first, _), (_, other)) = (start(), start());
        assert!(matches!(first.finish(other.as_bytes()), Err(ScramError::Malformed(_))));
    }

    #[test]
    fn channel_binding_holds_and_downgrades_are_seen() {
        let exchange = |offered, used| Exchange { verifier: verifier("s"), offered, used }.run("s");
        assert_eq!(exchange(Some(end_point(1)), Some(end_point(1))), Ok(()));
        assert_eq!(exchange(Some(end_point(1)), None), Ok(()), "a client that cannot may go without");
        let relayed = exchange(Some(end_point(1)), Some(end_point(2)));
        assert!(matches!(relayed, Err(ScramError::ChannelBinding(_))), "another certificate in between");
        assert!(matches!(exchange(None, Some(end_point(1))), Err(ScramError::ChannelBinding(_))));
        let stripped = ScramServer::start(
            verifier("s"),
            Mechanism::Plain,
            Some(&end_point(1)),
            b"y,,n=,r=abc",
            &OsEntropy,
        );
        assert!(matches!(stripped, Err(ScramError::ChannelBinding(_))), "somebody hid the offer");
        assert!(
            ScramServer::start(verifier("s"), Mechanism::Plain, None, b"y,,n=,r=abc", &OsEntropy).is_ok()
        );
    }

    #[test]
    fn an_unknown_name_looks_like_a_known_one_with_a_wrong_secret() {
        let keys = MasterKeys::generate(&OsEntropy);
        let mock = MockSecrets::new(&keys);
        let salt = |name: &str| mock.verifier_for(name.as_bytes(), &OsEntropy).salt.clone();
        assert_eq!(salt("nobody"), salt("nobody"));
        assert_ne!(salt("nobody"), salt("somebody"));
        let after_rotation = MockSecrets::new(&keys.rotated(&OsEntropy));
        assert_eq!(after_rotation.verifier_for(b"nobody", &OsEntropy).salt, salt("nobody"));

        let known = ScramVerifier::for_login(&Secret::new("s".into()), &OsEntropy);
        let made_up = mock.verifier_for(b"nobody", &OsEntropy);
        assert_eq!(made_up.iterations, known.iterations);
        assert_eq!(made_up.salt.len(), known.salt.len());
        for verifier in [known, made_up] {
            let refused = Exchange { verifier, offered: None, used: None }.run("guess");
            assert_eq!(refused, Err(ScramError::WrongProof));
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_verifier_is_found_out() {
        let client = ScramClient::new(Secret::new("s".into()), None, &OsEntropy);
        let first = client.first_message();
        let (_, answer) =
            ScramServer::start(verifier("other"), Mechanism::Plain, None, first.as_bytes(), &OsEntropy)
                .unwrap();
        let (client, _) = client.server_first(answer.as_bytes()).unwrap();
        let forged = format!("v={}", STANDARD.encode([7; 32]));
        assert_eq!(client.server_final(forged.as_bytes()), Err(ScramError::WrongServer));
    }
}
