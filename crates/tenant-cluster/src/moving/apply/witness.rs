//! How far a stream is where PostgreSQL's word for it cannot be relied on. From
//! version 16 on a transaction that is rolled back moves its session's origin just
//! as one that is committed does (`RecordTransactionAbort` in
//! `src/backend/access/transam/xact.c`), so that changes would be taken for applied
//! that are not. A stream there has two origins more, which are moved outside of
//! its transactions: one is behind what is known to be committed, the other says
//! which transaction was about to be. Who goes on asks what became of that one.

use super::super::wire::Wire;
use super::super::{Lsn, StreamName};
use super::fault::StreamFault;

/// The SQLSTATE of an origin that another session has.
pub(super) const IN_USE: &str = "55006";

/// What the origins of a stream say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    /// Its own.
    applied: Option<Lsn>,
    /// What is known to be committed.
    known: Option<Lsn>,
}

/// What became of the transaction that has moved the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Committed,
    RolledBack,
    UnderWay,
    /// The server has forgotten it, or there was none.
    Unknown,
}

/// What becomes of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    AsItIs,
    Back(Lsn),
    NotYet,
}

impl Said {
    /// Whether the origin may have been moved by what was rolled back.
    fn is_in_doubt(&self) -> bool {
        self.applied > self.known
    }

    fn settled(&self, outcome: Outcome) -> Result<Settled, StreamFault> {
        match outcome {
            _ if !self.is_in_doubt() => Ok(Settled::AsItIs),
            Outcome::Committed => Ok(Settled::AsItIs),
            Outcome::RolledBack => Ok(Settled::Back(self.known.unwrap_or(Lsn::from(0)))),
            Outcome::UnderWay => Ok(Settled::NotYet),
            Outcome::Unknown => Err(StreamFault::Refused(format!(
                "its origin is at {}, and nobody knows any more whether what has moved it there was committed",
                self.applied.unwrap_or(Lsn::from(0))
            ))),
        }
    }
}

/// Whether the stream has witnesses at its target.
pub(super) async fn has_witnesses(wire: &mut Wire, name: StreamName) -> Result<bool, StreamFault> {
    let sql = format!("select from pg_replication_origin where roname = '{}'", name.known());
    Ok(!wire.simple(&sql).await?.is_empty())
}

/// Sees to it that the stream's origin is no further than what is committed, or
/// finds that a former session is still ending. Only while nobody else applies the
/// stream.
pub(super) async fn settle(wire: &mut Wire, name: StreamName) -> Result<bool, StreamFault> {
    let (known, mover) = (name.known(), name.mover());
    let of = |origin: &str| {
        format!(
            "(select nullif(remote_lsn, '0/0') from pg_replication_origin_status where external_id = '{origin}')"
        )
    };
    let said = wire.simple(&format!("select {}, {}", of(&name.to_string()), of(&known))).await?;
    let said = read(said.first().map_or(&[], Vec::as_slice))?;
    if !said.is_in_doubt() {
        return Ok(true);
    }
    let asked = format!("select pg_xact_status(({} - '0/0'::pg_lsn)::text::xid8)", of(&mover));
    let status = wire.simple(&asked).await?.into_iter().flatten().flatten().next();
    let outcome = match status.as_deref() {
        Some("committed") => Outcome::Committed,
        Some("aborted") => Outcome::RolledBack,
        Some(_) => Outcome::UnderWay,
        None => Outcome::Unknown,
    };
    let back = match said.settled(outcome)? {
        Settled::AsItIs => return Ok(true),
        Settled::NotYet => return Ok(false),
        Settled::Back(back) => back,
    };
    tracing::info!(stream = %name, to = %back, "the origin was behind what was rolled back, and is set back");
    match wire.simple(&format!("select pg_replication_origin_advance('{name}', '{back}')")).await {
        Ok(_) => Ok(true),
        Err(fault) if fault.sqlstate() == Some(IN_USE) => Ok(false),
        Err(fault) => Err(fault.into()),
    }
}

fn read(row: &[Option<String>]) -> Result<Said, StreamFault> {
    let lsn = |column: usize| {
        let text = row.get(column).and_then(Option::as_deref);
        text.map(str::parse).transpose().map_err(|_| StreamFault::Refused("a place is not read".to_owned()))
    };
    Ok(Said { applied: lsn(0)?, known: lsn(1)? })
}

/// Says which transaction is about to move the stream's origin: this one.
pub(super) fn about_to_move(name: StreamName) -> String {
    format!(
        "select pg_replication_origin_advance('{}', '0/0'::pg_lsn + pg_current_xact_id()::text::numeric)",
        name.mover()
    )
}

/// Says that all is committed up to where the stream's origin is, in the session
/// that has it.
pub(super) fn is_known(name: StreamName) -> String {
    format!(
        "select pg_replication_origin_advance('{}', coalesce(pg_replication_origin_session_progress(false), '0/0'))",
        name.known()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_set_back_where_it_was_moved_by_what_was_rolled_back_and_nowhere_else() {
        let [none, one, two] = [None, Some(Lsn::from(1)), Some(Lsn::from(2))];
        let said = |applied, known| Said { applied, known };
        for outcome in [Outcome::Committed, Outcome::RolledBack, Outcome::UnderWay, Outcome::Unknown] {
            for sure in [said(none, none), said(one, one), said(one, two), said(none, one)] {
                assert_eq!(sure.settled(outcome), Ok(Settled::AsItIs), "{sure:?} {outcome:?}");
            }
        }
        for (doubted, back) in [(said(one, none), Lsn::from(0)), (said(two, one), Lsn::from(1))] {
            assert_eq!(doubted.settled(Outcome::Committed), Ok(Settled::AsItIs));
            assert_eq!(doubted.settled(Outcome::RolledBack), Ok(Settled::Back(back)));
            assert_eq!(doubted.settled(Outcome::UnderWay), Ok(Settled::NotYet));
            assert!(!doubted.settled(Outcome::Unknown).unwrap_err().is_away());
        }
    }

    #[test]
    fn places_are_read_as_the_server_writes_them() {
        let text = |text: &str| Some(text.to_owned());
        let said = read(&[text("0/16B3748"), None]).unwrap();
        assert_eq!(said, Said { applied: Some(Lsn::from(0x16B_3748)), known: None });
        assert!(read(&[text("nowhere"), None]).is_err());
    }
}
