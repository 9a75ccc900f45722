//! Who may connect to a server, as the text of its `pg_hba.conf`. Pure. Over
//! TCP the superuser alone, since every role may change its own password: who
//! only knows a password stays outside of the socket's private folder. The role
//! of the blueprint comes in to its own database, for migration tools.

use crate::spec::{SUPERUSER, TcpAccess};

/// The file in the data folder.
pub(crate) const FILE: &str = "pg_hba.conf";

/// The role of the blueprint, and its database.
const BLUEPRINT: &str = "insula_blueprint";

/// The text of the file. `all` among the databases leaves replication out
/// (PostgreSQL's manual, "The pg_hba.conf File"), so that each rule is there
/// for both.
pub(crate) fn render(tcp: TcpAccess) -> String {
    let user = match tcp {
        TcpAccess::Superuser => SUPERUSER,
        TcpAccess::Everybody => "all",
    };
    let mut text = String::from("# Written by Insula at every start; changes are lost.\n");
    for address in ["127.0.0.1/32", "::1/128"] {
        text.push_str(&format!("host {BLUEPRINT} {BLUEPRINT} {address} scram-sha-256\n"));
    }
    for database in ["all", "replication"] {
        text.push_str(&format!(
            "local {database} all scram-sha-256\n\
             host {database} {user} 127.0.0.1/32 scram-sha-256\n\
             host {database} {user} ::1/128 scram-sha-256\n\
             host {database} all all reject\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_tcp_the_superuser_alone_comes_in_unless_everybody_may() {
        let safe = render(TcpAccess::Superuser);
        let admitted = |text: &str| -> Vec<String> {
            let rules = text.lines().filter(|line| line.starts_with("host") && !line.ends_with(" reject"));
            rules.map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect()
        };
        assert_eq!(admitted(&safe), [&[BLUEPRINT; 2][..], &[SUPERUSER; 4]].concat());
        assert_eq!(admitted(&render(TcpAccess::Everybody)), [&[BLUEPRINT; 2][..], &["all"; 4]].concat());
        assert!(
            safe.matches(&format!("host {BLUEPRINT} {BLUEPRINT} ")).count() == 2,
            "its own database alone"
        );
        assert!(safe.ends_with("host replication all all reject\n"), "{safe}");
        assert!(!safe.contains("trust"));
    }
}
