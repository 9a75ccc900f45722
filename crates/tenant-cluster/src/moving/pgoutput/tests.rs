//! What is read is what was written; what was cut or changed is an error or
//! something else, and never a panic; and a corpus of messages as PostgreSQL
//! 15 has sent them.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_cells(out: &mut BytesMut, cells: &[Cell]) {
    out.put_u16(u16::try_from(cells.len()).unwrap());
    for cell in cells {
        match cell {
            Cell::Null => out.put_u8(b'n'),
            Cell::Unchanged => out.put_u8(b'u'),
            Cell::Text(text) => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap());
                out.put_slice(text);
            }
        }
    }
}

/// The message as a server writes it.
fn encode(change: &Change) -> Bytes {
    encode_part(None, change)
}

/// The same with the number of the transaction that has made the change, in a chunk.
fn encode_part(inner: Option<u32>, change: &Change) -> Bytes {
    let mut plain = BytesMut::new();
    put(&mut plain, change);
    let mut out = plain.split_to(1);
    if let Some(inner) = inner.filter(|_| !matches!(change, Change::Origin(_))) {
        out.put_u32(inner);
    }
    out.put_slice(&plain);
    out.freeze()
}

fn put(out: &mut BytesMut, change: &Change) {
    match change {
        Change::Begin { final_lsn, committed } => {
            out.put_u8(b'B');
            out.put_u64((*final_lsn).into());
            out.put_i64(*committed);
            out.put_u32(741);
        }
        Change::Commit { end_lsn, committed } => {
            out.put_slice(b"C\0");
            out.put_u64(1);
            out.put_u64((*end_lsn).into());
            out.put_i64(*committed);
        }
        Change::Origin(name) => {
            out.put_u8(b'O');
            out.put_u64(7);
            put_text(out, name);
        }
        Change::Relation(relation) => put_relation(out, relation),
        Change::Type => {
            out.put_u8(b'Y');
            out.put_u32(9);
            put_text(out, "app");
            put_text(out, "colour");
        }
        Change::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            out.put_u8(b'N');
            put_cells(out, new);
        }
        Change::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            if let Some(old) = old {
                out.put_u8(b'K');
                put_cells(out, old);
            }
            out.put_u8(b'N');
            put_cells(out, new);
        }
        Change::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            out.put_u8(b'O');
            put_cells(out, old);
        }
        Change::Truncate(relations) => {
            out.put_u8(b'T');
            out.put_u32(u32::try_from(relations.len()).unwrap());
            out.put_u8(3);
            relations.iter().for_each(|relation| out.put_u32(*relation));
        }
        Change::Logical { transactional, prefix, content } => {
            out.put_u8(b'M');
            out.put_u8(u8::from(*transactional));
            out.put_u64(3);
            put_text(out, prefix);
            out.put_u32(u32::try_from(content.len()).unwrap());
            out.put_slice(content);
        }
        Change::ChunkStart => out.put_slice(b"S\0\0\0\x07\x01"),
        Change::ChunkEnd => out.put_u8(b'E'),
        Change::ChunksCommit(commit) => {
            out.put_u8(b'c');
            out.put_u32(commit.xid);
            out.put_u8(0);
            out.put_u64(commit.final_lsn.into());
            out.put_u64(commit.end_lsn.into());
            out.put_i64(commit.committed);
        }
        Change::ChunksAbort { xid, inner } => {
            out.put_u8(b'A');
            out.put_u32(*xid);
            out.put_u32(*inner);
        }
    }
}

fn put_relation(out: &mut BytesMut, relation: &RelationMessage) {
    out.put_u8(b'R');
    out.put_u32(relation.id);
    put_text(out, &relation.namespace);
    put_text(out, &relation.name);
    out.put_u8(b'd');
    out.put_u16(u16::try_from(relation.columns.len()).unwrap());
    for column in &relation.columns {
        out.put_u8(1);
        put_text(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_u32(column.type_modifier.cast_unsigned());
    }
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let text = vec(any::<u8>(), 0..20).prop_map(|bytes| Cell::Text(bytes.into()));
    vec(prop_oneof![Just(Cell::Null), Just(Cell::Unchanged), text], 0..8)
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn relation_message() -> impl Strategy<Value = Change> {
    let column = (name(), any::<u32>(), any::<i32>())
        .prop_map(|(name, type_oid, type_modifier)| RelationColumn { name, type_oid, type_modifier });
    (any::<u32>(), name(), name(), vec(column, 0..6)).prop_map(|(id, namespace, name, columns)| {
        Change::Relation(RelationMessage { id, namespace, name, columns })
    })
}

/// What comes only between chunks.
fn boundary() -> impl Strategy<Value = Change> {
    let lsn = any::<u64>().prop_map(Lsn::from);
    let commit = (any::<u32>(), lsn.clone(), lsn.clone(), any::<i64>());
    prop_oneof![
        (lsn.clone(), any::<i64>()).prop_map(|(final_lsn, committed)| Change::Begin { final_lsn, committed }),
        (lsn, any::<i64>()).prop_map(|(end_lsn, committed)| Change::Commit { end_lsn, committed }),
        Just(Change::ChunkStart),
        commit.prop_map(|(xid, final_lsn, end_lsn, committed)| {
            Change::ChunksCommit(ChunksCommit { xid, final_lsn, end_lsn, committed })
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(xid, inner)| Change::ChunksAbort { xid, inner }),
    ]
}

/// What comes in transactions, whole ones or chunks.
fn content() -> impl Strategy<Value = Change> {
    prop_oneof![
        name().prop_map(Change::Origin),
        relation_message(),
        Just(Change::Type),
        (any::<u32>(), cells()).prop_map(|(relation, new)| Change::Insert { relation, new }),
        (any::<u32>(), proptest::option::of(cells()), cells())
            .prop_map(|(relation, old, new)| Change::Update { relation, old, new }),
        (any::<u32>(), cells()).prop_map(|(relation, old)| Change::Delete { relation, old }),
        vec(any::<u32>(), 0..5).prop_map(Change::Truncate),
        (any::<bool>(), name(), vec(any::<u8>(), 0..20)).prop_map(|(transactional, prefix, content)| {
            Change::Logical { transactional, prefix, content: content.into() }
        }),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![boundary(), content()]
}

/// Reads a message outside of chunks.
fn decode(bytes: Bytes) -> Result<Change, DecodeError> {
    Reader::default().read(bytes).map(|(part, change)| {
        assert_eq!(part, None);
        change
    })
}

/// A reader in a chunk of the transaction 7.
fn in_chunk() -> Reader {
    let mut reader = Reader::default();
    assert_eq!(reader.read(encode(&Change::ChunkStart)), Ok((None, Change::ChunkStart)));
    reader
}

proptest! {
    #[test]
    fn what_was_written_is_read(change in change()) {
        prop_assert_eq!(decode(encode(&change)), Ok(change));
    }

    #[test]
    fn what_comes_in_a_chunk_is_read_as_a_part(change in content(), inner in any::<u32>()) {
        let mut reader = in_chunk();
        let inner = if matches!(change, Change::Origin(_)) { 7 } else { inner };
        let whole = encode_part(Some(inner), &change);
        for end in 0..whole.len() {
            prop_assert!(in_chunk().read(whole.slice(..end)).is_err());
        }
        prop_assert_eq!(reader.read(whole), Ok((Some(Part { xid: 7, inner }), change.clone())));
        prop_assert_eq!(reader.read(encode(&Change::ChunkEnd)), Ok((None, Change::ChunkEnd)));
        prop_assert_eq!(reader.read(encode(&change)), Ok((None, change)));
    }

    #[test]
    fn what_comes_between_chunks_is_in_none(change in boundary()) {
        let refused = in_chunk().read(encode(&change));
        prop_assert!(matches!(refused, Err(DecodeError::OutOfPlace(_))), "{:?}", refused);
        prop_assert_eq!(decode(encode(&Change::ChunkEnd)), Err(DecodeError::OutOfPlace('E')));
    }

    #[test]
    fn what_is_cut_or_goes_on_is_refused(change in change(), at in any::<prop::sample::Index>()) {
        let whole = encode(&change);
        prop_assert!(decode(whole.slice(..at.index(whole.len()))).is_err());
        prop_assert_eq!(decode([&whole[..], b"x"].concat().into()), Err(DecodeError::Long));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200), letter in "[BCORYIUDTMSEcA]") {
        let _ = decode(bytes.clone().into());
        let _ = in_chunk().read([letter.as_bytes(), &bytes].concat().into());
        let _ = decode([letter.as_bytes(), &bytes].concat().into());
    }

    #[test]
    fn a_byte_that_is_another_does_not_make_it_panic(
        change in change(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = encode(&change).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(bytes.into());
    }
}

#[test]
fn a_number_of_values_takes_no_memory_before_they_are_there() {
    assert_eq!(decode(Bytes::from_static(b"I\0\0\0\x01N\xff\xff")), Err(DecodeError::Short));
    assert_eq!(decode(Bytes::from_static(b"T\xff\xff\xff\xff\0")), Err(DecodeError::Short));
    assert_eq!(
        decode(Bytes::from_static(b"M\x01\0\0\0\0\0\0\0\0p\0\xff\xff\xff\xff")),
        Err(DecodeError::Short)
    );
}

fn bytes(hex: &str) -> Bytes {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// What PostgreSQL 15 has sent for a table `a (id int primary key, t text, m
/// mood, n numeric)`.
#[test]
fn what_postgresql_has_sent_is_read() {
    let text = |text: &'static str| Cell::Text(Bytes::from_static(text.as_bytes()));
    let column = |name: &str, type_oid, type_modifier| RelationColumn {
        name: name.to_owned(),
        type_oid,
        type_modifier,
    };
    let columns =
        vec![column("id", 23, -1), column("t", 25, -1), column("m", 16385, -1), column("n", 1700, -1)];
    let relation = 16387;
    let corpus = [
        (
            "42000000000153ad08000303cd2429577f000002d9",
            Change::Begin { final_lsn: Lsn::from(0x153_ad08), committed: 848_604_540_000_127 },
        ),
        ("59000040017075626c6963006d6f6f6400", Change::Type),
        (
            "52000040037075626c69630061006400040169640000000017ffffffff00740000000019ffffffff006d0000004001\
             ffffffff006e00000006a4ffffffff",
            Change::Relation(RelationMessage {
                id: relation,
                namespace: "public".to_owned(),
                name: "a".to_owned(),
                columns,
            }),
        ),
        (
            "49000040034e00047400000001317400000005787878787874000000037361646e",
            Change::Insert { relation, new: vec![text("1"), text("xxxxx"), text("sad"), Cell::Null] },
        ),
        (
            "55000040034e00047400000001317574000000037361647400000003312e35",
            Change::Update {
                relation,
                old: None,
                new: vec![text("1"), Cell::Unchanged, text("sad"), text("1.5")],
            },
        ),
        (
            "55000040034b00047400000001316e6e6e4e00047400000001327574000000037361647400000003312e35",
            Change::Update {
                relation,
                old: Some(vec![text("1"), Cell::Null, Cell::Null, Cell::Null]),
                new: vec![text("2"), Cell::Unchanged, text("sad"), text("1.5")],
            },
        ),
        (
            "44000040034b00047400000001326e6e6e",
            Change::Delete { relation, old: vec![text("2"), Cell::Null, Cell::Null, Cell::Null] },
        ),
        ("54000000010300004003", Change::Truncate(vec![relation])),
        (
            "4d01000000000153cb30696e73756c6100000000026d31",
            Change::Logical {
                transactional: true,
                prefix: "insula".to_owned(),
                content: Bytes::from_static(b"m1"),
            },
        ),
        ("4f0000000000001234696e73756c615f6d6f76655f3000", Change::Origin("insula_move_0".to_owned())),
        (
            "4300000000000153cc40000000000153cc88000303cd24295e96",
            Change::Commit { end_lsn: Lsn::from(0x153_cc88), committed: 848_604_540_001_942 },
        ),
    ];
    for (hex, change) in corpus {
        assert_eq!(decode(bytes(hex)), Ok(change), "{hex}");
    }
}
