//! Settings of a session that change what the text of a statement means. A
//! version runs with Insula's own, so what was written for others is told.

use pg_query::NodeEnum;
use pg_query::protobuf::{AlterTableType, Token};

use crate::syntax::{offset, tokens_of};

/// Whether a text of a session may say another thing to a version's: without
/// standard strings a backslash in a constant is more than itself.
pub(super) fn reads_otherwise(settings: &str, text: &str) -> bool {
    settings.contains("standard_conforming_strings") && text.contains('\\')
}

/// What is to be told of a statement that goes into the version as it was
/// written.
pub(super) fn note(settings: &str, text: &str, node: &NodeEnum) -> Option<String> {
    let is_about_times = ["Style", "TimeZone"].iter().any(|name| settings.contains(name));
    if !is_about_times || matches!(node, NodeEnum::CreateFunctionStmt(_)) {
        return None;
    }
    (changes_to_a_time(node, text) || tells_a_time(text)).then(|| {
        format!(
            "it ran with {settings}, and a version runs with DateStyle = ISO, MDY, IntervalStyle = postgres and \
             TimeZone = UTC: write dates as in 2024-05-31, and times with their offset, as in 12:00+02"
        )
    })
}

/// Whether a constant looks like a date or time: digits on both sides of what
/// divides them.
fn tells_a_time(text: &str) -> bool {
    let constants = tokens_of(text).into_iter().filter(|token| token.token == Token::Sconst as i32);
    constants.filter_map(|token| text.get(offset(token.start)..offset(token.end))).any(|constant| {
        constant
            .as_bytes()
            .windows(3)
            .any(|part| part[0].is_ascii_digit() && b"-/.:".contains(&part[1]) && part[2].is_ascii_digit())
    })
}

/// Whether a column's type is changed to one of a date or time, by which its
/// values are read anew.
fn changes_to_a_time(node: &NodeEnum, text: &str) -> bool {
    let NodeEnum::AlterTableStmt(alter) = node else { return false };
    let changes_type = alter.cmds.iter().any(|node| {
        matches!(&node.node, Some(NodeEnum::AlterTableCmd(cmd))
            if cmd.subtype == AlterTableType::AtAlterColumnType as i32)
    });
    let text = text.to_ascii_lowercase();
    changes_type && ["time", "date", "interval"].iter().any(|word| text.contains(word))
}
