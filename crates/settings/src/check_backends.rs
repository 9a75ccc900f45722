//! Rules for the backends of the configuration: which settings each kind needs.
//! Pure.

use std::collections::BTreeSet;

use crate::error::Fault;
use crate::sections::{ConfigBackend, ConfigBackendKind, Settings};

/// The most backends; each is compared with the log again and again.
const BACKENDS_MAX: usize = 16;
/// The name of the stores.
const OWN: &str = "postgres";

impl Settings {
    pub(crate) fn check_backends(&self, faults: &mut Vec<Fault>) {
        let backends = &self.config.backends;
        if backends.len() > BACKENDS_MAX {
            faults.push(Fault::new("config.backends", format!("expected {BACKENDS_MAX} at the most")));
        }
        let mut names = BTreeSet::new();
        for (index, backend) in backends.iter().enumerate() {
            let mut fault = |field: &str, detail: &str| {
                faults.push(Fault::new(format!("config.backends.{index}.{field}"), detail));
            };
            if !is_name(&backend.name) {
                fault("name", "expected 1 to 40 small letters, digits and dashes, and not postgres");
            }
            if !names.insert(&backend.name) {
                fault("name", "is there twice");
            }
            check_kind(backend, &mut fault);
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name != OWN
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether what is sent there leaves this machine in clear.
fn is_in_clear(url: &str) -> bool {
    let is_here =
        |rest: &str| ["127.0.0.1:", "[::1]:", "localhost:"].iter().any(|host| rest.starts_with(host));
    url.strip_prefix("http://").is_some_and(|rest| !is_here(rest))
}

fn check_kind(backend: &ConfigBackend, fault: &mut impl FnMut(&str, &str)) {
    if !backend.kind.is_aws() {
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if backend.endpoints.is_empty() || !backend.endpoints.iter().all(is_url) {
            fault("endpoints", "expected at least one URL, as in \"http://etcd.example.com:2379\"");
        }
        if backend.user.is_some() && backend.endpoints.iter().any(|url| is_in_clear(url)) {
            fault("endpoints", "expected https outside of this machine, since a password is sent");
        }
        if !backend.root.starts_with('/') {
            fault("root", "expected a path, as in \"/insula/config\"");
        }
        if backend.user.is_some() && !backend.password.is_set() && backend.password_file.is_none() {
            fault("password_file", "expected this or password, since there is a user");
        }
        return;
    }
    if backend.region.as_ref().is_none_or(String::is_empty) {
        fault("region", "expected a region of AWS, as in \"eu-west-1\"");
    }
    if backend.access_key_id.as_ref().is_none_or(String::is_empty) {
        fault("access_key_id", "expected the id of an access key");
    }
    if !backend.secret_access_key.is_set() && backend.secret_access_key_file.is_none() {
        fault("secret_access_key_file", "expected this or secret_access_key");
    }
    if backend.kind == ConfigBackendKind::Dynamodb && backend.table.as_ref().is_none_or(String::is_empty) {
        fault("table", "expected the name of a table");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(backends: &str) -> Vec<String> {
        let settings: Settings = toml::from_str(&format!("[config]\nbackends = [{backends}]")).unwrap();
        let mut faults = Vec::new();
        settings.check_backends(&mut faults);
        faults.into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn each_kind_says_what_it_needs() {
        let etcd = r#"{ name = "etcd", kind = "etcd", endpoints = "http://127.0.0.1:2379" }"#;
        let aws = r#"name = "aws", region = "eu-west-1", access_key_id = "a", secret_access_key = "b""#;
        let parameters = format!(r#"{{ kind = "parameter_store", {aws} }}"#);
        assert_eq!(faults(&format!("{etcd}, {parameters}")), [""; 0]);
        let here = etcd.replace(" }", r#", user = "u", password = "p" }"#);
        assert_eq!(faults(&here), [""; 0]);
        for (backends, said) in [
            (format!("{etcd}, {etcd}"), "config.backends.1.name"),
            (r#"{ name = "postgres", kind = "etcd", endpoints = "http://e" }"#.to_owned(), "not postgres"),
            (r#"{ name = "e", kind = "etcd" }"#.to_owned(), "config.backends.0.endpoints"),
            (r#"{ name = "e", kind = "etcd", endpoints = "e:2379" }"#.to_owned(), "as in \"http://"),
            (r#"{ name = "e", kind = "etcd", endpoints = "http://e", root = "x" }"#.to_owned(), "root"),
            (r#"{ name = "e", kind = "etcd", endpoints = "http://e", user = "u" }"#.to_owned(), "password"),
            (
                r#"{ name = "e", kind = "etcd", endpoints = "http://e", user = "u", password = "p" }"#
                    .to_owned(),
                "expected https",
            ),
            (format!(r#"{{ kind = "dynamodb", {aws} }}"#), "config.backends.0.table"),
            (r#"{ name = "d", kind = "parameter_store" }"#.to_owned(), "region"),
        ] {
            let found = faults(&backends);
            assert!(found.iter().any(|fault| fault.contains(said)), "{backends}: {found:?}");
        }
    }
}
