//! What looks at SQL texts: a text is judged the same whether it is held or read
//! as it passes, in whichever pieces.

use bytes::BytesMut;
use insula_domain::Isolation;
use insula_pg_wire::Header;
use insula_pg_wire::frontend::{Parse, put_query, tag};
use insula_session_sql::{Effects, Watch, effects};

use crate::guard::Guard;

/// The first byte says how the text that follows is cut, and in which model.
///
/// # Panics
/// Where it depends on how it is cut whether it is refused, or what it leaves
/// behind; or where a refusal is no whole message.
pub fn statements(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != 0).collect();
    let isolation = Isolation::ALL[usize::from(choice % 4)];
    let cut = usize::from(choice / 4).max(1);
    for message_tag in [tag::QUERY, tag::PARSE] {
        let message = message(message_tag, &text);
        let (mut guard, mut out) = (Guard::new(isolation), BytesMut::new());
        let is_rewritten = guard.rewrite(message_tag, &message[Header::BYTES..], &mut out);
        for cut in [cut, message.len()] {
            let refused = passes(isolation, message_tag, &message, cut).is_err();
            // One that is held and plainly a single harmless statement may be read
            // in several ways for all that.
            let is_stricter = refused && !text.contains(&b';');
            assert!(refused == is_rewritten || is_stricter, "how it comes counts: {}", text.escape_ascii());
        }
        if is_rewritten {
            let header = Header::parse(&out).unwrap().unwrap();
            assert_eq!((header.tag, header.message_bytes()), (message_tag, out.len()), "no whole message");
        }
    }
    let left = effects(&text);
    let watched = watch(&text, cut);
    assert_eq!(watched, watch(&text, text.len()), "it depends on how it comes: {}", text.escape_ascii());
    assert!(is_covered(&left, &watched), "{}: {left:?}, but {watched:?}", text.escape_ascii());
}

fn message(message_tag: u8, text: &[u8]) -> BytesMut {
    let mut message = BytesMut::new();
    if message_tag == tag::QUERY {
        put_query(&mut message, text).unwrap();
    } else {
        Parse { name: b"name", query: text, parameter_types: &[0, 0] }.put(&mut message).unwrap();
    }
    message
}

/// As if it were too long to be held.
fn passes(isolation: Isolation, message_tag: u8, message: &[u8], cut: usize) -> Result<(), ()> {
    let mut guard = Guard::new(isolation);
    let _ = guard.begins(Header { tag: message_tag, body_bytes: u32::MAX / 2 });
    let last = message.len().div_ceil(cut) - 1;
    for (index, piece) in message.chunks(cut).enumerate() {
        guard.piece(piece, index == last).map_err(drop)?;
    }
    Ok(())
}

fn watch(text: &[u8], cut: usize) -> Effects {
    let mut watch = Watch::new();
    text.chunks(cut.max(1)).for_each(|piece| watch.feed(piece));
    watch.finish()
}

/// Whether one that is careful knows of everything that the other one does.
fn is_covered(left: &Effects, watched: &Effects) -> bool {
    let names = !left.custom_settings.is_empty() || left.deallocates.is_some();
    let covers = |left: bool, watched: bool| !left || watched;
    covers(left.pin.is_some() || names, watched.pin.is_some())
        && covers(left.changes_settings, watched.changes_settings || watched.pin.is_some())
        && covers(left.resets_settings, watched.resets_settings || watched.pin.is_some())
        && covers(left.drops_prepared, watched.drops_prepared || watched.pin.is_some())
        && covers(left.reads_sequences, watched.reads_sequences)
        && covers(left.changes_definitions, watched.changes_definitions)
}
