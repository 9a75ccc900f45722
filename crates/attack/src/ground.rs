//! What the runner finds out before it begins: a table of the application in
//! which the victim has rows, what only the victim has, and the words for which
//! the texts of attempts have places.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::run::Party;
use crate::session::{Answer, Gone, Login, Session};

/// Values of the victim's that are looked for, at the most.
const SECRETS_MAX: usize = 20;

/// Shorter values are in others' rows by chance.
const SECRET_CHARACTERS_MIN: usize = 8;

/// The suite cannot begin.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A login does not come in.
    #[error("{who} cannot connect: {why}")]
    NoSession {
        /// The tenant.
        who: String,
        /// Why.
        why: String,
    },
    /// There is nothing to look for.
    #[error(
        "{0} has no rows that could be told from others': a table of the application is needed in which it has \
         a text of 8 characters or more that the other has not"
    )]
    NothingToFind(String),
    /// Nothing has this name.
    #[error("no attempt and no group is called {0:?}: --list shows them")]
    UnknownName(String),
}

/// What is known of the two tenants.
#[derive(Debug)]
pub(crate) struct Ground {
    words: BTreeMap<&'static str, String>,
    /// What only the victim has.
    pub secrets: Vec<String>,
    /// The attacker's role, as its sessions say it.
    pub own_role: String,
    /// What is compared before and after.
    pub digest: String,
    /// The victim's own row, locked.
    pub lock_row: String,
    /// The victim's cancel key.
    pub victim_key: Option<insula_pg_wire::startup::CancelKey>,
}

impl Ground {
    /// The text with its places filled; the place for which nothing is known
    /// where it cannot be.
    pub fn fill(&self, template: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find('}').unwrap_or(0);
            let word = rest.get(1..end).unwrap_or("");
            let is_place =
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if is_place {
                filled.push_str(self.words.get(word).ok_or_else(|| word.to_owned())?);
                rest = &rest[end + 1..];
            } else {
                filled.push('{');
                rest = &rest[1..];
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// What stands for a place that is always known.
    pub fn word(&self, word: &str) -> &str {
        self.words.get(word).map_or("", String::as_str)
    }

    /// Knows one more word.
    pub fn know(&mut self, word: &'static str, value: String) {
        self.words.insert(word, value);
    }

    /// What of the victim's stands in these bytes, as text or as hexadecimal
    /// digits.
    pub fn secret_in(&self, bytes: &[u8]) -> Option<&str> {
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        let hex = |secret: &str| secret.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.secrets
            .iter()
            .find(|secret| holds(secret.as_bytes()) || holds(hex(secret).as_bytes()))
            .map(String::as_str)
    }
}

/// A column of the table.
struct Column {
    name: String,
    is_key: bool,
    is_text: bool,
    can_insert: bool,
}

const TABLES: &str = "select pg_catalog.quote_ident(c.relname) from pg_catalog.pg_class c \
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
     where c.relkind in ('r', 'p') and pg_catalog.pg_table_is_visible(c.oid) \
     and n.nspname <> 'pg_catalog' and n.nspname !~ '^pg_temp' \
     and pg_catalog.has_table_privilege(c.oid, 'select') order by 1 limit 500";

fn columns_of(table: &str) -> String {
    format!(
        "select pg_catalog.quote_ident(a.attname), coalesce(a.attnum = any (i.indkey), false), \
         a.atttypid in (25, 1042, 1043), a.attgenerated = '' and a.attidentity <> 'a' \
         from pg_catalog.pg_attribute a \
         left join pg_catalog.pg_index i on i.indrelid = a.attrelid and i.indisprimary \
         where a.attrelid = {}::regclass and a.attnum > 0 and not a.attisdropped and a.attname <> 'tenant_id' \
         order by a.attnum",
        literal(table)
    )
}

/// Tables that refer to this one by one column, beside the tenant's.
fn children_of(table: &str) -> String {
    format!(
        "select pg_catalog.quote_ident(c.relname), pg_catalog.quote_ident(min(a.attname)) \
         from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid \
         join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey) \
         where k.contype = 'f' and k.confrelid = {}::regclass and k.conrelid <> k.confrelid \
         and a.attname <> 'tenant_id' and pg_catalog.pg_table_is_visible(c.oid) \
         group by k.oid, c.relname having count(*) = 1 order by 1",
        literal(table)
    )
}

/// A text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

async fn rows(session: &mut Session, sql: &str) -> Result<Vec<Vec<Option<String>>>, Gone> {
    let answer: Answer = session.ask(sql).await?;
    match answer.errors.into_iter().next() {
        Some((code, text)) => Err(Gone::Refused(code, text)),
        None => Ok(answer.rows),
    }
}

async fn names(session: &mut Session, sql: &str) -> Result<Vec<String>, Gone> {
    Ok(rows(session, sql).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// The table that was chosen, as it is to both.
struct Chosen {
    table: String,
    columns: Vec<Column>,
    column: String,
    key: Vec<String>,
    /// Rows of the victim's, with all columns that can be inserted.
    theirs: Vec<Vec<Option<String>>>,
    secrets: Vec<String>,
}

/// Finds everything out; `token` is in the victim's session and nowhere else.
pub(crate) async fn survey(
    (attacker, victim): (&Login, &Login),
    (own, other): (&Party, &Party),
    table: Option<&str>,
    token: &str,
) -> Result<(Ground, Session), SetupError> {
    let unable = |who: &Party| {
        let who = who.slug.clone();
        move |gone: Gone| SetupError::NoSession { who: who.clone(), why: gone.to_string() }
    };
    let mut mine = attacker.session().await.map_err(unable(own))?;
    let named = [("application_name".to_owned(), token.to_owned())];
    let mut theirs = victim.session_with(&named, None).await.map_err(unable(other))?;
    let own_role = names(&mut mine, "select current_user").await.map_err(unable(own))?;
    let own_role = own_role.into_iter().next().unwrap_or_default();
    let chosen = choose(&mut mine, &mut theirs, table).await.map_err(unable(other))?;
    let mut chosen = chosen.ok_or_else(|| SetupError::NothingToFind(other.slug.clone()))?;
    chosen.secrets.push(token.to_owned());
    let mut words = words_of(own, other, &chosen, token);
    words.insert("own_role", own_role.clone());
    words.insert("own_login", attacker.parts.user.clone());
    words.insert("login", victim.parts.user.clone());
    keys_and_children(&mut mine, &chosen, &mut words).await.map_err(unable(own))?;
    let found = own_objects(&mut mine, &mut theirs, &mut words).await;
    found.map_err(unable(other))?;
    let (table, key) = (&chosen.table, chosen.key.join(", "));
    let order = if key.is_empty() { "1".to_owned() } else { key };
    let digest = format!(
        "select pg_catalog.md5(coalesce(pg_catalog.string_agg(x::text, '|' order by x::text), '')), count(*) \
         from (select * from {table} order by {order} limit 200) x"
    );
    let lock_row = format!(
        "set local lock_timeout = '3s'; select 1 from (select 1 from {table} order by {order} limit 1 for update) x"
    );
    let victim_key = theirs.key.clone();
    Ok((Ground { words, secrets: chosen.secrets, own_role, digest, lock_row, victim_key }, theirs))
}

async fn choose(
    mine: &mut Session,
    theirs: &mut Session,
    table: Option<&str>,
) -> Result<Option<Chosen>, Gone> {
    let known = names(mine, TABLES).await?;
    let mut tables = names(theirs, TABLES).await?;
    tables.retain(|name| known.contains(name) && table.is_none_or(|wanted| wanted == name));
    for table in tables {
        let columns: Vec<Column> = rows(theirs, &columns_of(&table))
            .await?
            .into_iter()
            .filter_map(|row| {
                let is = |at: usize| row.get(at).and_then(Option::as_deref) == Some("t");
                let (is_key, is_text, can_insert) = (is(1), is(2), is(3));
                let name = row.into_iter().next().flatten()?;
                Some(Column { name, is_key, is_text, can_insert })
            })
            .collect();
        for text in columns.iter().filter(|column| column.is_text) {
            let (column, limit) = (&text.name, SECRETS_MAX);
            let long = format!("pg_catalog.length({column}) >= {SECRET_CHARACTERS_MIN}");
            let found =
                names(theirs, &format!("select {column} from {table} where {long} limit {limit}")).await?;
            let own = names(mine, &format!("select {column} from {table} where {long} limit 10000")).await?;
            let secrets: Vec<String> =
                found.into_iter().filter(|word| !own.iter().any(|own| own.contains(word))).collect();
            if secrets.is_empty() {
                continue;
            }
            let column = column.clone();
            let listed = names_of(&columns, |column| column.can_insert).join(", ");
            let theirs = rows(theirs, &format!("select {listed} from {table} limit 100")).await?;
            let key = names_of(&columns, |column| column.is_key);
            return Ok(Some(Chosen { table, columns, column, key, theirs, secrets }));
        }
    }
    Ok(None)
}

fn names_of(columns: &[Column], is: impl Fn(&Column) -> bool) -> Vec<String> {
    columns.iter().filter(|column| is(column)).map(|column| column.name.clone()).collect()
}

fn words_of(own: &Party, other: &Party, chosen: &Chosen, token: &str) -> BTreeMap<&'static str, String> {
    let secret = chosen.secrets.first().map_or("", String::as_str);
    let half = secret.chars().take(secret.chars().count() / 2).collect::<String>();
    let columns = names_of(&chosen.columns, |column| column.can_insert).join(", ");
    BTreeMap::from([
        ("slug", other.slug.clone()),
        ("id", other.id.clone()),
        ("role", other.role.clone()),
        ("schema", other.schema.clone()),
        ("database", other.database.clone()),
        ("own_slug", own.slug.clone()),
        ("own_id", own.id.clone()),
        ("own_schema", own.schema.clone()),
        ("own_database", own.database.clone()),
        ("table", chosen.table.clone()),
        ("column", chosen.column.clone()),
        ("columns", columns),
        ("prefix", half.replace('\'', "''")),
        ("half", half.replace('\'', "''").replace(['%', '_'], "")),
        ("token", token.to_owned()),
    ])
}

/// Keys that the victim has and the attacker has not, and a table of the
/// attacker's that refers to the table.
async fn keys_and_children(
    mine: &mut Session,
    chosen: &Chosen,
    words: &mut BTreeMap<&'static str, String>,
) -> Result<(), Gone> {
    let table = &chosen.table;
    let [key] = &chosen.key[..] else { return Ok(()) };
    words.insert("key", key.clone());
    let listed = names_of(&chosen.columns, |column| column.can_insert);
    let Some(at) = listed.iter().position(|name| name == key) else { return Ok(()) };
    let own = names(mine, &format!("select {key} from {table} limit 10000")).await?;
    let is_theirs = |row: &&Vec<Option<String>>| row[at].as_ref().is_some_and(|value| !own.contains(value));
    let Some(row) = chosen.theirs.iter().find(is_theirs) else { return Ok(()) };
    let values: Vec<String> = listed
        .iter()
        .zip(row)
        .map(|(name, value)| match value {
            _ if *name == chosen.column => "'mine'".to_owned(),
            Some(value) => literal(value),
            None => "null".to_owned(),
        })
        .collect();
    words.insert("values", format!("({})", values.join(", ")));
    words.insert("their_key", literal(row[at].as_deref().unwrap_or("")));
    let sequence = format!("select pg_catalog.pg_get_serial_sequence({}, {})", literal(table), literal(key));
    if let Ok(Some(sequence)) = names(mine, &sequence).await.map(|names| names.into_iter().next()) {
        words.insert("sequence", sequence);
    }
    for child in rows(mine, &children_of(table)).await? {
        let [Some(child), Some(column)] = &child[..] else { continue };
        let has = names(mine, &format!("select 1 from {child} where {column} is not null limit 1")).await;
        if has.is_ok_and(|has| !has.is_empty()) {
            words.insert("child", child.clone());
            words.insert("child_column", column.clone());
            break;
        }
    }
    Ok(())
}

/// Where each may make objects of its own, and what the victim has made.
async fn own_objects(
    mine: &mut Session,
    theirs: &mut Session,
    words: &mut BTreeMap<&'static str, String>,
) -> Result<(), Gone> {
    const SCHEMAS: &str = "select pg_catalog.quote_ident(nspname) from pg_catalog.pg_namespace \
         where pg_catalog.has_schema_privilege(oid, 'create') and nspname !~ '^pg_' order by 1 limit 1";
    let first = |names: Vec<String>| names.into_iter().next();
    let own = first(names(mine, SCHEMAS).await?).unwrap_or_else(|| "pg_temp".to_owned());
    let other = first(names(theirs, SCHEMAS).await?);
    let other = other.unwrap_or_else(|| format!("{}_own", words.get("schema").map_or("t", String::as_str)));
    let made = format!(
        "select pg_catalog.quote_ident(tablename) from pg_catalog.pg_tables where schemaname = {} order by 1 limit 1",
        literal(&other)
    );
    let table = first(names(theirs, &made).await?).unwrap_or_else(|| "insula_attack".to_owned());
    // Of one name only where each has a database of its own: there no name of
    // the attacker's leads to the other's.
    let other = if other == own {
        format!("\"{}.{other}\"", words.get("database").map_or("d", String::as_str))
    } else {
        other
    };
    words.insert("mine", own);
    words.insert("their_table", format!("{other}.{table}"));
    words.insert("theirs", other);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Ground {
        Ground {
            words: BTreeMap::from([("role", "tenant_1".to_owned())]),
            secrets: vec!["word of the victim".to_owned()],
            own_role: String::new(),
            digest: String::new(),
            lock_row: String::new(),
            victim_key: None,
        }
    }

    #[test]
    fn places_are_filled_and_other_braces_stay() {
        let ground = ground();
        assert_eq!(
            ground.fill("set role {role}; select '{}', '{1,2}' {").unwrap(),
            "set role tenant_1; select '{}', '{1,2}' {"
        );
        assert_eq!(ground.fill("select {nobody}"), Err("nobody".to_owned()));
    }

    #[test]
    fn a_secret_is_found_as_text_and_in_hexadecimal() {
        let ground = ground();
        assert!(ground.secret_in(b"...word of the victim...").is_some());
        let hex: String = "the word of the victim!".bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(ground.secret_in(hex.as_bytes()).is_some());
        assert!(ground.secret_in(b"word of the attacker").is_none());
    }

    #[test]
    fn literals_end_where_they_should() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
