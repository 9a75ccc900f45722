//! The app schema.
mod body;
mod builtins;
mod facts;
mod folder;
mod names;
mod plain;
mod refusal;
mod source;
mod syntax;
mod tokens;
