//! A list of texts that may also be written as one text with commas between
//! them, which is how a variable of the environment has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::role::Role;

/// A list, or one text with commas between its parts.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text, with commas between several.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// Reads texts.
pub fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let given = OneOrMany::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("expected a text or a list of texts"))?;
    Ok(match given {
        OneOrMany::One(text) => {
            text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
        }
        OneOrMany::Many(texts) => texts,
    })
}

/// Reads addresses with their ports.
pub fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let address = |text: &String| {
        text.parse().map_err(|_| {
            let shown: String = text.chars().take(60).collect();
            serde::de::Error::custom(format!(
                "{shown:?} is not an address with a port, as in \"127.0.0.1:7400\" or \"[::1]:7400\""
            ))
        })
    };
    texts(deserializer)?.iter().map(address).collect()
}

/// Reads roles; one that is named twice counts once.
pub fn roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Role>, D::Error> {
    texts(deserializer)?.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
