//! What a session has set: kept here while it has no backend, and given to the
//! backend that it gets next.
//!
//! Only the server knows for certain what a statement has set: a SET may have
//! been rolled back, or stand in a function. So after each text that may set
//! something the server is asked for all that is set in the session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use insula_pg_wire::WireError;
use insula_pg_wire::backend::{parse_data_row, put_parameter_status};
use insula_session_sql::READ_BY;

use crate::parameters::Setting;

/// Longer values are not carried from one backend to the next.
const VALUE_CHARACTERS_MAX: usize = 8192;

/// More settings are not.
const SETTINGS_MAX: usize = 1000;

/// Settings by their names in small letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SessionSettings(BTreeMap<String, String>);

impl SessionSettings {
    /// Those with which a session begins. Text that is not UTF-8 is replaced,
    /// as PostgreSQL itself does in names of applications.
    pub fn from_startup(settings: &[Setting]) -> Self {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        Self(settings.iter().map(|(name, value)| (text(name).to_ascii_lowercase(), text(value))).collect())
    }

    /// Whether they are the same, seen at once where they are one.
    pub fn are_same(one: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(one, other) || one == other
    }

    /// These, and what is not among them, or was reset, as the others say: a
    /// custom setting that is reset is empty.
    pub fn over(these: &Arc<Self>, others: &Self) -> Arc<Self> {
        let is_set =
            |name: &str| these.0.get(name).is_some_and(|value| !value.is_empty() || !name.contains('.'));
        if others.0.keys().all(|name| is_set(name)) {
            return Arc::clone(these);
        }
        let mut all = these.0.clone();
        let reset = others.0.iter().filter(|(name, _)| !is_set(name));
        all.extend(reset.map(|(name, value)| (name.clone(), value.clone())));
        Arc::new(Self(all))
    }

    /// Those of them under which the server reads the text of a statement, where
    /// it makes values of literals, as a key.
    pub fn read_under(&self) -> Bytes {
        let mut key = Vec::new();
        for name in READ_BY {
            if let Some(value) = self.0.get(*name) {
                key.extend_from_slice(name.as_bytes());
                key.push(b'=');
                key.extend_from_slice(value.as_bytes());
                key.push(0);
            }
        }
        key.into()
    }

    /// The statements that make these the settings of a backend on which others
    /// are set.
    pub fn restore(&self) -> String {
        let mut sql = "RESET ALL".to_owned();
        for (index, (name, value)) in self.0.iter().enumerate() {
            sql.push_str(if index == 0 { "; SELECT " } else { ", " });
            let (name, value) = (literal(name), literal(value));
            // Writing to a String cannot fail.
            let _ = write!(sql, "pg_catalog.set_config({name}, {value}, false)");
        }
        sql
    }

    /// The statement that sets each of these again that was reset: it does not
    /// stem from the session any more, or, where the server does not list it, is
    /// empty. `None` where there are none.
    pub fn put_back(&self) -> Option<String> {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("({}, {})", literal(name), literal(value))).collect();
        (!pairs.is_empty()).then(|| {
            format!(
                "SELECT pg_catalog.set_config(began.name, began.value, false) \
                 FROM (VALUES {}) AS began (name, value) LEFT JOIN pg_catalog.pg_settings AS now \
                 ON pg_catalog.lower(now.name) OPERATOR(pg_catalog.=) began.name \
                 WHERE CASE WHEN now.name IS NULL \
                 THEN pg_catalog.current_setting(began.name, true) OPERATOR(pg_catalog.=) '' \
                 ELSE now.source OPERATOR(pg_catalog.<>) 'session' END",
                pairs.join(", ")
            )
        })
    }

    /// The query for what is set. Custom settings, which the view does not
    /// list, are asked for by name. What SET TRANSACTION has set is listed behind
    /// its transaction too, and does not count.
    pub fn query(custom: &BTreeSet<String>) -> String {
        let cut = VALUE_CHARACTERS_MAX + 1;
        let mut sql = format!(
            "SELECT name, pg_catalog.left(setting, {cut}) FROM pg_catalog.pg_settings \
             WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) ALL \
             (ARRAY['transaction_isolation', 'transaction_read_only', 'transaction_deferrable'])"
        );
        for name in custom {
            let name = literal(name);
            let _ = write!(
                sql,
                " UNION ALL SELECT {name}, pg_catalog.left(pg_catalog.current_setting({name}, true), {cut})"
            );
        }
        sql
    }

    /// Takes a row of the answer; false where it cannot be carried.
    pub fn take_row(&mut self, body: &[u8]) -> Result<bool, WireError> {
        let columns = parse_data_row(body)?;
        let [Some(name), value] = columns[..] else {
            return Err(WireError::Malformed("not the answer to the question"));
        };
        let Some(value) = value else { return Ok(true) };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Ok(false);
        };
        if value.chars().count() > VALUE_CHARACTERS_MAX || self.0.len() >= SETTINGS_MAX {
            return Ok(false);
        }
        self.0.insert(name.to_ascii_lowercase(), value.to_owned());
        Ok(true)
    }
}

/// A text as an SQL literal that means the same whatever is set for quoting and
/// encoding: all but plain characters stand as escapes.
pub(crate) fn literal(text: &str) -> String {
    let mut sql = String::with_capacity(text.len() + 3);
    sql.push_str("E'");
    for character in text.chars().filter(|character| *character != '\0') {
        match character {
            '\'' => sql.push_str("''"),
            '\\' => sql.push_str("\\\\"),
            ' '..='~' => sql.push(character),
            _ => {
                let _ = write!(sql, "\\U{:08X}", u32::from(character));
            }
        }
    }
    sql.push('\'');
    sql
}

/// What a client calls itself, among what a server reports.
pub(crate) const APPLICATION_NAME: &[u8] = b"application_name";

/// What a server reports of its settings, without being asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reported(BTreeMap<Bytes, Bytes>);

impl Reported {
    /// Takes what a `ParameterStatus` says.
    pub fn take(&mut self, name: &[u8], value: &[u8]) {
        self.0.insert(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
    }

    /// The value of a setting that was reported.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(|value| &value[..])
    }

    /// The names and values.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// Writes what a client has to be told that knows `known` so far.
    pub fn put_news(&self, known: &Self, out: &mut BytesMut) {
        for (name, value) in &self.0 {
            if known.0.get(name) != Some(value) {
                put_parameter_status(out, &String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_pg_wire::backend::put_data_row;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> SessionSettings {
        let setting = |(name, value): &(&str, &str)| {
            (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
        };
        SessionSettings::from_startup(&pairs.iter().map(setting).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_set_is_written_so_that_it_cannot_leave_its_quotes() {
        assert_eq!(settings(&[]).restore(), "RESET ALL");
        let written = settings(&[("DateStyle", "ISO"), ("a.b", "it's \\ é\n")]).restore();
        assert_eq!(
            written,
            "RESET ALL; SELECT pg_catalog.set_config(E'a.b', E'it''s \\\\ \\U000000E9\\U0000000A', false), \
             pg_catalog.set_config(E'datestyle', E'ISO', false)"
        );
    }

    #[test]
    fn what_was_reset_is_as_it_was_in_the_beginning() {
        let began = settings(&[("timezone", "UTC"), ("a.b", "1"), ("work_mem", "7MB")]);
        let over = |pairs: &[(&str, &str)]| SessionSettings::over(&Arc::new(settings(pairs)), &began);
        assert_eq!(
            *over(&[("timezone", "Asia/Tokyo"), ("a.b", ""), ("c.d", "")]),
            settings(&[("timezone", "Asia/Tokyo"), ("a.b", "1"), ("c.d", ""), ("work_mem", "7MB")])
        );
        let all = Arc::new(settings(&[("timezone", ""), ("a.b", "2"), ("work_mem", "1MB")]));
        assert!(Arc::ptr_eq(&SessionSettings::over(&all, &began), &all));
        assert_eq!(settings(&[]).put_back(), None);
    }

    #[test]
    fn the_answer_is_taken_row_by_row() {
        let row = |values: &[Option<&[u8]>]| {
            let mut out = BytesMut::new();
            put_data_row(&mut out, values);
            out[5..].to_vec()
        };
        let mut taken = SessionSettings::default();
        assert_eq!(taken.take_row(&row(&[Some(b"TimeZone"), Some(b"UTC")])), Ok(true));
        assert_eq!(taken.take_row(&row(&[Some(b"app.user"), None])), Ok(true));
        assert_eq!(taken, settings(&[("timezone", "UTC")]));
        let long = "x".repeat(VALUE_CHARACTERS_MAX + 1);
        assert_eq!(taken.take_row(&row(&[Some(b"a.b"), Some(long.as_bytes())])), Ok(false));
        assert_eq!(taken.take_row(&row(&[Some(b"a.b"), Some(b"\xff")])), Ok(false));
        assert!(taken.take_row(&row(&[Some(b"a")])).is_err() && taken.take_row(b"").is_err());
    }

    #[test]
    fn a_client_is_told_what_it_does_not_know() {
        let (mut known, mut now) = (Reported::default(), Reported::default());
        for (name, value) in [("TimeZone", "UTC"), ("client_encoding", "UTF8")] {
            known.take(name.as_bytes(), value.as_bytes());
            now.take(name.as_bytes(), value.as_bytes());
        }
        let mut out = BytesMut::new();
        now.put_news(&known, &mut out);
        assert!(out.is_empty());
        now.take(b"TimeZone", b"Europe/Zurich");
        now.put_news(&known, &mut out);
        assert_eq!(&out[5..], b"TimeZone\0Europe/Zurich\0");
    }
}
