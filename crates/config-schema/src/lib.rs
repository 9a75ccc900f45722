//! JSON Schemas for values of the configuration: which schema a key has, whether
//! a text is a schema, and whether a value fits. Nothing is fetched from
//! anywhere, patterns are matched in linear time, and what was compiled is kept
//! within bounds.

mod cache;
mod governing;
mod schema;

pub use cache::SchemaCache;
pub use governing::{Governed, governed, governing};
pub use schema::{DoesNotFit, NotASchema, Schema};
