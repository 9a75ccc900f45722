//! `GROUP BY` a primary key, which takes in the row's other columns. In a pool
//! the key has the tenant's column too, so it is added to the list.
//!
//! It is added only where it can split no group: where the columns that are
//! grouped by hold all of the key, as its developer wrote it, of a table that
//! stands in the `FROM` of the same `SELECT`. Rows with that key are one row of
//! the table or, in an outer join, none, and its tenant is one or null with it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::edits::Edit;
use crate::lexemes::{Kind, Lexeme, Lexemes};
use crate::{Keys, Settings, TABLES, TENANT_COLUMN};

/// Tables and columns of one `SELECT` that are looked at.
const TABLES_MAX: usize = 64;
const COLUMNS_MAX: usize = 1000;

/// Words that end a list of `GROUP BY`; those that end the `SELECT` do too.
const BEHIND_LIST: &[&str] =
    &["having", "window", "order", "limit", "offset", "fetch", "for", "on", "returning"];

/// Words that end a `SELECT` among those beside it.
const BEHIND_SELECT: &[&str] = &["select", "union", "intersect", "except"];

/// Words that may follow an item of `FROM`, none of which can be its alias.
const BEHIND_ITEM: &[&str] =
    &["join", "left", "right", "full", "inner", "cross", "natural", "on", "using", "tablesample"];

/// Words without quotes that are no names of columns.
const NO_COLUMNS: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "false",
    "localtime",
    "localtimestamp",
    "null",
    "session_user",
    "system_user",
    "true",
    "user",
];

/// Lexemes with the bounds of brackets.
#[derive(Debug)]
struct Reader<'a> {
    text: &'a [u8],
    lexemes: Vec<Lexeme>,
    /// The other end of each bracket.
    partner: Vec<usize>,
}

/// A lexeme, or everything between two brackets, within one `SELECT`.
type Units = Vec<usize>;

/// A table in a `FROM`.
#[derive(Debug)]
struct Item<'a> {
    /// The name by which its columns are called.
    name: Cow<'a, str>,
    /// The same as it is written.
    written: &'a str,
    table: Cow<'a, str>,
}

/// A column in a `GROUP BY`, with the name before its dot.
type Column<'a> = (Option<Cow<'a, str>>, Cow<'a, str>);

/// What a `FROM` holds.
#[derive(Debug, Default)]
struct From<'a> {
    tables: Vec<Item<'a>>,
    /// With those that are no tables.
    count: usize,
}

/// What there is to add.
pub(crate) fn edits(text: &[u8], settings: Settings, keys: &Keys) -> Vec<Edit> {
    let Some(reader) = Reader::new(text, settings) else { return Vec::new() };
    let Some(shadowing) = reader.names_of_queries() else { return Vec::new() };
    let selects = (0..reader.lexemes.len()).filter(|at| reader.is_keyword(*at, "select"));
    selects.filter_map(|at| reader.edit(at, keys, &shadowing)).collect()
}

impl<'a> Reader<'a> {
    fn new(text: &'a [u8], settings: Settings) -> Option<Self> {
        let mut source = Lexemes::new(text, settings);
        let lexemes: Vec<Lexeme> = source.by_ref().collect();
        let (mut partner, mut open) = (vec![0; lexemes.len()], Vec::new());
        for (at, lexeme) in lexemes.iter().enumerate() {
            let opening = match lexeme.kind {
                Kind::Symbol(b'(' | b'[') => {
                    open.push(at);
                    continue;
                }
                Kind::Symbol(b')') => b'(',
                Kind::Symbol(b']') => b'[',
                _ => continue,
            };
            let begin = open.pop().filter(|begin| lexemes[*begin].is_symbol(opening))?;
            (partner[at], partner[begin]) = (begin, at);
        }
        (open.is_empty() && !source.is_broken()).then_some(Self { text, lexemes, partner })
    }

    fn is(&self, at: usize, symbol: u8) -> bool {
        self.lexemes.get(at).is_some_and(|lexeme| lexeme.is_symbol(symbol))
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        self.lexemes.get(at).is_some_and(|lexeme| lexeme.is_word(self.text, word))
    }

    /// Whether it is this word, and neither a column nor a label of that name.
    fn is_keyword(&self, at: usize, word: &str) -> bool {
        let is_name = at.checked_sub(1).is_some_and(|before| self.is(before, b'.'));
        self.is_word(at, word) && !is_name
    }

    fn is_one_of(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is_keyword(at, word))
    }

    fn name(&self, at: usize) -> Option<Cow<'a, str>> {
        self.lexemes.get(at)?.name(self.text)
    }

    /// Names that the text gives to queries (`WITH name AS (…)`), and some more;
    /// `None` where one cannot be read.
    fn names_of_queries(&self) -> Option<BTreeSet<Cow<'a, str>>> {
        let mut names = BTreeSet::new();
        for at in 1..self.lexemes.len() {
            let is_before_query =
                self.is(at + 1, b'(') || self.is_word(at + 1, "materialized") || self.is_word(at + 1, "not");
            if !self.is_word(at, "as") || !is_before_query {
                continue;
            }
            let before = if self.is(at - 1, b')') { self.partner[at - 1].checked_sub(1)? } else { at - 1 };
            names.insert(self.name(before)?);
        }
        Some(names)
    }

    /// The units of the `SELECT` that begins at a place.
    fn units(&self, select: usize) -> Units {
        let (mut units, mut at) = (Units::new(), select + 1);
        while let Some(lexeme) = self.lexemes.get(at) {
            let is_end = matches!(lexeme.kind, Kind::Symbol(b')' | b']' | b';'));
            if is_end || self.is_one_of(at, BEHIND_SELECT) {
                break;
            }
            units.push(at);
            let is_bracket = matches!(lexeme.kind, Kind::Symbol(b'(' | b'['));
            at = if is_bracket { self.partner[at] + 1 } else { at + 1 };
        }
        units
    }

    fn edit(&self, select: usize, keys: &Keys, shadowing: &BTreeSet<Cow<'a, str>>) -> Option<Edit> {
        let units = self.units(select);
        let is_label = |place: usize| place > 0 && self.is_word(units[place - 1], "as");
        let find = |from: usize, word| {
            (from..units.len()).find(|place| self.is_keyword(units[*place], word) && !is_label(*place))
        };
        let group = find(0, "group")
            .filter(|place| units.get(place + 1).is_some_and(|at| self.is_word(*at, "by")))?;
        let from = (0..group).find(|place| {
            let is_behind_distinct = *place > 0 && self.is_word(units[place - 1], "distinct");
            self.is_keyword(units[*place], "from") && !is_label(*place) && !is_behind_distinct
        })?;
        let condition = find(from, "where").map_or(group, |place| place.min(group));
        let from = self.from(&units[from + 1..condition])?;

        let mut list = &units[group + 2..];
        if list.first().is_some_and(|at| self.is_one_of(*at, &["all", "distinct"])) {
            list = &list[1..];
        }
        let end = list.iter().position(|at| self.is_one_of(*at, BEHIND_LIST)).unwrap_or(list.len());
        let columns = self.columns(&list[..end])?;
        let start = self.lexemes[*list.first()?].start;
        let insert: String = from
            .tables
            .iter()
            .filter(|item| self.is_grouped_by_key(item, &from, &columns, keys))
            .filter(|item| !shadowing.contains(&item.table))
            .map(|item| format!("{}.{TENANT_COLUMN}, ", item.written))
            .collect();
        (!insert.is_empty()).then_some(Edit { start, end: start, insert: Cow::Owned(insert) })
    }

    /// What stands in a `FROM`; `None` where something is not understood.
    fn from(&self, units: &[usize]) -> Option<From<'a>> {
        let mut from = From::default();
        let mut place = 0;
        while place < units.len() {
            place += self.item(&units[place..], &mut from)?;
            let is_next = |at: &usize| self.is(*at, b',') || self.is_keyword(*at, "join");
            place += units[place..].iter().position(is_next).map_or(units.len() - place, |offset| offset + 1);
        }
        (from.tables.len() <= TABLES_MAX).then_some(from)
    }

    /// Takes an item of `FROM`; how many units it has, as far as it was read.
    fn item(&self, units: &[usize], from: &mut From<'a>) -> Option<usize> {
        from.count += 1;
        let unit = |place: usize| units.get(place).copied();
        let is_bracket = |place| unit(place).is_some_and(|at| self.is(at, b'('));
        let is_dot = |place| unit(place).is_some_and(|at| self.is(at, b'.'));
        // A query, or a table of which this says nothing.
        if is_bracket(0) || unit(0).is_some_and(|at| self.is_one_of(at, &["lateral", "only", "rows"])) {
            return Some(1);
        }
        let mut at = unit(0)?;
        let mut table = self.name(at)?;
        let (mut place, mut is_ours) = (1, true);
        if is_dot(1) {
            is_ours = table == TABLES;
            at = unit(2)?;
            table = self.name(at)?;
            place = 3;
        }
        if is_bracket(place) || is_dot(place) {
            return Some(place);
        }
        let mut called = at;
        let is_as = unit(place).is_some_and(|at| self.is_word(at, "as"));
        let is_alias = |at: usize| self.lexemes[at].is_name() && !self.is_one_of(at, BEHIND_ITEM);
        if is_as || unit(place).is_some_and(is_alias) {
            place += usize::from(is_as);
            called = unit(place)?;
            place += 1;
        }
        let is_over = unit(place).is_none_or(|at| self.is(at, b',') || self.is_one_of(at, BEHIND_ITEM));
        if is_bracket(place) {
            // Its columns are called otherwise.
            return Some(place);
        }
        let name = self.name(called)?;
        let lexeme = self.lexemes[called];
        let written = std::str::from_utf8(&self.text[lexeme.start..lexeme.end]).ok()?;
        if is_ours {
            from.tables.push(Item { name, written, table });
        }
        is_over.then_some(place)
    }

    /// The columns in a list of `GROUP BY`, each with the name before its dot;
    /// `None` where the list is of another kind.
    fn columns(&self, units: &[usize]) -> Option<Vec<Column<'a>>> {
        let mut columns = Vec::new();
        for item in units.split(|at| self.is(*at, b',')) {
            let first = *item.first()?;
            let is_empty_set = self.is(first, b'(') && self.partner[first] == first + 1;
            if is_empty_set || self.is_one_of(first, &["rollup", "cube", "grouping"]) {
                return None;
            }
            match *item {
                [column] if !self.is_one_of(column, NO_COLUMNS) => {
                    columns.extend(self.name(column).map(|column| (None, column)));
                }
                [table, dot, column] if self.is(dot, b'.') => {
                    columns.extend(
                        self.name(table).zip(self.name(column)).map(|(table, name)| (Some(table), name)),
                    );
                }
                _ => {}
            }
        }
        (columns.len() <= COLUMNS_MAX).then_some(columns)
    }

    fn is_grouped_by_key(
        &self,
        item: &Item<'a>,
        from: &From<'a>,
        columns: &[Column<'a>],
        keys: &Keys,
    ) -> bool {
        let is_of_item = |table: &Option<Cow<'a, str>>| match table {
            Some(table) => *table == item.name,
            None => from.count == 1,
        };
        let has =
            |wanted: &str| columns.iter().any(|(table, column)| is_of_item(table) && *column == *wanted);
        let is_alone = from.tables.iter().filter(|other| other.name == item.name).count() == 1;
        let key = keys.get(&*item.table).filter(|key| !key.is_empty());
        is_alone && !has(TENANT_COLUMN) && key.is_some_and(|key| key.iter().all(|column| has(column)))
    }
}
