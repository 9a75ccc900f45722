//! Loading as its users see it: layers, faults that name what is wrong, and
//! secrets that never show.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_settings::{Role, Settings, SettingsError};

/// What must be there, and nothing else.
const LEAST: &str = r#"
[catalog]
url = "postgres://insula:s3cret-catalog@127.0.0.1:7440/catalog"

[[regions]]
name = "us-east-1"
groups = ["us", "global"]
store_url = "postgres://insula:s3cret-store@127.0.0.1:7441/store"

[keys]
master_key = "s3cret-master"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let folder = Folder::new();
    Settings::load(Some(&folder.write("insula.toml", file)), variables(environment))
}

fn variables(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The faults of settings that are wrong, one a line; no secret is in them.
fn faults(file: &str, environment: &[(&str, &str)]) -> String {
    let error = load(file, environment).unwrap_err();
    let text = format!("{error}\n{error:?}");
    assert!(!text.contains("s3cret"), "a secret shows: {text}");
    error.faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn the_least_is_enough_and_the_rest_has_defaults() {
    let settings = load(LEAST, &[]).unwrap();
    assert_eq!(settings.server.roles, Role::ALL.into());
    assert_eq!(settings.http.listen.len(), 2);
    assert!(settings.http.listen.iter().chain(&settings.pg.listen).all(|address| address.ip().is_loopback()));
    assert_eq!(settings.tenants.delete_retention.get(), Duration::from_secs(7 * 24 * 60 * 60));
    assert_eq!(settings.regions[0].pool_size, 8);
    assert_eq!(settings.catalog.url.expose(), "postgres://insula:s3cret-catalog@127.0.0.1:7440/catalog");
    assert_eq!(settings.provisioner.local(), None);
    assert_eq!(settings.validate(), Ok(()));
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = format!("{LEAST}\n[http]\nlisten = \"127.0.0.1:1\"\nmax_in_flight = 5\n");
    let settings = load(
        &file,
        &[
            ("INSULA_HTTP__LISTEN", "0.0.0.0:8080, [::]:8080"),
            ("INSULA_HTTP__MAX_BODY_BYTES", "1000"),
            ("INSULA_HTTP__REQUEST_TIMEOUT", "1m30s"),
            ("INSULA_HTTP__TLS__CERT_FILE", "/c"),
            ("INSULA_HTTP__TLS__KEY_FILE", "/k"),
            ("INSULA_SERVER__ROLES", "worker,control"),
            ("INSULA_PG__REQUIRE_TLS", "false"),
            ("INSULA_OTEL__SAMPLE_RATIO", "0.5"),
            ("INSULA_URL", "http://the-command-line's-own"),
            ("INSULA_TOKEN", "too"),
        ],
    )
    .unwrap();
    assert_eq!(
        settings.http.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["0.0.0.0:8080", "[::]:8080"]
    );
    assert_eq!((settings.http.max_body_bytes, settings.http.max_in_flight), (1_000, 5));
    assert_eq!(settings.http.request_timeout.get(), Duration::from_secs(90));
    assert_eq!(settings.http.tls.unwrap().key_file, Path::new("/k"));
    assert_eq!(settings.server.roles, [Role::Control, Role::Worker].into());
    assert_eq!(settings.otel.sample_ratio, 0.5);
}

#[test]
fn the_environment_alone_is_enough() {
    let settings = Settings::load(
        None,
        variables(&[
            ("INSULA_CATALOG__URL", "postgres://c"),
            ("INSULA_KEYS__MASTER_KEY", "0123456789"),
            ("INSULA_REGIONS", r#"[{name = "eu-west-1", groups = ["eu"], store_url = "postgres://s"}]"#),
        ]),
    )
    .unwrap();
    assert_eq!(settings.keys.master_key.expose(), "0123456789", "a text stays a text, digits or not");
    assert_eq!(settings.regions[0].name.as_str(), "eu-west-1");
}

#[test]
fn secrets_come_from_files_too() {
    let folder = Folder::new();
    let store = folder.write("store", "postgres://s3cret-from-file/x\n");
    let key = folder.write("key", "  1:s3cret\n2:s3cret\n");
    let file = format!(
        "[catalog]\nurl = 'postgres://c'\n[[regions]]\nname = 'r'\ngroups = ['g']\nstore_url_file = '{}'\n",
        store.display()
    );
    let variable = [("INSULA_KEYS__MASTER_KEY_FILE", key.to_str().unwrap())];
    let settings = load(&file, &variable).unwrap();
    assert_eq!(settings.regions[0].store_url.expose(), "postgres://s3cret-from-file/x");
    assert_eq!(settings.keys.master_key.expose(), "1:s3cret\n2:s3cret");

    std::fs::write(&key, "\n").unwrap();
    std::fs::remove_file(&store).unwrap();
    let text = faults(&file, &variable);
    assert!(text.contains("keys.master_key_file: ") && text.contains("is empty"), "{text}");
    assert!(
        text.contains("regions.0.store_url_file: ") && text.contains("cannot be read: No such file"),
        "{text}"
    );
    let both = faults(LEAST, &variable);
    assert!(both.contains("keys.master_key_file: is set, and so is keys.master_key: only one"), "{both}");
}

#[test]
fn secrets_show_nowhere() {
    let settings = load(LEAST, &[("INSULA_OPERATOR__TOKEN", "s3cret-token")]).unwrap();
    assert!(settings.operator.token.expose().contains("s3cret"), "canary: it is there");
    for shown in [format!("{settings:?}"), format!("{settings:#?}"), settings.to_redacted_toml()] {
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_eq!(shown.matches("[redacted]").count(), 4, "{shown}");
    }
}

#[test]
fn what_is_shown_loads_again() {
    let settings = load(LEAST, &[]).unwrap();
    let shown = settings.to_redacted_toml();
    // Redacted URLs are no URLs, and a token was never set.
    let with_urls = shown.replace("\"[redacted]\"", "\"postgres://x\"");
    let again = load(&with_urls, &[]).unwrap();
    assert_eq!(again.to_redacted_toml(), shown);
}

#[test]
fn several_faults_are_told_at_once_with_key_place_and_what_is_wanted() {
    let file = r#"
[htpp]
listen = "x"
[http]
lisen = "127.0.0.1:1"
max_body_bytes = "many"
[pg]
listen = ["localhost:1"]
[log]
format = "xml"
[workflow]
lease = "10"
[server]
roles = ["control", "gateway"]
[[regions]]
name = "US"
groups = []
[[regions]]
nme = "x"
[catalog]
pool_size = -1
"#;
    let text = faults(file, &[("INSULA_OTEL__SAMPLE_RATIO", "lots"), ("INSULA_METRICS__ENABLD", "true")]);
    for wanted in [
        "htpp (",
        "unknown; there are ",
        "http.lisen (",
        "http.max_body_bytes (",
        "insula.toml): ",
        "expected u64",
        "pg.listen (",
        "\"localhost:1\" is not an address with a port, as in \"127.0.0.1:7400\"",
        "log.format (",
        "`xml`",
        "workflow.lease (",
        "\"10\" is not a length of time",
        "server.roles (",
        "no role gateway yet; it has control, pg-proxy, worker, config",
        "regions.0.name (",
        "region \"US\" is not valid",
        "regions.1.nme (",
        "catalog.pool_size (",
        "otel.sample_ratio (INSULA_OTEL__SAMPLE_RATIO): ",
        "metrics.enabld (INSULA_METRICS__ENABLD): unknown; there are enabled",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
}

#[test]
fn what_does_not_fit_together_is_told_at_once() {
    let text = faults(
        r#"
[server]
roles = []
[http]
listen = ["127.0.0.1:5"]
public_url = "localhost:7400/x"
max_in_flight = 0
header_timeout = "0s"
[pg]
require_tls = true
public_address = "PG.db.example.com:7432"
tenant_domain = "db.example.com"
[catalog]
url = "mysql://s3cret"
[[regions]]
name = "a"
groups = []
[[regions]]
name = "a"
groups = ["g"]
store_url = "postgres://s3cret"
[otel]
endpoint = "collector:4318"
sample_ratio = 1.5
[workflow]
lease = "10ms"
[provisioner]
kind = "local"
"#,
        &[],
    );
    for key in [
        "server.roles: ",
        "http.public_url: ",
        "http.max_in_flight: ",
        "http.header_timeout: ",
        "pg.require_tls: ",
        "pg.tenant_domain: host names are seen with TLS alone",
        "pg.tenant_domain: the host of pg.public_address is below it",
        "catalog.url: expected a URL",
        "regions.0.groups: ",
        "regions.0.store_url: expected this or regions.0.store_url_file",
        "regions.1.name: a is there twice",
        "keys.master_key_file: ",
        "otel.endpoint: ",
        "otel.sample_ratio: ",
        "workflow.lease: ",
        "provisioner.kind: ",
    ] {
        assert!(text.contains(key), "{key:?} is not in:\n{text}");
    }
    let address = format!("{LEAST}\n[http]\nlisten = '127.0.0.1:5'\n[pg]\nlisten = '127.0.0.1:5'\n");
    assert!(faults(&address, &[]).contains("pg.listen: 127.0.0.1:5 is taken"));
    for (domain, is_one) in
        [("db.example.com", true), ("localhost", true), (".example.com", false), ("Db.x", false)]
    {
        let text = faults(&format!("{LEAST}\n[pg]\ntenant_domain = '{domain}'\n"), &[]);
        assert_ne!(text.contains("expected a domain"), is_one, "{text}");
    }
    assert!(load(&address, &[("INSULA_SERVER__ROLES", "control")]).is_ok(), "the front is not there");
}

#[test]
fn a_secret_in_a_wrong_place_is_not_shown() {
    for file in [
        "[catalog]\nurl = [\"postgres://s3cret\"]\n",
        "catalog = \"postgres://s3cret\"\n",
        "regions = \"s3cret\"\n",
        "regions = [\"s3cret\"]\n",
        "[keys]\nmaster_key = 's3cret\n",
        "[keys]\nmaster_key = s3cret\n",
        "[keys]\nmaster_key.s3 = 's3cret'\n",
    ] {
        let text = faults(file, &[]);
        assert!(!text.is_empty(), "{file}");
    }
    let text = faults("", &[("INSULA_REGIONS", "[{name = 's3cret'"), ("INSULA_CATALOG", "s3cret")]);
    assert!(text.contains("regions (INSULA_REGIONS)") && text.contains("catalog (INSULA_CATALOG)"), "{text}");
}

#[test]
fn a_file_that_is_no_settings_file_is_named_with_its_line() {
    let text = faults("[http]\n\nlisten = \n", &[]);
    assert!(text.contains("insula.toml: line 3: not valid TOML: "), "{text}");
    let error = Settings::load(Some(Path::new("/nowhere/insula.toml")), []).unwrap_err();
    assert!(error.to_string().contains("/nowhere/insula.toml: cannot be read: No such file"), "{error}");
    let text = faults(&"#".repeat(2 << 20), &[]);
    assert!(text.contains("larger than"), "{text}");
}
