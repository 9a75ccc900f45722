//! The names of PostgreSQL's error conditions (PostgreSQL 15, appendix A): what
//! can be said of an error without its message.

/// Conditions that a version of an app schema meets.
const CONDITIONS: &[(&str, &str)] = &[
    ("0A000", "feature_not_supported"),
    ("21000", "cardinality_violation"),
    ("22000", "data_exception"),
    ("22001", "string_data_right_truncation"),
    ("22003", "numeric_value_out_of_range"),
    ("22004", "null_value_not_allowed"),
    ("22007", "invalid_datetime_format"),
    ("22008", "datetime_field_overflow"),
    ("22012", "division_by_zero"),
    ("22021", "character_not_in_repertoire"),
    ("22023", "invalid_parameter_value"),
    ("22026", "string_data_length_mismatch"),
    ("2202E", "array_subscript_error"),
    ("2201B", "invalid_regular_expression"),
    ("22P02", "invalid_text_representation"),
    ("22P03", "invalid_binary_representation"),
    ("22P05", "untranslatable_character"),
    ("23000", "integrity_constraint_violation"),
    ("23001", "restrict_violation"),
    ("23502", "not_null_violation"),
    ("23503", "foreign_key_violation"),
    ("23505", "unique_violation"),
    ("23514", "check_violation"),
    ("23P01", "exclusion_violation"),
    ("2BP01", "dependent_objects_still_exist"),
    ("428C9", "generated_always"),
    ("3F000", "invalid_schema_name"),
    ("42501", "insufficient_privilege"),
    ("42601", "syntax_error"),
    ("42701", "duplicate_column"),
    ("42703", "undefined_column"),
    ("42704", "undefined_object"),
    ("42710", "duplicate_object"),
    ("42723", "duplicate_function"),
    ("42803", "grouping_error"),
    ("42804", "datatype_mismatch"),
    ("42809", "wrong_object_type"),
    ("42830", "invalid_foreign_key"),
    ("42846", "cannot_coerce"),
    ("42883", "undefined_function"),
    ("42P01", "undefined_table"),
    ("42P07", "duplicate_table"),
    ("42P16", "invalid_table_definition"),
    ("42P17", "invalid_object_definition"),
    ("54000", "program_limit_exceeded"),
    ("55000", "object_not_in_prerequisite_state"),
    ("55006", "object_in_use"),
    ("P0001", "raise_exception"),
    ("P0002", "no_data_found"),
    ("P0003", "too_many_rows"),
    ("P0004", "assert_failure"),
    ("57014", "query_canceled"),
];

/// The name of a condition, or of its class.
pub(super) fn condition(sqlstate: &str) -> &'static str {
    if let Some((_, name)) = CONDITIONS.iter().find(|(code, _)| *code == sqlstate) {
        return name;
    }
    match sqlstate.get(..2).unwrap_or_default() {
        "22" => "data exception",
        "23" => "integrity constraint violation",
        "25" => "invalid transaction state",
        "42" => "syntax error or access rule violation",
        "54" => "program limit exceeded",
        "55" => "object not in prerequisite state",
        "P0" => "PL/pgSQL error",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_named_and_else_their_class() {
        assert_eq!(condition("23505"), "unique_violation");
        assert_eq!(condition("22ZZZ"), "data exception");
        assert_eq!(condition("ZZ"), "error");
        assert_eq!(condition(""), "error");
    }
}
