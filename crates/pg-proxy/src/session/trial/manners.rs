//! How much of what a client sends is as the protocol has it, and says nothing
//! that the server of a trial does not know.

use insula_pg_wire::Header;
use insula_pg_wire::frontend::{BindNames, Named, Parse, parse_query, tag};

use super::statement::{Statement, is_understood};

/// Longer names are another matter.
const NAME_BYTES_MAX: usize = 60;

/// Longer messages are.
const BODY_BYTES_MAX: u32 = 60_000;

/// What a client knows of where it stands.
#[derive(Debug, Default)]
struct Client {
    /// It has sent messages of the extended protocol, and no `Sync`.
    unsynced: bool,
    /// It has begun a COPY, and not ended it.
    copying: bool,
    /// What its statements and portals are, as far as one of them is a COPY.
    has_named_copy: bool,
}

/// How many bytes from the beginning on are proper.
pub(super) fn proper(stream: &[u8]) -> usize {
    let (mut client, mut at) = (Client::default(), 0);
    while let Ok(Some(header)) = Header::parse(&stream[at..]) {
        let end = at + header.message_bytes();
        let Some(message) = stream.get(at..end) else { break };
        if header.body_bytes > BODY_BYTES_MAX || !client.may_send(header.tag, &message[Header::BYTES..]) {
            break;
        }
        at = end;
    }
    at
}

impl Client {
    fn may_send(&mut self, message_tag: u8, body: &[u8]) -> bool {
        let is_of_copy = matches!(message_tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL);
        if self.copying && !is_of_copy && !(message_tag == tag::SYNC && self.unsynced) {
            return false;
        }
        match message_tag {
            tag::COPY_DATA => true,
            tag::COPY_DONE | tag::COPY_FAIL => std::mem::take(&mut self.copying),
            tag::SYNC => {
                // Whatever it falls into, the client sends another one behind
                // the data.
                self.unsynced = self.copying;
                body.is_empty()
            }
            tag::QUERY => !self.unsynced && self.query(body),
            tag::FUNCTION_CALL => !self.unsynced,
            tag::FLUSH => {
                self.unsynced = true;
                body.is_empty()
            }
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::CLOSE | tag::EXECUTE => {
                self.unsynced = true;
                self.extended(message_tag, body)
            }
            _ => false,
        }
    }

    fn query(&mut self, body: &[u8]) -> bool {
        let Ok(text) = parse_query(body) else { return false };
        self.copying = Statement::of(text) == Statement::CopyIn;
        is_understood(text)
    }

    fn extended(&mut self, message_tag: u8, body: &[u8]) -> bool {
        match message_tag {
            tag::PARSE => {
                let Ok(parse) = Parse::from_body(body) else { return false };
                self.has_named_copy |= Statement::of(parse.query) == Statement::CopyIn;
                // What would wander off with its name, or does not run so.
                let is_odd = matches!(
                    Statement::of(parse.query),
                    Statement::Deallocate(_) | Statement::DeallocateAll | Statement::DiscardAll
                );
                is_name(parse.name) && is_understood(parse.query) && !is_odd
            }
            tag::BIND => BindNames::from_beginning(body)
                .is_some_and(|names| is_name(names.portal) && is_name(names.statement)),
            tag::DESCRIBE | tag::CLOSE => match Named::from_body(body) {
                Ok(Named::Statement(name) | Named::Portal(name)) => is_name(name),
                Err(_) => false,
            },
            _ => {
                // It cannot be known which, so data may follow, and must end.
                self.copying = self.has_named_copy;
                body.len() >= 5 && body.iter().position(|byte| *byte == 0) == Some(body.len() - 5)
            }
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX
}
