//! What is committed about the settings: the JSON Schema and the annotated
//! example, both held against the structs.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::PathBuf;

use insula_settings::Settings;

fn docs(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).join(name)
}

#[test]
fn the_committed_schema_is_the_one_of_the_structs() {
    let committed = std::fs::read_to_string(docs("settings.schema.json")).unwrap();
    assert!(
        committed == Settings::json_schema(),
        "docs/settings.schema.json is old: run `cargo xtask generate`"
    );
}

/// The example with its files in a folder where they exist.
fn example() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(docs("insula.example.toml")).unwrap();
    for name in ["master.key", "operator.token"] {
        std::fs::write(folder.path().join(name), "secret\n").unwrap();
    }
    let text = text.replace("/etc/insula/", &format!("{}/", folder.path().display()));
    (folder, text)
}

#[test]
fn the_example_loads() {
    let (folder, text) = example();
    let file = folder.path().join("insula.toml");
    std::fs::write(&file, text).unwrap();
    let settings = Settings::load(Some(&file), []).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.regions.len(), 2);
    assert_eq!(settings.keys.master_key.expose(), "secret");
}

#[test]
fn the_example_shows_every_key_in_its_section() {
    let schema: serde_json::Value = serde_json::from_str(&Settings::json_schema()).unwrap();
    let (_folder, text) = example();
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches("# ");
        let header = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
        match (header, sections.last_mut()) {
            (Some(name), _) => sections.push((name.trim_matches(['[', ']']).to_owned(), String::new())),
            (None, Some((_, body))) => body.push_str(&format!("\n{line}")),
            (None, None) => {}
        }
    }
    let mut seen = 0;
    for (section, inner) in schema["properties"].as_object().unwrap() {
        let table = inner.get("items").unwrap_or(inner);
        for key in table["properties"].as_object().unwrap().keys() {
            let shown =
                sections.iter().any(|(name, body)| name == section && body.contains(&format!("\n{key} = ")));
            assert!(shown, "docs/insula.example.toml does not show {key} in [{section}]");
            seen += 1;
        }
    }
    assert!(seen > 45, "{seen}");
}
