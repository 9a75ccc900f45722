//! The parser of messages: the same whichever way the bytes are cut, and what is
//! written again is what was read.

use bytes::BytesMut;
use insula_pg_wire::backend::{
    Authentication, error_fields, parse_backend_key_data, parse_command_complete, parse_data_row,
    parse_error, parse_negotiate_protocol_version, parse_parameter_status, parse_ready_for_query,
    put_backend_key_data, put_data_row, put_error_fields,
};
use insula_pg_wire::frontend::{
    BindNames, Named, Parse, SaslInitialResponse, parse_password, parse_query, put_query, tag,
};
use insula_pg_wire::startup::{
    StartupPacket, put_cancel_request, put_session_start_of, read_packet, recognise_foreign,
};
use insula_pg_wire::{Handling, Header, Scanner, Step, WireError};

/// The packet with which a connection begins.
///
/// # Panics
/// Where it is read otherwise when it comes byte by byte, or is written
/// otherwise than it was read.
pub fn startup(data: &[u8]) {
    let _ = recognise_foreign(data);
    let mut whole = BytesMut::from(data);
    let read = read_packet(&mut whole);
    let used = data.len() - whole.len();
    let mut bytes = BytesMut::new();
    let bit_by_bit = data.iter().find_map(|byte| {
        bytes.extend_from_slice(&[*byte]);
        read_packet(&mut bytes).transpose()
    });
    assert_eq!(read.clone().transpose(), bit_by_bit, "it depends on how it comes");
    let mut again = BytesMut::new();
    match read {
        Ok(Some(StartupPacket::Cancel(key))) => {
            put_cancel_request(&mut again, &key);
            assert_eq!(again, data[..used], "another cancel");
        }
        Ok(Some(StartupPacket::Session(start))) => {
            assert!(start.spoken_version() <= start.minor_version, "newer than was asked for");
            let parameters: Vec<_> =
                start.parameters.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            put_session_start_of(&mut again, start.minor_version, &parameters).unwrap();
            assert_eq!(again, data[..used], "another session");
        }
        Ok(_) | Err(_) => {}
    }
}

/// What a scanner makes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// All bytes that went on, in their order.
    passed: Vec<u8>,
    /// The messages that were held, watched, or whose beginning was held.
    looked_at: Vec<(u8, Vec<u8>)>,
    /// A message that is watched, as far as it has come.
    watching: Vec<u8>,
    error: Option<WireError>,
}

/// The first byte says how the rest is cut. What is done with a message depends
/// on its type.
///
/// # Panics
/// Where that depends on how it is cut, or bytes are lost or added.
pub fn stream(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let whole = scan(data, data.len());
    let pieces = scan(data, usize::from(*cut).max(1));
    assert_eq!(whole, pieces, "it depends on how it comes");
    assert!(data.starts_with(&whole.passed), "not what came");
    for (message_tag, message) in &whole.looked_at {
        let header = Header::parse(message).unwrap().unwrap();
        assert_eq!(header.tag, *message_tag);
        bodies(*message_tag, message, header);
    }
}

fn scan(data: &[u8], cut: usize) -> Seen {
    let (mut scanner, mut buffer, mut seen) = (Scanner::default(), BytesMut::new(), Seen::default());
    let decide = |header: Header| match header.tag {
        tag::QUERY if header.body_bytes > 1000 => Handling::Watch,
        tag::PARSE if header.body_bytes.is_multiple_of(2) => Handling::Watch,
        tag::BIND => Handling::Begin,
        tag::COPY_DATA => Handling::Pass,
        _ if header.body_bytes < 10_000 => Handling::Hold,
        _ => Handling::Pass,
    };
    for piece in data.chunks(cut.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let (count, looked_at) = match scanner.step(&buffer, decide) {
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
                Ok(Step::NeedMore) => break,
                Ok(Step::Pass(count)) => (count, None),
                Ok(Step::Whole(header)) => (header.message_bytes(), Some(header.tag)),
                Ok(Step::Beginning { header, count }) => (count, Some(header.tag)),
                Ok(Step::Watched { count, is_last }) => {
                    seen.watching.extend_from_slice(&buffer[..count]);
                    if is_last {
                        let watched = std::mem::take(&mut seen.watching);
                        seen.looked_at.push((watched[0], watched));
                    }
                    (count, None)
                }
            };
            let bytes = buffer.split_to(count);
            if let Some(message_tag) = looked_at {
                seen.looked_at.push((message_tag, bytes.to_vec()));
            }
            seen.passed.extend_from_slice(&bytes);
        }
    }
    seen
}

/// Every reader of bodies takes any bytes; what can be written is written as it
/// was read.
fn bodies(message_tag: u8, message: &[u8], header: Header) {
    let body = &message[Header::BYTES..];
    let _ = (Authentication::from_body(body), SaslInitialResponse::from_body(body), parse_password(body));
    let _ = (parse_error(body), parse_parameter_status(body), parse_ready_for_query(body));
    let _ = (parse_command_complete(body), parse_negotiate_protocol_version(body));
    let same = |what: &str, put: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        put(&mut out);
        assert_eq!(out[Header::BYTES..], *body, "{what}");
    };
    if let Ok(query) = parse_query(body) {
        same("Query", &|out| put_query(out, query).unwrap());
    }
    if let Ok(parse) = Parse::from_body(body) {
        same("Parse", &|out| parse.put(out).unwrap());
    }
    if let Ok(named) = Named::from_body(body) {
        same("Describe", &|out| named.put(tag::DESCRIBE, out));
    }
    if let Ok(key) = parse_backend_key_data(body) {
        same("BackendKeyData", &|out| put_backend_key_data(out, &key));
    }
    if let Ok(values) = parse_data_row(body)
        // A negative length is a null, whichever it is, and there are fewer columns.
        && values.iter().all(Option::is_some)
    {
        same("DataRow", &|out| put_data_row(out, &values));
    }
    if let Ok(fields) = error_fields(body) {
        let mut out = BytesMut::new();
        put_error_fields(&mut out, &fields);
        assert_eq!(error_fields(&out[Header::BYTES..]), Ok(fields), "ErrorResponse");
    }
    if message_tag == tag::BIND
        && let Some(names) = BindNames::from_beginning(body)
    {
        let mut out = BytesMut::new();
        let missing = header.message_bytes() - message.len();
        names.put(missing, &mut out).unwrap();
        assert_eq!(out, *message, "Bind");
    }
}
