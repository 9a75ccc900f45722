//! Whether a server's `pg_hba.conf` admits tenants' roles over TCP from
//! everywhere. Every role may change its own password, so that a tenant who did
//! could pass by the front, and by what the front sees to (PostgreSQL's manual,
//! "The pg_hba.conf File": the first rule that fits decides).

use insula_problem::Problem;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::db;
use crate::roles::TENANTS;

/// A rule of `pg_hba.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The line of its file.
    pub line: i32,
    /// `local`, `host`, `hostssl` and others.
    pub kind: String,
    /// Database names, `all`, `replication` and others.
    pub databases: Vec<String>,
    /// Role names, `all`, and groups with a `+`.
    pub users: Vec<String>,
    /// An address, a host name, `all` and others.
    pub address: String,
    /// The address's mask.
    pub mask: String,
    /// For example `scram-sha-256` or `reject`.
    pub method: String,
}

/// The rules of a server in their order; `None` where its administrator may not
/// read them. Lines with mistakes, which PostgreSQL does not load, are left out.
///
/// # Errors
/// Where the cluster is away.
pub async fn read_rules(client: &Client) -> Result<Option<Vec<Rule>>, Problem> {
    // In the order of the view, which is that of the rules also where a file
    // includes others.
    let read = client
        .query(
            "select line_number, type, database, user_name, coalesce(address, ''), coalesce(netmask, ''), auth_method
             from pg_catalog.pg_hba_file_rules where error is null",
            &[],
        )
        .await;
    let rows = match read {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(None),
        read => read.map_err(db)?,
    };
    let rule = |row: &tokio_postgres::Row| Rule {
        line: row.get(0),
        kind: row.get(1),
        databases: row.get(2),
        users: row.get(3),
        address: row.get(4),
        mask: row.get(5),
        method: row.get(6),
    };
    Ok(Some(rows.iter().map(rule).collect()))
}

/// The rule that admits tenants' roles over TCP from every address.
#[must_use]
pub fn admits_tenants_from_anywhere(rules: &[Rule]) -> Option<&Rule> {
    let ways = [("0.0.0.0", true), ("0.0.0.0", false), ("::", true), ("::", false)];
    ways.into_iter().find_map(|(anywhere, tls)| {
        rules.iter().find(|rule| rule.decides(anywhere, tls)).filter(|rule| rule.method != "reject")
    })
}

impl Rule {
    /// Whether it decides on a tenant's connection from anywhere. A rule for
    /// some databases alone can open the door, and cannot close it.
    fn decides(&self, anywhere: &str, tls: bool) -> bool {
        let kind = match self.kind.as_str() {
            "host" | "hostnogssenc" => true,
            "hostssl" => tls,
            "hostnossl" => !tls,
            _ => false,
        };
        let group = format!("+{TENANTS}");
        let users = self.users.iter().any(|user| user == "all" || *user == group);
        let all = self.databases.iter().any(|database| database == "all");
        let some = self.databases.iter().any(|database| database != "replication");
        let databases = all || (some && self.method != "reject");
        kind && users && databases && (self.address == "all" || self.mask == anywhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        let words = |words: &str| words.split(',').map(str::to_owned).collect();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .zip(1..)
            .map(|(text, line)| {
                let [kind, databases, users, address, method]: [&str; 5] =
                    text.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
                let (address, mask) = match address.split_once('/') {
                    Some(("0.0.0.0", "0")) => ("0.0.0.0", "0.0.0.0"),
                    Some(("::", "0")) => ("::", "::"),
                    Some((address, _)) => (address, "255.255.255.255"),
                    None => (address, ""),
                };
                Rule {
                    line,
                    kind: kind.to_owned(),
                    databases: words(databases),
                    users: words(users),
                    address: address.to_owned(),
                    mask: mask.to_owned(),
                    method: method.to_owned(),
                }
            })
            .collect()
    }

    #[test]
    fn the_first_rule_that_fits_everybody_decides() {
        let front = "hostssl all +insula_tenants 10.0.0.7/32 scram-sha-256\n";
        let open = "host all all 0.0.0.0/0 scram-sha-256\n";
        for (text, line) in [
            // What the guide says, before whatever else is there.
            (format!("{front}host all +insula_tenants all reject\n{open}"), None),
            (format!("{front}host all postgres all scram-sha-256\n"), None),
            (format!("{front}host all all all reject\n"), None),
            (format!("host replication all all scram-sha-256\n{front}"), None),
            (String::new(), None),
            // The canaries: doors that are open.
            (format!("{front}{open}"), Some(2)),
            (format!("{front}host all all ::/0 md5\n"), Some(2)),
            (format!("{front}{open}host all +insula_tenants all reject\n"), Some(2)),
            ("host all +insula_tenants all scram-sha-256".to_owned(), Some(1)),
            ("hostssl app,insula_pool all all scram-sha-256".to_owned(), Some(1)),
            // Closed on one way, open on another.
            (format!("hostnossl all all all reject\n{open}"), Some(2)),
            (format!("host all all ::/0 reject\n{open}"), Some(2)),
            (format!("host insula_pool all all reject\n{open}"), Some(2)),
            (format!("host all ada all reject\n{open}"), Some(2)),
        ] {
            let rules = rules(&text);
            assert_eq!(admits_tenants_from_anywhere(&rules).map(|rule| rule.line), line, "{text}");
        }
    }
}
