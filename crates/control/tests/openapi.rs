//! The committed description of the API is the one that the code has, so that
//! a change of the API is seen in review.

#[test]
fn the_committed_description_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let made = serde_json::to_string_pretty(&insula_control::http::openapi()).unwrap();
    assert!(
        committed.trim_end() == made,
        "docs/openapi.json is not what the code makes: cargo run -p insula -- openapi > docs/openapi.json"
    );
}
