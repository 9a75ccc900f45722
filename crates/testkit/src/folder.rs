//! Temporary folders for the data of servers.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

/// A temporary folder that everybody may pass through, since PostgreSQL runs
/// as another user where the tests run as root. Removed when it is dropped.
#[must_use]
pub fn passable_folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("insula-test-").permissions(Permissions::from_mode(0o711));
    builder.tempdir().expect("a temporary folder can be made")
}
