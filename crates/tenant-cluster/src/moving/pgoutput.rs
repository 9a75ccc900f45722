//! Messages of PostgreSQL's logical decoding plugin pgoutput, version 2: small
//! transactions come whole after their commit, and large ones in chunks while
//! they run. Total: no bytes make it panic, and it never takes more memory than
//! they have. Source: PostgreSQL's manual, "Logical Replication Message Formats".

#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes};
use thiserror::Error;

use super::Lsn;

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum DecodeError {
    /// They end inside it.
    #[error("the message ends too early")]
    Short,
    /// They go on behind it.
    #[error("the message goes on after its end")]
    Long,
    /// A name is no UTF-8.
    #[error("a name is not UTF-8")]
    Text,
    /// What stands there is not known.
    #[error("{0:?} is not known here")]
    Unknown(char),
    /// A chunk begins in a chunk, or what comes between chunks only is in one.
    #[error("{0:?} is out of place")]
    OutOfPlace(char),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Begin {
        /// Where the record of its commit begins.
        final_lsn: Lsn,
        /// Microseconds since 2000.
        committed: i64,
    },
    Commit {
        /// Where the record of its commit ends.
        end_lsn: Lsn,
        /// Microseconds since 2000.
        committed: i64,
    },
    /// The transaction was applied from elsewhere, under this name.
    Origin(String),
    Relation(RelationMessage),
    /// A type that is not built in: names are not needed here.
    Type,
    Insert {
        relation: u32,
        new: Vec<Cell>,
    },
    Update {
        relation: u32,
        /// The key or the row as it was, where it differs or is whole.
        old: Option<Vec<Cell>>,
        new: Vec<Cell>,
    },
    Delete {
        relation: u32,
        old: Vec<Cell>,
    },
    /// All rows of all these tables are gone.
    Truncate(Vec<u32>),
    Logical {
        transactional: bool,
        prefix: String,
        content: Bytes,
    },
    /// A chunk of a transaction begins that is not committed yet.
    ChunkStart,
    /// The chunk is over.
    ChunkEnd,
    /// A transaction of which chunks have come is committed.
    ChunksCommit(ChunksCommit),
    /// Such a transaction is rolled back, or, where the numbers differ, one
    /// inside it.
    ChunksAbort {
        xid: u32,
        inner: u32,
    },
}

/// The commit of a transaction of which chunks have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunksCommit {
    pub xid: u32,
    /// Where the record of its commit begins.
    pub final_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// Microseconds since 2000.
    pub committed: i64,
}

/// Of which transaction a message is that comes in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub xid: u32,
    /// The transaction inside it (a savepoint's) that has made the change, or
    /// itself.
    pub inner: u32,
}

/// A table as the following changes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelationMessage {
    pub id: u32,
    pub namespace: String,
    pub name: String,
    pub columns: Vec<RelationColumn>,
}

/// One of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelationColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    /// As it was; it is stored apart from the row (TOAST) and was not read.
    Unchanged,
    Text(Bytes),
}

/// Reads a stream, in which the form of a message depends on whether it is in
/// a chunk.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The transaction of the chunk.
    chunk: Option<u32>,
}

impl Reader {
    /// Reads a message; with it of what it is a part, where it is in a chunk.
    pub fn read(&mut self, bytes: Bytes) -> Result<(Option<Part>, Change), DecodeError> {
        let mut input = Input(bytes);
        let letter = input.u8()?;
        let mut chunk = self.chunk;
        let is_misplaced = match letter {
            b'B' | b'C' | b'S' | b'c' | b'A' => chunk.is_some(),
            b'E' => chunk.is_none(),
            _ => false,
        };
        if is_misplaced {
            return Err(DecodeError::OutOfPlace(char::from(letter)));
        }
        let part = match (chunk, letter) {
            (Some(xid), b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') => {
                Some(Part { xid, inner: input.u32()? })
            }
            (Some(xid), b'O') => Some(Part { xid, inner: xid }),
            _ => None,
        };
        let change = match letter {
            b'S' => {
                chunk = Some(input.u32()?);
                input.u8()?; // whether it is the first of its transaction
                Change::ChunkStart
            }
            b'E' => {
                chunk = None;
                Change::ChunkEnd
            }
            letter => decode(letter, &mut input)?,
        };
        if !input.0.is_empty() {
            return Err(DecodeError::Long);
        }
        self.chunk = chunk;
        Ok((part, change))
    }
}

/// Reads what is behind the letter, and the transaction's number, of a message.
fn decode(letter: u8, input: &mut Input) -> Result<Change, DecodeError> {
    Ok(match letter {
        b'B' => {
            let change = Change::Begin { final_lsn: input.lsn()?, committed: input.i64()? };
            input.u32()?; // the transaction's number
            change
        }
        b'C' => {
            input.u8()?; // flags, of which there are none
            input.lsn()?; // where the record of its commit begins
            Change::Commit { end_lsn: input.lsn()?, committed: input.i64()? }
        }
        b'c' => {
            let xid = input.u32()?;
            input.u8()?; // flags, of which there are none
            let (final_lsn, end_lsn, committed) = (input.lsn()?, input.lsn()?, input.i64()?);
            Change::ChunksCommit(ChunksCommit { xid, final_lsn, end_lsn, committed })
        }
        b'A' => Change::ChunksAbort { xid: input.u32()?, inner: input.u32()? },
        b'O' => {
            input.lsn()?; // where it was committed there
            Change::Origin(input.text()?)
        }
        b'R' => Change::Relation(relation(input)?),
        b'Y' => {
            input.u32()?;
            input.text()?;
            input.text()?;
            Change::Type
        }
        b'I' => {
            let relation = input.u32()?;
            input.expect(b'N')?;
            Change::Insert { relation, new: input.cells()? }
        }
        b'U' => update(input)?,
        b'D' => {
            let relation = input.u32()?;
            match input.u8()? {
                b'K' | b'O' => Change::Delete { relation, old: input.cells()? },
                other => return Err(DecodeError::Unknown(char::from(other))),
            }
        }
        b'T' => truncate(input)?,
        b'M' => {
            let transactional = input.u8()? & 1 == 1;
            input.lsn()?;
            let prefix = input.text()?;
            let length = input.u32()?;
            Change::Logical { transactional, prefix, content: input.take(length)? }
        }
        other => return Err(DecodeError::Unknown(char::from(other))),
    })
}

fn relation(input: &mut Input) -> Result<RelationMessage, DecodeError> {
    let (id, namespace, name) = (input.u32()?, input.text()?, input.text()?);
    input.u8()?; // the replica identity
    let count = input.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        input.u8()?; // whether it is of the key
        columns.push(RelationColumn {
            name: input.text()?,
            type_oid: input.u32()?,
            type_modifier: input.u32()?.cast_signed(),
        });
    }
    Ok(RelationMessage { id, namespace, name, columns })
}

fn update(input: &mut Input) -> Result<Change, DecodeError> {
    let relation = input.u32()?;
    let old = match input.u8()? {
        b'K' | b'O' => {
            let old = input.cells()?;
            input.expect(b'N')?;
            Some(old)
        }
        b'N' => None,
        other => return Err(DecodeError::Unknown(char::from(other))),
    };
    Ok(Change::Update { relation, old, new: input.cells()? })
}

fn truncate(input: &mut Input) -> Result<Change, DecodeError> {
    let count = input.u32()?;
    input.u8()?; // whether others went with them, which are listed, and sequences began anew
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(input.u32()?);
    }
    Ok(Change::Truncate(relations))
}

/// What is left of a message.
struct Input(Bytes);

impl Input {
    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::Short)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.try_get_u16().map_err(|_| DecodeError::Short)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| DecodeError::Short)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.0.try_get_i64().map_err(|_| DecodeError::Short)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.0.try_get_u64().map(Lsn::from).map_err(|_| DecodeError::Short)
    }

    fn expect(&mut self, letter: u8) -> Result<(), DecodeError> {
        match self.u8()? {
            found if found == letter => Ok(()),
            other => Err(DecodeError::Unknown(char::from(other))),
        }
    }

    fn take(&mut self, length: u32) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::Short)?;
        if self.0.len() < length { Err(DecodeError::Short) } else { Ok(self.0.split_to(length)) }
    }

    /// A text up to its zero byte.
    fn text(&mut self) -> Result<String, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Short)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| DecodeError::Text)
    }

    fn cells(&mut self) -> Result<Vec<Cell>, DecodeError> {
        let count = usize::from(self.u16()?);
        let mut cells = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            cells.push(match self.u8()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => {
                    let length = self.u32()?;
                    Cell::Text(self.take(length)?)
                }
                other => return Err(DecodeError::Unknown(char::from(other))),
            });
        }
        Ok(cells)
    }
}
