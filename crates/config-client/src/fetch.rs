//! The bytes of large values, which are not kept in memory.

use aws_lc_rs::digest::{Context, SHA256};
use insula_config_proto::v1;
use thiserror::Error;

use crate::client::Client;
use crate::file::hex;
use crate::read::{ReadError, cut};
use crate::session::said;
use crate::value::{Content, Large};

/// The longest value that is fetched, in bytes: what a tag can allow.
const FETCH_BYTES_MAX: u64 = 64 << 20;

/// Why a large value cannot be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is none, or it is not large.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The value is in the key's own JSON.
    #[error("{0} is not a large value")]
    NotLarge(String),
    /// The server cannot be reached now.
    #[error("{key} cannot be fetched: {why}")]
    Away {
        /// The key.
        key: String,
        /// Why not.
        why: String,
    },
    /// What came is not what the value's reference says.
    #[error("what was sent for {0} is not what its reference says")]
    Other(String),
}

impl Client {
    /// Fetches the large value that the client sees now under a key, and compares
    /// it with its reference.
    ///
    /// # Errors
    /// Where there is none, it cannot be reached, or something else was sent.
    pub async fn fetch(&self, key: &str) -> Result<Vec<u8>, FetchError> {
        let value = self.value(key).ok_or_else(|| ReadError::Missing { key: key.to_owned() })?;
        let Content::Large(large) = &value.content else {
            return Err(FetchError::NotLarge(key.to_owned()));
        };
        let away = |why: &str| FetchError::Away { key: key.to_owned(), why: cut(why).to_owned() };
        if large.bytes > FETCH_BYTES_MAX {
            return Err(away("it is longer than what is fetched"));
        }
        let stub = self.shared().stub.load_full().ok_or_else(|| away("the server is away"))?;
        let request = v1::FetchRequest {
            key: key.to_owned(),
            scope: self.scope().to_owned(),
            sha256: large.sha256.clone(),
        };
        let mut stub = stub.as_ref().clone();
        let fetching = async {
            let mut chunks = stub.fetch(self.dialer().request(request)).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                bytes.extend_from_slice(&chunk.bytes);
                if bytes.len() as u64 > large.bytes {
                    break;
                }
            }
            Ok(bytes)
        };
        let fetched: Result<Vec<u8>, tonic::Status> = tokio::time::timeout(self.silence_max(), fetching)
            .await
            .map_err(|_| away("the server is too slow"))?;
        let bytes = fetched.map_err(|status| away(&said(&status)))?;
        if is_what(large, &bytes) { Ok(bytes) } else { Err(FetchError::Other(key.to_owned())) }
    }
}

fn is_what(large: &Large, bytes: &[u8]) -> bool {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    large.bytes == bytes.len() as u64 && large.sha256.eq_ignore_ascii_case(&hex(context.finish().as_ref()))
}
