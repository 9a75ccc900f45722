//! Which statements of a text were rolled back in the same text. The recorder
//! knows nothing of them, so that they must not be taken for those that it knows.

use pg_query::NodeEnum;
use pg_query::protobuf::TransactionStmtKind as Kind;

use crate::syntax::Statement;

/// For each statement, whether what it did was kept by the rest of its text.
pub(super) fn that_stay(statements: &[Statement]) -> Vec<bool> {
    let mut stays = vec![true; statements.len()];
    // Where the transaction began, as far as it is in this text; a BEGIN takes
    // in what stands before it.
    let mut begun = 0;
    let mut savepoints: Vec<(&str, usize)> = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let NodeEnum::TransactionStmt(control) = &statement.node else { continue };
        let name = control.savepoint_name.as_str();
        let place = savepoints.iter().rposition(|(set, _)| *set == name);
        match control.kind() {
            Kind::TransStmtSavepoint => savepoints.push((name, index)),
            Kind::TransStmtRelease => savepoints.truncate(place.unwrap_or(0)),
            Kind::TransStmtRollbackTo => {
                // One that is not found was set by a message before.
                let from = place.map_or(begun, |place| savepoints[place].1);
                stays[from..index].fill(false);
                savepoints.truncate(place.map_or(0, |place| place + 1));
            }
            Kind::TransStmtRollback => {
                stays[begun..index].fill(false);
                (begun, savepoints) = (index + 1, Vec::new());
            }
            Kind::TransStmtCommit => (begun, savepoints) = (index + 1, Vec::new()),
            _ => {}
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;
    use crate::syntax::statements;

    /// The numbers that are selected in a text and stay.
    fn kept(sql: &str) -> Vec<&str> {
        let all = statements(Source { file: "", sql }).unwrap();
        let stay = that_stay(&all);
        let kept = all.iter().zip(stay).filter(|(_, stays)| *stays);
        kept.filter_map(|(statement, _)| statement.text(sql).strip_prefix("select ")).collect()
    }

    #[test]
    fn what_is_rolled_back_in_the_same_text_does_not_stay() {
        for (sql, expected) in [
            ("select 1; select 2", vec!["1", "2"]),
            ("begin; select 1; savepoint s; select 2; rollback to s; select 3; commit", vec!["1", "3"]),
            ("begin; select 1; rollback; select 2", vec!["2"]),
            ("select 1; begin; select 2; rollback; begin; select 3; commit", vec!["3"]),
            ("select 1; commit; select 2; rollback; select 3", vec!["1", "3"]),
            ("select 1; rollback to earlier; select 2", vec!["2"]),
            ("begin; savepoint a; select 1; savepoint b; select 2; rollback to a; select 3", vec!["3"]),
            ("savepoint a; select 1; savepoint a; select 2; rollback to a; select 3", vec!["1", "3"]),
            ("savepoint a; select 1; savepoint A; release a; select 2; rollback to a; select 3", vec!["3"]),
            ("savepoint a; select 1; release a; select 2; rollback to \"A\"; select 3", vec!["3"]),
        ] {
            assert_eq!(kept(sql), expected, "{sql}");
        }
    }
}
