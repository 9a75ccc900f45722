//! The four messages of an exchange (RFC 5802 §7), parsed strictly.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_domain::Entropy;

use super::{KEY_BYTES, NONCE_BYTES, ScramError};

/// Longest message that is read; real ones have a few hundred bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What the client says about channel binding in its first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gs2Flag {
    /// `n`: it cannot.
    NotSupported,
    /// `y`: it could, but thinks that the server cannot.
    ServerDoesNot,
    /// `p=tls-server-end-point`: it does.
    EndPoint,
}

/// The client's first message, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    pub flag: Gs2Flag,
    /// The GS2 header with both its commas, which the client repeats later.
    pub gs2_header: &'a str,
    /// The message without that header.
    pub bare: &'a str,
    pub nonce: &'a str,
}

/// The client's last message, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    pub channel_binding: Vec<u8>,
    pub nonce: &'a str,
    pub proof: [u8; KEY_BYTES],
    /// The message up to the proof, which is part of what is signed.
    pub without_proof: &'a str,
}

/// The server's first message, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    pub nonce: &'a str,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// A nonce of our own: printable, without commas.
pub(super) fn fresh_nonce(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; NONCE_BYTES];
    entropy.fill(&mut bytes);
    STANDARD.encode(bytes)
}

pub(super) fn text_of(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed("it is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
    if text.contains('\0') {
        return Err(ScramError::Malformed("it contains a zero byte"));
    }
    Ok(text)
}

pub(super) fn parse_client_first(text: &str) -> Result<ClientFirst<'_>, ScramError> {
    let (flag_text, rest) = text.split_once(',').ok_or(ScramError::Malformed("the GS2 header is missing"))?;
    let flag = match flag_text {
        "n" => Gs2Flag::NotSupported,
        "y" => Gs2Flag::ServerDoesNot,
        "p=tls-server-end-point" => Gs2Flag::EndPoint,
        other if other.starts_with("p=") => {
            return Err(ScramError::ChannelBinding("only tls-server-end-point is supported"));
        }
        _ => return Err(ScramError::Malformed("the channel-binding flag is unknown")),
    };
    let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("the GS2 header has no end"))?;
    if !authzid.is_empty() {
        return Err(ScramError::Malformed("an authorization identity is not supported"));
    }
    let gs2_header = &text[..text.len() - bare.len()];
    if bare.starts_with("m=") {
        return Err(ScramError::Malformed("mandatory extensions are not supported"));
    }
    let mut attributes = bare.split(',');
    attribute(attributes.next(), "n=")?;
    let nonce = checked_nonce(attribute(attributes.next(), "r=")?)?;
    Ok(ClientFirst { flag, gs2_header, bare, nonce })
}

pub(super) fn parse_client_final(text: &str) -> Result<ClientFinal<'_>, ScramError> {
    let (without_proof, proof) =
        text.rsplit_once(",p=").ok_or(ScramError::Malformed("the proof is missing"))?;
    let mut attributes = without_proof.split(',');
    let channel_binding = decode(attribute(attributes.next(), "c=")?)?;
    let nonce = checked_nonce(attribute(attributes.next(), "r=")?)?;
    let proof = decode(proof)?.try_into().map_err(|_| ScramError::Malformed("the proof has not 32 bytes"))?;
    Ok(ClientFinal { channel_binding, nonce, proof, without_proof })
}

pub(super) fn parse_server_first(text: &str) -> Result<ServerFirst<'_>, ScramError> {
    let mut attributes = text.split(',');
    let nonce = checked_nonce(attribute(attributes.next(), "r=")?)?;
    let salt = decode(attribute(attributes.next(), "s=")?)?;
    let iterations = attribute(attributes.next(), "i=")?
        .parse()
        .map_err(|_| ScramError::Malformed("the number of iterations is not a number"))?;
    Ok(ServerFirst { nonce, salt, iterations })
}

/// The server's signature from its last message.
pub(super) fn parse_server_final(text: &str) -> Result<Vec<u8>, ScramError> {
    if text.starts_with("e=") {
        return Err(ScramError::RefusedByServer);
    }
    let signature = text.split(',').next();
    decode(attribute(signature, "v=")?)
}

fn attribute<'a>(attribute: Option<&'a str>, name: &'static str) -> Result<&'a str, ScramError> {
    attribute
        .and_then(|attribute| attribute.strip_prefix(name))
        .ok_or(ScramError::Malformed("an attribute is missing or not in its place"))
}

fn checked_nonce(nonce: &str) -> Result<&str, ScramError> {
    if !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        Ok(nonce)
    } else {
        Err(ScramError::Malformed("the nonce is empty or has unprintable characters"))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ScramError> {
    STANDARD.decode(text).map_err(|_| ScramError::Malformed("an attribute is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_rfc_7677_are_read() {
        let first = parse_client_first("n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!((first.gs2_header, first.bare), ("n,,", "n=user,r=rOprNGfwEbeRWgbNEkqO"));
        let server = parse_server_first(
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        )
        .unwrap();
        assert_eq!((server.iterations, server.salt.len()), (4096, 16));
        let last = parse_client_final(
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
        assert_eq!(last.channel_binding, b"n,,");
    }

    #[test]
    fn broken_messages_are_refused() {
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=user",
            "n,,r=abc",
            "n,a=root,n=user,r=abc",
            "n,,m=x,n=user,r=abc",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "q,,n=user,r=abc",
            "p=tls-unique,,n=user,r=abc",
        ] {
            assert!(parse_client_first(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "c=biws,r=abc",
            "c=biws,r=abc,p=",
            "c=biws,r=abc,p=AAAA",
            "r=abc,c=biws,p=AAAA",
            "c=*,r=a,p=A",
        ] {
            assert!(parse_client_final(bad).is_err(), "{bad}");
        }
        for bad in ["", "r=abc", "r=abc,s=AAAA", "r=abc,s=AAAA,i=x", "r=abc,s=AAAA,i=-1", "s=AAAA,r=abc,i=1"]
        {
            assert!(parse_server_first(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_server_final("e=other-error"), Err(ScramError::RefusedByServer));
        assert!(text_of(&[0xff]).is_err() && text_of(b"a\0").is_err() && text_of(&[b'a'; 5000]).is_err());
    }
}
