//! The master keys: 32 random bytes each, the newest for what is new, earlier
//! ones for what was derived from them and has not been renewed yet.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insula_domain::Entropy;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::Secret;

/// Bytes of a master key.
const KEY_BYTES: usize = 32;

/// Generations that one text may hold: rotation keeps a few, never many.
const GENERATIONS_MAX: usize = 100;

/// One master key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; KEY_BYTES]);

impl MasterKey {
    /// A new key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut key = Self([0; KEY_BYTES]);
        entropy.fill(&mut key.0);
        key
    }

    /// Reads the key from its base64 text (RFC 4648 §4); white space around it
    /// does not matter.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] where the text is not the base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKey> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| InvalidMasterKey::NotBase64)?);
        let mut key = Self([0; KEY_BYTES]);
        if bytes.len() != KEY_BYTES {
            return Err(InvalidMasterKey::WrongLength(bytes.len()));
        }
        key.0.copy_from_slice(&bytes);
        Ok(key)
    }

    /// The key as base64 text.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        Secret::new(STANDARD.encode(self.0))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

/// The text does not hold master keys. Never carries the text itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidMasterKey {
    /// A key is not base64.
    #[error("a master key is not valid base64")]
    NotBase64,
    /// A key has another length than 32 bytes.
    #[error("a master key has {0} bytes instead of 32")]
    WrongLength(usize),
    /// An entry is not `generation:base64`, with a generation from 1 up.
    #[error("entry {0} of the master keys is not generation:base64, with a generation from 1 up")]
    NotAnEntry(usize),
    /// Two entries have the same generation.
    #[error("the generation {0} of the master keys is there twice")]
    Twice(u32),
    /// There is no entry at all.
    #[error("there is no master key in the text")]
    Empty,
    /// More generations than anybody needs.
    #[error("there are more than 100 generations of master keys in the text")]
    TooMany,
}

/// Nothing can be derived: the key of this generation is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the master key of generation {0} is not among the keys of this process")]
pub struct UnknownKeyGeneration(pub u32);

/// The current master key and the earlier ones, each by its generation.
#[derive(Clone)]
pub struct MasterKeys {
    /// Never empty.
    keys: BTreeMap<u32, MasterKey>,
    current: u32,
}

impl MasterKeys {
    /// The keys of a new Insula: one, of generation 1.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self { keys: BTreeMap::from([(1, MasterKey::generate(entropy))]), current: 1 }
    }

    /// Reads entries `generation:base64`, separated by lines or other white
    /// space; the highest generation is the current one. A single base64 text
    /// without a generation is taken as generation 1.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKey> {
        let entries: Vec<&str> = text.split_whitespace().take(GENERATIONS_MAX + 1).collect();
        if entries.len() > GENERATIONS_MAX {
            return Err(InvalidMasterKey::TooMany);
        }
        if let [only] = entries[..]
            && !only.contains(':')
        {
            return Ok(Self { keys: BTreeMap::from([(1, MasterKey::parse(only)?)]), current: 1 });
        }
        let mut keys = BTreeMap::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let (generation, key) = parse_entry(entry, index + 1)?;
            if keys.insert(generation, key).is_some() {
                return Err(InvalidMasterKey::Twice(generation));
            }
        }
        let current = *keys.keys().next_back().ok_or(InvalidMasterKey::Empty)?;
        Ok(Self { keys, current })
    }

    /// The text that [`MasterKeys::parse`] reads: a line for each generation.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let mut text = String::new();
        for (generation, key) in &self.keys {
            text.push_str(&format!("{generation}:{}\n", key.to_text().expose()));
        }
        Secret::new(text)
    }

    /// These keys and a new current one of the next generation.
    #[must_use]
    pub fn rotated(&self, entropy: &dyn Entropy) -> Self {
        let mut keys = self.keys.clone();
        let current = self.current.saturating_add(1);
        keys.insert(current, MasterKey::generate(entropy));
        Self { keys, current }
    }

    /// The generation from which new secrets are derived.
    #[must_use]
    pub fn current_generation(&self) -> u32 {
        self.current
    }

    /// All generations that are here, the oldest first.
    pub fn generations(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.keys().copied()
    }

    pub(crate) fn key(&self, generation: u32) -> Result<&MasterKey, UnknownKeyGeneration> {
        self.keys.get(&generation).ok_or(UnknownKeyGeneration(generation))
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys").field("generations", &self.keys.keys()).finish_non_exhaustive()
    }
}

fn parse_entry(entry: &str, number: usize) -> Result<(u32, MasterKey), InvalidMasterKey> {
    let (generation, key) = entry.split_once(':').ok_or(InvalidMasterKey::NotAnEntry(number))?;
    let generation = generation.parse().map_err(|_| InvalidMasterKey::NotAnEntry(number))?;
    if generation == 0 {
        return Err(InvalidMasterKey::NotAnEntry(number));
    }
    Ok((generation, MasterKey::parse(key)?))
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    #[test]
    fn keys_read_back_and_rotate() {
        let first = MasterKeys::generate(&OsEntropy);
        let second = first.rotated(&OsEntropy);
        assert_eq!((first.current_generation(), second.current_generation()), (1, 2));
        let read = MasterKeys::parse(second.to_text().expose()).unwrap();
        assert_eq!(read.generations().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read.key(1).unwrap().bytes(), first.key(1).unwrap().bytes());
        assert_eq!(read.key(2).unwrap().bytes(), second.key(2).unwrap().bytes());
        assert_ne!(read.key(1).unwrap().bytes(), read.key(2).unwrap().bytes());
        assert_eq!(read.key(3).unwrap_err(), UnknownKeyGeneration(3));
    }

    #[test]
    fn one_bare_key_is_generation_1_and_order_does_not_matter() {
        let key = MasterKey::generate(&OsEntropy);
        let text = key.to_text();
        let bare = MasterKeys::parse(&format!("  {}\n", text.expose())).unwrap();
        assert_eq!(bare.key(1).unwrap().bytes(), key.bytes());
        let mixed = MasterKeys::parse(&format!("7:{0}\n3:{0} 5:{0}", text.expose())).unwrap();
        assert_eq!(mixed.current_generation(), 7);
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_being_shown() {
        let good = MasterKey::generate(&OsEntropy).to_text();
        let good = good.expose();
        let cases = [
            (String::new(), InvalidMasterKey::Empty),
            ("hunter2!".to_owned(), InvalidMasterKey::NotBase64),
            ("aHVudGVyMg==".to_owned(), InvalidMasterKey::WrongLength(7)),
            (format!("1:{good}\n1:{good}"), InvalidMasterKey::Twice(1)),
            (format!("0:{good}"), InvalidMasterKey::NotAnEntry(1)),
            (format!("1:{good}\n{good}"), InvalidMasterKey::NotAnEntry(2)),
            (format!("-1:{good}"), InvalidMasterKey::NotAnEntry(1)),
            ("1:aHVudGVyMg== ".repeat(101), InvalidMasterKey::TooMany),
        ];
        for (text, expected) in cases {
            let refused = MasterKeys::parse(&text).unwrap_err();
            assert_eq!(refused, expected);
            assert!(!refused.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = MasterKeys::generate(&OsEntropy);
        let text = keys.to_text();
        let shown = format!("{keys:?} {:?}", keys.key(1).unwrap());
        assert!(!shown.contains(text.expose().trim().split_once(':').unwrap().1));
    }
}
