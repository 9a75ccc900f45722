//! Forged, stale and foreign context tokens: each differs from a good one in a
//! single point, and the good one is shown to be good first.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use insula_domain::OsEntropy;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::*;

const NOW: i64 = 1_800_000_000;

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap()
    }
}

fn tokens() -> (MasterKeys, ContextTokens) {
    let keys = MasterKeys::generate(&OsEntropy);
    let tokens = ContextTokens::new(&keys);
    (keys, tokens)
}

fn context() -> NewContext {
    NewContext {
        subject: "user-1".into(),
        tenant_id: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        roles: vec!["tenant_user".into()],
        read_only: false,
        life: Duration::seconds(300),
    }
}

fn good_claims() -> Value {
    json!({
        "iss": "insula", "aud": "insula-pg", "sub": "user-1", "tenant": "acme",
        "tenant_id": "0190163d-8694-739b-aea5-966c26f8ad91", "roles": ["tenant_user"],
        "iat": NOW, "exp": NOW + 300
    })
}

/// Signs whatever it is given with the real key.
fn signed(keys: &MasterKeys, header: &Value, claims: &Value) -> String {
    let seed = keys.derive("context token key", &[], 1).unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).unwrap();
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn good_header() -> Value {
    json!({"typ": TYPE, "alg": "EdDSA", "kid": "1"})
}

#[test]
fn a_token_says_what_was_minted() {
    let (_, tokens) = tokens();
    for read_only in [false, true] {
        let minted = tokens.mint(NewContext { read_only, ..context() }, &At(NOW)).unwrap();
        let claims = tokens.verify(minted.expose(), &At(NOW + 299)).unwrap();
        assert_eq!(claims.tenant_id, context().tenant_id);
        assert_eq!((claims.tenant.as_str(), claims.subject.as_str()), ("acme", "user-1"));
        assert_eq!(claims.roles, ["tenant_user"]);
        assert_eq!((claims.read_only, claims.issued_at, claims.expires_at), (read_only, NOW, NOW + 300));
    }
}

#[test]
fn rotation_keeps_the_tokens_that_are_out() {
    let (keys, before) = tokens();
    let after = ContextTokens::new(&keys.rotated(&OsEntropy));
    let old = before.mint(context(), &At(NOW)).unwrap();
    assert!(after.verify(old.expose(), &At(NOW)).is_ok());
    let new = after.mint(context(), &At(NOW)).unwrap();
    assert_eq!(before.verify(new.expose(), &At(NOW)), Err(TokenRefused::UnknownKey));
}

#[test]
fn nobody_gets_a_longer_life() {
    let (keys, tokens) = tokens();
    for seconds in [-1, 0, 301] {
        let life = Duration::seconds(seconds);
        assert!(tokens.mint(NewContext { life, ..context() }, &At(NOW)).is_err());
    }
    let mut claims = good_claims();
    claims["exp"] = json!(NOW + 301);
    let token = signed(&keys, &good_header(), &claims);
    assert_eq!(tokens.verify(&token, &At(NOW)), Err(TokenRefused::WrongTimes));
}

#[test]
fn each_wrong_claim_is_refused_even_with_the_right_signature() {
    let (keys, tokens) = tokens();
    let verify = |claims: &Value| tokens.verify(&signed(&keys, &good_header(), claims), &At(NOW));
    assert!(verify(&good_claims()).is_ok(), "the canary: without a change it is good");
    let changed = [
        ("iss", json!("other"), TokenRefused::WrongParties),
        ("aud", json!("insula-http"), TokenRefused::WrongParties),
        ("aud", json!(["insula-pg", "other"]), TokenRefused::Malformed),
        ("exp", json!(NOW), TokenRefused::Expired),
        ("exp", json!(NOW - 1), TokenRefused::Expired),
        ("exp", json!("never"), TokenRefused::Malformed),
        ("iat", json!(NOW + 31), TokenRefused::WrongTimes),
        ("nbf", json!(NOW + 31), TokenRefused::WrongTimes),
        ("tenant_id", json!("acme"), TokenRefused::Malformed),
        ("tenant", json!("ACME"), TokenRefused::Malformed),
    ];
    for (name, value, expected) in changed {
        let mut claims = good_claims();
        claims[name] = value;
        assert_eq!(verify(&claims), Err(expected), "{claims}");
    }
    for missing in ["iss", "aud", "sub", "exp", "iat", "tenant_id", "tenant", "roles"] {
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(verify(&claims), Err(TokenRefused::Malformed), "without {missing}");
    }
}

#[test]
fn each_wrong_header_is_refused_even_with_the_right_signature() {
    let (keys, tokens) = tokens();
    let verify = |header: &Value| tokens.verify(&signed(&keys, header, &good_claims()), &At(NOW));
    assert!(verify(&good_header()).is_ok(), "the canary: without a change it is good");
    let changed = [
        ("typ", json!("JWT"), TokenRefused::WrongHeader),
        ("typ", json!("at+jwt"), TokenRefused::WrongHeader),
        ("alg", json!("none"), TokenRefused::Malformed),
        ("alg", json!("HS256"), TokenRefused::WrongHeader),
        ("alg", json!("ES256"), TokenRefused::WrongHeader),
        ("kid", json!("2"), TokenRefused::UnknownKey),
        ("kid", json!("../../1"), TokenRefused::UnknownKey),
        ("kid", json!("01"), TokenRefused::WrongHeader),
        ("crit", json!(["exp"]), TokenRefused::WrongHeader),
        ("jku", json!("https://evil.test/jwks"), TokenRefused::WrongHeader),
        ("anything", json!(1), TokenRefused::WrongHeader),
    ];
    for (name, value, expected) in changed {
        let mut header = good_header();
        header[name] = value;
        assert_eq!(verify(&header), Err(expected), "{header}");
    }
    for missing in ["typ", "kid"] {
        let mut header = good_header();
        header.as_object_mut().unwrap().remove(missing);
        assert!(verify(&header).is_err(), "without {missing}");
    }
}

#[test]
fn no_signature_and_the_public_key_as_a_secret_are_refused() {
    let (keys, tokens) = tokens();
    let none = json!({"typ": TYPE, "alg": "none", "kid": "1"});
    let head = URL_SAFE_NO_PAD.encode(none.to_string());
    let body = URL_SAFE_NO_PAD.encode(good_claims().to_string());
    assert_eq!(tokens.verify(&format!("{head}.{body}."), &At(NOW)), Err(TokenRefused::Malformed));
    let head = URL_SAFE_NO_PAD.encode(good_header().to_string());
    assert!(tokens.verify(&format!("{head}.{body}."), &At(NOW)).is_err());

    let seed = keys.derive("context token key", &[], 1).unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(TYPE.into());
    header.kid = Some("1".into());
    let public_as_secret = EncodingKey::from_secret(pair.public_key().as_ref());
    let forged = jsonwebtoken::encode(&header, &good_claims(), &public_as_secret).unwrap();
    assert_eq!(tokens.verify(&forged, &At(NOW)), Err(TokenRefused::WrongHeader));
}

#[test]
fn a_changed_byte_and_another_key_are_refused() {
    let (keys, tokens) = tokens();
    let token = signed(&keys, &good_header(), &good_claims());
    assert!(tokens.verify(&token, &At(NOW)).is_ok());
    for position in (0..token.len()).filter(|position| token.as_bytes()[*position] != b'.') {
        let mut bytes = token.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'Q' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(tokens.verify(&changed, &At(NOW)).is_err(), "byte {position}");
    }
    let other = signed(&MasterKeys::generate(&OsEntropy), &good_header(), &good_claims());
    assert_eq!(tokens.verify(&other, &At(NOW)), Err(TokenRefused::WrongSignature));
    for junk in ["", ".", "..", "...", "a.b.c", &"a".repeat(9000)] {
        assert!(tokens.verify(junk, &At(NOW)).is_err());
    }
}
