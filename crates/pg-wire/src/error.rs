//! What can be wrong with bytes that should be a message.

use thiserror::Error;

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The length is one that no message has, or none that is accepted here.
    #[error("a message gives its length as {length} bytes; here it can have {min} to {max}")]
    Length {
        /// The length as the message gives it.
        length: u32,
        /// The shortest that would be accepted.
        min: u32,
        /// The longest that would be accepted.
        max: u32,
    },
    /// The protocol's major version is not 3.
    #[error("unsupported frontend protocol {major}.{minor}: the front speaks 3.0 and 3.2")]
    Version {
        /// The major version that was asked for.
        major: u16,
        /// The minor version that was asked for.
        minor: u16,
    },
    /// The content is not what the type of the message asks for.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
}

/// A text cannot be sent: it holds a zero byte, with which the protocol ends
/// its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a text with a zero byte cannot be sent")]
pub struct NulInText;
