//! The bytes of a large value, as they come: to standard output, or to a file that
//! is there only once it is whole.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::client::Failure;
use crate::output;

/// Takes an answer's bytes.
pub async fn fetch(mut answer: reqwest::Response, file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else {
        while let Some(bytes) = next(&mut answer).await? {
            output::bytes(bytes.as_ref());
        }
        return Ok(());
    };
    let unwritable = |error: std::io::Error| Failure::local("file", format!("{}: {error}", file.display()));
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut whole = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(unwritable)?;
    while let Some(bytes) = next(&mut answer).await? {
        whole.write_all(bytes.as_ref()).map_err(unwritable)?;
    }
    whole.persist(file).map_err(|error| unwritable(error.error))?;
    Ok(())
}

async fn next(answer: &mut reqwest::Response) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
    let broken =
        |error: reqwest::Error| Failure::local("unreachable", format!("The answer broke off: {error}."));
    answer.chunk().await.map_err(broken)
}
