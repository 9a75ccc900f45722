//! Large values, by what they contain. One is put before a version refers to it,
//! and goes some time after the last version that did.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use insula_config_model::{BlobRef, Scope};
use insula_problem::{Code, Problem};

use crate::ConfigStore;

/// How many bytes are read at once.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The largest one.
const BLOB_BYTES_MAX: usize = 64 << 20;

/// Holds the home, so that a tenant does not go in between.
const PUT: &str = "with home as materialized (
        select 1 from config_homes h where h.scope = $1 and h.state = 'open' for key share
    ), room as materialized (
        select $1 not like 'tenant/%' or exists (select from home) as is_open, $3::bigint + 4096 + coalesce((
            select sum(b.bytes + 4096) from config_blobs b where b.scope = $1 and b.sha256 <> $2), 0) <= $7::bigint
            as is_there
    ), blob as (
        insert into config_blobs (scope, sha256, bytes, at)
        select $1, $2, $3, $4
        from room where room.is_open and room.is_there
        on conflict (scope, sha256) do update set at = excluded.at
        returning scope, sha256
    ), chunks as (
        insert into config_blob_chunks (scope, sha256, number, bytes)
        select b.scope, b.sha256, c.number, c.bytes
        from blob b, unnest($5::int[], $6::bytea[]) as c (number, bytes)
        on conflict do nothing
    )
    select is_open, is_there from room";

const CHUNK: &str = "select c.bytes from config_blob_chunks c
    where c.scope = $1 and c.sha256 = $2 and c.number = $3 and (
        c.scope not like 'tenant/%' or exists (
            select from config_homes h where h.scope = c.scope and h.state = 'open'))";

impl ConfigStore {
    /// Keeps a large value, to be referred to by what is given back within the hour.
    ///
    /// # Errors
    /// `config_value_too_large`, `config_quota_exceeded`, `config_moving`, or where the store is away.
    pub async fn put_blob(&self, scope: &Scope, bytes: &[u8], media_type: &str) -> Result<BlobRef, Problem> {
        if bytes.len() > BLOB_BYTES_MAX {
            let detail = format!("The value has {} bytes, and {BLOB_BYTES_MAX} are the most.", bytes.len());
            return Err(Problem::new(Code::ConfigValueTooLarge, detail));
        }
        let hash = digest(&SHA256, bytes);
        let sha256: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let length = i64::try_from(bytes.len()).map_err(Problem::internal)?;
        let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
        let numbers: Vec<i32> = (0..).take(chunks.len()).collect();
        let at = self.ambient.clock.now();
        let (scope, most) = (scope.to_string(), self.quota.large);
        let put = self.large.query(PUT, &[&scope, &sha256, &length, &at, &numbers, &chunks, &most]).await?;
        let room = put.first().ok_or_else(|| Problem::internal("nothing was put"))?;
        if !room.get::<_, bool>(0) {
            return Err(crate::homes::moving());
        }
        if !room.get::<_, bool>(1) {
            let detail = format!(
                "There is no room for the value: {most} bytes of large values are the most here, those included that \
                 were replaced within the hour."
            );
            return Err(Problem::new(Code::ConfigQuotaExceeded, detail));
        }
        Ok(BlobRef { sha256, bytes: length, media_type: media_type.to_owned() })
    }

    /// A part of a large value, [`CHUNK_BYTES`] long but for the last one; none
    /// behind the last one, or where the value is not there.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn blob_chunk(
        &self,
        scope: &Scope,
        sha256: &str,
        number: u32,
    ) -> Result<Option<Bytes>, Problem> {
        let number = i32::try_from(number).map_err(Problem::internal)?;
        let rows = self.large.query(CHUNK, &[&scope.to_string(), &sha256, &number]).await?;
        Ok(rows.first().map(|row| Bytes::from(row.get::<_, Vec<u8>>(0))))
    }
}
