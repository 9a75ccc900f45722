//! A tag that is to be kept by another backend: how far that is, which stands in
//! the table of tags itself. Every step is a new version of the table, so that a
//! store knows by it which writes were decided before. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

use crate::tag::{BackendName, Kind, OWN_BACKEND, Tag, TagTable};

/// How often the writes of a tag are held in vain before its move ends.
const TRIES_MAX: u32 = 5;

/// Where the move of a tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagMoveState {
    /// Its values are brought while they are written.
    Carrying,
    /// Writes wait while what came last is brought.
    Held,
    /// It has ended, and the tag is where it was.
    Failed,
}

impl TagMoveState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Carrying => "carrying",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// The move of a tag to another backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagMove {
    /// To which backend.
    pub to: BackendName,
    /// Where it is.
    pub state: TagMoveState,
    /// The stores whose values are to be brought.
    pub parts: BTreeSet<String>,
    /// Those of them that are ready for the next state.
    #[serde(default)]
    pub done: BTreeSet<String>,
    /// When it was begun: what was brought for one of before counts for nothing.
    #[serde(with = "time::serde::rfc3339")]
    pub begun: OffsetDateTime,
    /// Since when it is in this state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Who wants it.
    pub author: String,
    /// How often writes were held in vain.
    #[serde(default)]
    pub tries: u32,
    /// Why it has ended, or begins again.
    #[serde(default)]
    pub cause: String,
}

impl TagMove {
    /// Whether it goes on.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.state != TagMoveState::Failed
    }
}

/// Why a tag is not moved.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MoveRefused {
    /// There is no such tag.
    #[error("there is no tag {tag:?}; there are {tags}")]
    Unknown {
        /// The text, cut to 60 characters.
        tag: String,
        /// The tags that there are.
        tags: String,
    },
    /// Its values are kept by the store alone.
    #[error("values of {0} are kept by postgres alone")]
    Bound(String),
    /// It is there.
    #[error("the backend {backend} keeps the values of {tag} already")]
    There {
        /// Which tag.
        tag: String,
        /// Which backend.
        backend: BackendName,
    },
    /// Another move of it is not over.
    #[error("{tag} is being moved to {to} already")]
    UnderWay {
        /// Which tag.
        tag: String,
        /// Where.
        to: BackendName,
    },
}

impl Tag {
    /// The move that is under way.
    #[must_use]
    pub fn under_way(&self) -> Option<&TagMove> {
        self.moving.as_ref().filter(|moving| moving.is_under_way())
    }

    /// Whether its values are not written at the moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.state == TagMoveState::Held)
    }
}

impl TagTable {
    /// The table in which the move of a tag has begun. One that is under way is
    /// called back by a move to where the tag still is.
    ///
    /// # Errors
    /// Why it cannot begin.
    pub fn begin_move(
        &self,
        prefix: &str,
        to: &str,
        parts: BTreeSet<String>,
        (author, now): (&str, OffsetDateTime),
    ) -> Result<Self, MoveRefused> {
        let Some(tag) = self.0.get(prefix) else {
            let tags: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let tag = prefix.chars().take(60).collect();
            return Err(MoveRefused::Unknown { tag, tags: tags.join(", ") });
        };
        if prefix == Self::OWN || tag.kind == Kind::Blob {
            return Err(MoveRefused::Bound(prefix.to_owned()));
        }
        if let Some(moving) = tag.under_way() {
            let ended = self.fail_move(prefix, &format!("called back by {author}"), now);
            let (tag_name, moving_to) = (prefix.to_owned(), moving.to.clone());
            let refused = MoveRefused::UnderWay { tag: tag_name, to: moving_to };
            return ended.filter(|_| tag.backend == to).ok_or(refused);
        }
        if tag.backend == to {
            return Err(MoveRefused::There { tag: prefix.to_owned(), backend: to.to_owned() });
        }
        let moving = TagMove {
            to: to.to_owned(),
            state: TagMoveState::Carrying,
            parts,
            done: BTreeSet::new(),
            begun: now,
            since: now,
            author: author.to_owned(),
            tries: 0,
            cause: String::new(),
        };
        Ok(self.with(prefix, Tag { moving: Some(moving), ..tag.clone() }))
    }

    /// The table in which a part of a tag's move is ready for the next state,
    /// which comes with the last part. None where nothing changes.
    #[must_use]
    pub fn part_done(&self, prefix: &str, part: &str, now: OffsetDateTime) -> Option<Self> {
        let tag = self.0.get(prefix)?;
        let mut moving = tag.under_way()?.clone();
        if !moving.parts.contains(part) || !moving.done.insert(part.to_owned()) {
            return None;
        }
        if moving.done != moving.parts {
            return Some(self.with(prefix, Tag { moving: Some(moving), ..tag.clone() }));
        }
        let next = match moving.state {
            TagMoveState::Held => Tag { backend: moving.to, moving: None, ..tag.clone() },
            _ => {
                let state = TagMoveState::Held;
                let moving = TagMove { state, done: BTreeSet::new(), since: now, ..moving };
                Tag { moving: Some(moving), ..tag.clone() }
            }
        };
        Some(self.with(prefix, next))
    }

    /// The table in which the writes of a tag are not held any longer: its move
    /// goes on as before that, and ends where that was often enough.
    #[must_use]
    pub fn let_go(&self, prefix: &str, cause: &str, now: OffsetDateTime) -> Option<Self> {
        let moving = self.0.get(prefix)?.under_way()?;
        if moving.tries + 1 >= TRIES_MAX {
            return self.fail_move(prefix, cause, now);
        }
        let (state, done, tries) = (TagMoveState::Carrying, BTreeSet::new(), moving.tries + 1);
        let moving = TagMove { state, done, tries, since: now, cause: cause.to_owned(), ..moving.clone() };
        Some(self.with_move(prefix, moving))
    }

    /// The table in which the move of a tag has ended, and the tag is where it was.
    #[must_use]
    pub fn fail_move(&self, prefix: &str, cause: &str, now: OffsetDateTime) -> Option<Self> {
        let moving = self.0.get(prefix)?.under_way()?.clone();
        let (state, done) = (TagMoveState::Failed, BTreeSet::new());
        let moving = TagMove { state, done, since: now, cause: cause.to_owned(), ..moving };
        Some(self.with_move(prefix, moving))
    }

    /// Whether tenants see the same by both tables: where values are kept does
    /// not show.
    #[must_use]
    pub fn shows_the_same(&self, other: &Self) -> bool {
        self.without_places() == other.without_places()
    }

    /// Whether by this table every key is kept where it is by the one before,
    /// and no move was changed: that is done by moving a tag alone.
    ///
    /// # Errors
    /// The tag with which that is not so, and what is expected.
    pub fn keeps_places(&self, before: &Self) -> Result<(), (String, String)> {
        let place = |table: &Self, prefix: &str| {
            let entry = table.entry(prefix);
            let backend = entry.map_or(OWN_BACKEND, |(_, tag)| tag.backend.as_str()).to_owned();
            let moving = entry.filter(|(found, _)| *found == prefix).and_then(|(_, tag)| tag.moving.clone());
            (backend, moving)
        };
        for prefix in self.0.keys().chain(before.0.keys()) {
            let (was, is) = (place(before, prefix), place(self, prefix));
            if was != is {
                let moves = if was.1 == is.1 { "" } else { " and its move as it is" };
                return Err((prefix.clone(), format!("expected the backend {}{moves}", was.0)));
            }
        }
        Ok(())
    }

    fn without_places(&self) -> Self {
        let bare = |tag: &Tag| Tag { backend: OWN_BACKEND.to_owned(), moving: None, ..tag.clone() };
        Self(self.0.iter().map(|(prefix, tag)| (prefix.clone(), bare(tag))).collect())
    }

    fn with_move(&self, prefix: &str, moving: TagMove) -> Self {
        let tag = self.0.get(prefix).map(|tag| Tag { moving: Some(moving), ..tag.clone() });
        tag.map_or_else(|| self.clone(), |tag| self.with(prefix, tag))
    }

    fn with(&self, prefix: &str, tag: Tag) -> Self {
        let mut table = self.clone();
        table.0.insert(prefix.to_owned(), tag);
        table
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 09:30 UTC);
    const TAG: &str = "tenant_config_";

    fn parts() -> BTreeSet<String> {
        ["provider", "eu-west-1"].map(str::to_owned).into()
    }

    fn begun() -> TagTable {
        TagTable::default().begin_move(TAG, "etcd", parts(), ("operator:ada", NOW)).unwrap()
    }

    fn state(table: &TagTable) -> (String, Option<TagMoveState>) {
        let tag = &table.0[TAG];
        (tag.backend.clone(), tag.moving.as_ref().map(|moving| moving.state))
    }

    #[test]
    fn a_tag_is_moved_when_each_part_was_brought_twice() {
        let mut table = begun();
        let mut seen = vec![state(&table)];
        for part in ["provider", "eu-west-1", "eu-west-1", "provider"] {
            assert!(table.part_done(TAG, "us-east-1", NOW).is_none(), "no part of it");
            table = table.part_done(TAG, part, NOW).unwrap();
            seen.push(state(&table));
        }
        let at = |backend: &str, state| (backend.to_owned(), state);
        let (carrying, held) = (Some(TagMoveState::Carrying), Some(TagMoveState::Held));
        let (before, during) = (at("postgres", carrying), at("postgres", held));
        assert_eq!(seen, [before.clone(), before, during.clone(), during, at("etcd", None)]);
        let written = serde_json::to_vec(&begun()).unwrap();
        assert_eq!(TagTable::parse(&written).unwrap(), begun());
    }

    #[test]
    fn writes_are_not_held_for_ever() {
        let mut table = begun();
        for _ in 1..TRIES_MAX {
            for part in parts() {
                table = table.part_done(TAG, &part, NOW).unwrap();
            }
            assert!(table.0[TAG].is_held());
            table = table.let_go(TAG, "too slow", NOW).unwrap();
            assert_eq!(state(&table).1, Some(TagMoveState::Carrying));
        }
        table = table.let_go(TAG, "too slow", NOW).unwrap();
        assert_eq!(state(&table), ("postgres".to_owned(), Some(TagMoveState::Failed)));
        assert!(table.let_go(TAG, "", NOW).is_none() && table.part_done(TAG, "provider", NOW).is_none());
        assert!(table.begin_move(TAG, "etcd", parts(), ("operator:ada", NOW)).is_ok(), "another try");
    }

    #[test]
    fn what_is_no_move_is_refused() {
        let begin = |table: &TagTable, tag: &str, to: &str| {
            table.begin_move(tag, to, parts(), ("operator:ada", NOW)).unwrap_err().to_string()
        };
        let table = TagTable::default();
        assert!(begin(&table, "tenant_", "etcd").contains("there are blob_config_, insula_"));
        assert!(begin(&table, "insula_", "etcd").contains("postgres alone"));
        assert!(begin(&table, "blob_config_", "etcd").contains("postgres alone"));
        assert!(begin(&table, TAG, "postgres").contains("already"));
        assert!(begin(&begun(), TAG, "dynamodb").contains("being moved to etcd"));
    }

    #[test]
    fn a_move_is_called_back_until_its_end() {
        let held = parts().iter().fold(begun(), |table, part| table.part_done(TAG, part, NOW).unwrap());
        for table in [begun(), held] {
            let back = table.begin_move(TAG, "postgres", parts(), ("operator:bob", NOW)).unwrap();
            assert_eq!(state(&back), ("postgres".to_owned(), Some(TagMoveState::Failed)));
            assert!(back.0[TAG].moving.as_ref().unwrap().cause.contains("operator:bob"));
            assert!(back.begin_move(TAG, "dynamodb", parts(), ("operator:bob", NOW)).is_ok());
        }
    }

    #[test]
    fn a_table_that_is_put_leaves_values_where_they_are() {
        let table = |json: &str| TagTable::parse(json.as_bytes()).unwrap();
        let etcd = table(r#"{"a_": {"kind": "key-value", "max_bytes": 9, "backend": "etcd"}}"#);
        let bare = table(r#"{"a_": {"kind": "key-value", "max_bytes": 9}}"#);
        let gone = table("{}");
        let part = table(
            r#"{"a_": {"kind": "key-value", "max_bytes": 9, "backend": "etcd"},
                "a_b_": {"kind": "key-value", "max_bytes": 9}}"#,
        );
        let wider = table(r#"{"a_": {"kind": "key-value", "max_bytes": 10, "backend": "etcd"}}"#);
        assert!(wider.keeps_places(&etcd).is_ok() && wider.shows_the_same(&wider));
        assert!(etcd.shows_the_same(&bare) && !wider.shows_the_same(&bare));
        assert_eq!(bare.keeps_places(&etcd).unwrap_err().0, "a_");
        assert_eq!(etcd.keeps_places(&gone).unwrap_err().0, "a_", "new tags begin in the store");
        assert_eq!(gone.keeps_places(&etcd).unwrap_err().0, "a_");
        assert_eq!(part.keeps_places(&etcd).unwrap_err().0, "a_b_", "a part stays where the whole is");
        assert!(begun().keeps_places(&TagTable::default()).unwrap_err().1.contains("its move"));
        assert!(begun().keeps_places(&begun()).is_ok());
    }
}
