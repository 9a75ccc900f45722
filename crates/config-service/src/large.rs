//! The bytes of large values, read from the store as they are taken: no answer
//! has more than one part of them in memory, and one tenant not many answers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use insula_config_model::{BlobRef, ConfigValue, Scope};
use insula_config_store::ConfigStore;
use insula_problem::{Code, Problem};

use crate::caller::Caller;
use crate::reading::Asked;
use crate::service::Service;

/// How many large values may be on their way at once: to one tenant or operator,
/// and to all.
const OF_ONE: usize = 16;
const OF_ALL: usize = 256;

/// Those who are being sent large values.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<HashMap<String, usize>>);

/// A place among them, until the last part is taken.
struct Place {
    readers: Arc<Readers>,
    whose: String,
}

impl Readers {
    fn place(self: &Arc<Self>, whose: String) -> Result<Place, Problem> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = under_way.values().sum();
        let own = under_way.get(&whose).copied().unwrap_or(0);
        if own >= OF_ONE || all >= OF_ALL {
            let detail = "As many large values as may be are on their way. Try again shortly.";
            return Err(Problem::new(Code::Overloaded, detail).retry_after(1));
        }
        under_way.insert(whose.clone(), own + 1);
        drop(under_way);
        Ok(Place { readers: self.clone(), whose })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = under_way.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                under_way.remove(&self.whose);
            }
        }
    }
}

/// A large value on its way.
pub struct Large {
    /// What it is.
    pub blob: BlobRef,
    /// Its bytes, in their order. The first are read already.
    pub bytes: BoxStream<'static, Result<Bytes, Problem>>,
}

impl fmt::Debug for Large {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Large({:?})", self.blob)
    }
}

/// Where it is read, and how far it has been.
struct Reading {
    store: ConfigStore,
    scope: Scope,
    sha256: String,
    next: u32,
    left: usize,
    _place: Place,
}

impl Reading {
    /// The next part; none where that was all.
    async fn part(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.left == 0 {
            return Ok(None);
        }
        let part = self.store.blob_chunk(&self.scope, &self.sha256, self.next).await?;
        let part = part.filter(|part| !part.is_empty()).ok_or_else(replaced)?;
        self.left = self.left.saturating_sub(part.len());
        self.next += 1;
        Ok(Some(part))
    }
}

fn replaced() -> Problem {
    Problem::new(Code::ConfigVersionNotFound, "The value under this key is another one now.")
}

impl Service {
    /// The bytes of a large value that the caller sees; where a hash is given,
    /// only if they are those.
    ///
    /// # Errors
    /// As [`Service::get`]; `config_value_invalid` where it is no large value,
    /// `overloaded` where too many are on their way.
    pub async fn fetch(
        &self,
        caller: &Caller,
        scope: &str,
        key: &str,
        sha256: &str,
    ) -> Result<Large, Problem> {
        let whose = caller.tenant().map_or_else(|| caller.name(), |tenant| tenant.to_string());
        let place = self.readers.place(whose)?;
        let asked = Asked { key: key.to_owned(), scope: scope.to_owned(), ..Asked::default() };
        let seen = self.get(caller, &asked).await?;
        let Some(ConfigValue::Blob(blob)) = seen.value else {
            let detail = "The value under this key is no large one: it is read, not fetched.";
            return Err(Problem::new(Code::ConfigValueInvalid, detail));
        };
        if !sha256.is_empty() && sha256 != blob.sha256 {
            return Err(replaced());
        }
        // The provider's are in the region's own tables too.
        let store = self.store_of(&self.directory.named(caller, scope)?)?.clone();
        let (sha256, left) = (blob.sha256.clone(), usize::try_from(blob.bytes).map_err(Problem::internal)?);
        let mut reading = Reading { store, scope: seen.scope, sha256, next: 0, left, _place: place };
        let first = reading.part().await?;
        let rest = stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.part().await?.map(|part| (part, reading)))
        });
        Ok(Large { blob, bytes: stream::iter(first.map(Ok)).chain(rest).into_stream().boxed() })
    }
}
