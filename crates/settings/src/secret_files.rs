//! Secrets that stand in files of their own: `url_file` for `url`, and so on.

use std::path::{Path, PathBuf};

use crate::error::Fault;
use crate::load::read_bounded;
use crate::secret::SecretText;
use crate::sections::Settings;

/// The largest file that is read for a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

impl Settings {
    /// Reads every file that holds a secret into the secret's field.
    pub(crate) fn read_secret_files(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut read = |key: &str, secret: &mut SecretText, file: &Option<PathBuf>| {
            if let Some(file) = file {
                faults.extend(read_into(key, secret, file).err());
            }
        };
        read("catalog.url", &mut self.catalog.url, &self.catalog.url_file);
        read("keys.master_key", &mut self.keys.master_key, &self.keys.master_key_file);
        read("operator.token", &mut self.operator.token, &self.operator.token_file);
        for (index, region) in self.regions.iter_mut().enumerate() {
            read(&format!("regions.{index}.store_url"), &mut region.store_url, &region.store_url_file);
        }
        for (index, backend) in self.config.backends.iter_mut().enumerate() {
            let key = |field: &str| format!("config.backends.{index}.{field}");
            read(&key("password"), &mut backend.password, &backend.password_file);
            let file = &backend.secret_access_key_file;
            read(&key("secret_access_key"), &mut backend.secret_access_key, file);
        }
        faults
    }
}

fn read_into(key: &str, secret: &mut SecretText, file: &Path) -> Result<(), Fault> {
    let fault = |detail: String| Fault::new(format!("{key}_file"), detail);
    if secret.is_set() {
        return Err(fault(format!("is set, and so is {key}: only one of them can be")));
    }
    let text = read_bounded(file, SECRET_BYTES_MAX)
        .map_err(|reason| fault(format!("{} cannot be read: {reason}", file.display())))?;
    *secret = SecretText::new(text.trim());
    if secret.is_set() { Ok(()) } else { Err(fault(format!("{} is empty", file.display()))) }
}
