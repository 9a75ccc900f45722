//! What is written reads back, the layout is PostgreSQL's, and no bytes panic.

use proptest::prelude::*;

use super::*;
use crate::fields::Severity;
use crate::message::{Message, read_message};

fn written(put: impl FnOnce(&mut BytesMut)) -> Message {
    let mut out = BytesMut::new();
    put(&mut out);
    let message = read_message(&mut out, 1 << 20).unwrap().unwrap();
    assert!(out.is_empty());
    message
}

#[test]
fn authentication_reads_back() {
    let all = [
        Authentication::Ok,
        Authentication::CleartextPassword,
        Authentication::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]),
        Authentication::SaslContinue(b"r=abc"),
        Authentication::SaslFinal(b"v=abc"),
        Authentication::Other(5),
    ];
    for authentication in all {
        let message = written(|out| authentication.put(out));
        assert_eq!(message.tag, tag::AUTHENTICATION);
        assert_eq!(Authentication::from_body(&message.body), Ok(authentication));
    }
}

#[test]
fn an_error_carries_its_fields() {
    let fields = ErrorFields {
        severity: Severity::Fatal,
        sqlstate: "28P01",
        message: "no\0t so".to_owned(),
        detail: Some("because".to_owned()),
        hint: Some("insula: login_refused".to_owned()),
    };
    let message = written(|out| put_error(out, &fields));
    assert_eq!(message.tag, tag::ERROR_RESPONSE);
    let body = &message.body[..];
    assert_eq!(body, b"SFATAL\0VFATAL\0C28P01\0Mnot so\0Dbecause\0Hinsula: login_refused\0\0");
    assert_eq!(parse_error(body), Ok(("28P01".to_owned(), "not so".to_owned())));
    assert!(parse_error(&body[..body.len() - 1]).is_err());
}

#[test]
fn the_small_messages_are_as_postgresql_writes_them() {
    for length in [4, 32, 256] {
        let key = CancelKey { process_id: 1, secret: CancelSecret::new(&vec![2; length]).unwrap() };
        let message = written(|out| put_backend_key_data(out, &key));
        assert_eq!((message.body.len(), parse_backend_key_data(&message.body)), (4 + length, Ok(key)));
    }
    assert!(parse_backend_key_data(&[0; 7]).is_err() && parse_backend_key_data(&[0; 261]).is_err());
    let message = written(|out| put_parameter_status(out, "TimeZone", "UTC"));
    assert_eq!(parse_parameter_status(&message.body), Ok((&b"TimeZone"[..], &b"UTC"[..])));
    for letter in *b"ITE" {
        let status = TransactionStatus::from_letter(letter).unwrap();
        let message = written(|out| put_ready_for_query(out, status));
        assert_eq!(parse_ready_for_query(&message.body), Ok(status));
    }
    let message = written(|out| put_negotiate_protocol_version(out, 2, &[b"_pq_.x"]));
    assert_eq!(&message.body[..], b"\0\x03\0\x02\0\0\0\x01_pq_.x\0");
    assert_eq!(parse_negotiate_protocol_version(&message.body), Ok((2, 1)));
    for broken in [&b""[..], b"\0\x02\0\0\0\0\0\0", b"\0\x03\0\0\0\0\0\x01", b"\0\x03\0\0\xff\xff\xff\xff"] {
        assert!(parse_negotiate_protocol_version(broken).is_err(), "{broken:?}");
    }
    let message = written(|out| put_text_row_description(out, &["a"]));
    let column = Column { name: b"a", type_oid: TEXT_OID, modifier: -1 };
    assert_eq!(parse_row_description(&message.body), Ok(vec![column]));
    assert_eq!(&message.body[..], b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    let message = written(|out| put_data_row(out, &[Some(b"x"), None]));
    assert_eq!(&message.body[..], b"\0\x02\0\0\0\x01x\xff\xff\xff\xff");
    let message = written(|out| put_command_complete(out, "SHOW"));
    assert_eq!(&message.body[..], b"SHOW\0");
    assert!(TransactionStatus::from_letter(b'X').is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = (Authentication::from_body(&bytes), parse_error(&bytes), parse_backend_key_data(&bytes));
        let _ = (parse_parameter_status(&bytes), parse_ready_for_query(&bytes));
        let _ = (parse_row_description(&bytes), parse_data_row(&bytes));
        let _ = read_message(&mut BytesMut::from(&bytes[..]), 50);
    }

    #[test]
    fn a_message_is_whole_or_waited_for_or_too_long(
        tag in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..60),
        cut in any::<prop::sample::Index>(),
        max in 0_u32..60,
    ) {
        let mut bytes = BytesMut::new();
        message(&mut bytes, tag, |out| out.put_slice(&body));
        let mut part = BytesMut::from(&bytes[..cut.index(bytes.len())]);
        let fits = body.len() <= max as usize;
        match read_message(&mut part, max) {
            Ok(None) => prop_assert!(fits || part.len() < 5),
            Ok(Some(_)) => prop_assert!(false, "a part is not the whole"),
            Err(_) => prop_assert!(!fits),
        }
        match read_message(&mut bytes, max) {
            Ok(Some(message)) => {
                prop_assert!(fits);
                prop_assert_eq!((message.tag, &message.body[..]), (tag, &body[..]));
            }
            Ok(None) => prop_assert!(false, "the whole is there"),
            Err(_) => prop_assert!(!fits),
        }
    }
}
