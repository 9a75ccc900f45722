//! Everything that proves who somebody is: the master keys and what is derived
//! from them, SCRAM-SHA-256, signed context tokens, API keys. Pure: time and
//! randomness are handed in, nothing here opens a file or a socket.

mod bearer_key;
mod channel_key;
mod context_token;
mod derived;
mod envelope;
mod master_key;
pub mod scram;
mod sealed;
mod secret;

pub use bearer_key::{ApiKey, BearerKey, KeyKind, NotAKey, OperatorToken, SecretHash};
pub use channel_key::ChannelKey;
pub use context_token::{
    CONTEXT_TOKEN_LIFE_MAX_SECONDS, ContextClaims, ContextTokens, NewContext, TokenNotMinted, TokenRefused,
};
pub use envelope::envelope_generation;
pub use master_key::{InvalidMasterKey, MasterKey, MasterKeys, UnknownKeyGeneration};
pub use scram::ScramVerifier;
pub use sealed::SealError;
pub use secret::Secret;
