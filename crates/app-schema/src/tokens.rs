//! The one change that is made in the text of statements and function bodies:
//! `ON CONFLICT (a)` finds its unique index in a pool only when it names the
//! tenant column as well, as that is the first of every unique index there.

use pg_query::protobuf::Token;

use crate::syntax::{offset, tokens_of};

/// The text with the tenant column in every `ON CONFLICT (…)`. `targets` says
/// how many of them the parser has seen there; none is the answer where the
/// tokens show another number, as in `JOIN t ON conflict(a)`.
pub(crate) fn widen_on_conflict(sql: &str, targets: usize) -> Option<String> {
    let tokens = tokens_of(sql);
    let mut widened = String::with_capacity(sql.len());
    let mut copied = 0;
    let mut seen = 0;
    for triple in tokens.windows(3) {
        let kinds = [triple[0].token, triple[1].token, triple[2].token];
        if kinds == [Token::On as i32, Token::Conflict as i32, Token::Ascii40 as i32] {
            let behind = offset(triple[2].end);
            widened.push_str(&sql[copied..behind]);
            widened.push_str("tenant_id, ");
            copied = behind;
            seen += 1;
        }
    }
    widened.push_str(&sql[copied..]);
    (seen == targets).then_some(widened)
}

/// Whether a text, once it is run as SQL, would need [`widen_on_conflict`].
pub(crate) fn has_on_conflict(text: &str) -> bool {
    let folded = text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    folded.contains("on conflict (") || folded.contains("on conflict(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conflict_targets_are_widened() {
        let sql = "INSERT INTO t (a) VALUES ('ON CONFLICT (a)') -- ON CONFLICT (a)\n\
                   ON  CONFLICT/**/(lower(a)) DO UPDATE SET a = 'ü'; \
                   INSERT INTO t VALUES (1) on conflict on constraint c do nothing; \
                   INSERT INTO t VALUES (1) on conflict (b) where b > 1 do nothing";
        let widened = widen_on_conflict(sql, 2).unwrap();
        assert_eq!(widened.matches("tenant_id, ").count(), 2);
        assert!(widened.contains("ON  CONFLICT/**/(tenant_id, lower(a)) DO UPDATE SET a = 'ü'"));
        assert!(widened.contains("on conflict (tenant_id, b) where"));
        assert_eq!(widen_on_conflict("SELECT * FROM a JOIN b ON conflict (a)", 0), None);
        assert!(has_on_conflict("insert … ON\n CONFLICT (a)") && !has_on_conflict("on conflict do nothing"));
    }
}
