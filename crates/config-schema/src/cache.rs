//! Compiled schemas, kept by their text; the one that was not used for the
//! longest time goes when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::schema::{NotASchema, Schema};

/// Compiled schemas.
#[derive(Debug)]
pub struct SchemaCache {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_text: HashMap<Arc<[u8]>, Entry>,
    looks: u64,
}

#[derive(Debug)]
struct Entry {
    schema: Arc<Schema>,
    used: u64,
}

impl SchemaCache {
    /// Keeps so many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    /// A schema by its text, compiled where it is not kept.
    ///
    /// # Errors
    /// Where the text is none.
    pub fn compiled(&self, text: &[u8]) -> Result<Arc<Schema>, NotASchema> {
        if let Some(schema) = self.kept().find(text) {
            return Ok(schema);
        }
        // Outside the lock: others need not wait for it. Twice is no harm.
        let schema = Arc::new(Schema::compile(text)?);
        self.kept().keep(text, &schema, self.max);
        Ok(schema)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, text: &[u8]) -> Option<Arc<Schema>> {
        self.looks += 1;
        let entry = self.by_text.get_mut(text)?;
        entry.used = self.looks;
        Some(Arc::clone(&entry.schema))
    }

    fn keep(&mut self, text: &[u8], schema: &Arc<Schema>, max: usize) {
        while self.by_text.len() >= max.max(1) {
            let oldest = self.by_text.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(text, _)| Arc::clone(text)) else { break };
            self.by_text.remove(&oldest);
        }
        self.by_text.insert(text.into(), Entry { schema: Arc::clone(schema), used: self.looks });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = SchemaCache::new(2);
        let text = |number: u32| format!(r#"{{"minimum": {number}}}"#).into_bytes();
        let first = cache.compiled(&text(1)).unwrap();
        cache.compiled(&text(2)).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.compiled(&text(1)).unwrap()));
        cache.compiled(&text(3)).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.compiled(&text(1)).unwrap()), "the second one went");
        assert_eq!(cache.kept().by_text.len(), 2);
        assert!(cache.compiled(b"[]").is_err());
        assert_eq!(cache.kept().by_text.len(), 2, "what is none is not kept");
    }
}
