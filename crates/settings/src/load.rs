//! Reading the layers: file, then environment; then the sections one by one,
//! so that several faults are told at once.

use std::io::Read;
use std::path::Path;

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::de::DeserializeOwned;

use crate::environment::{Environment, variable_of};
use crate::error::{Fault, SettingsError};
use crate::schema;
use crate::sections::Settings;

/// The largest settings file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Settings {
    /// Reads the file, where one is given, then the environment (see
    /// [`crate::process_environment`]), then the files that hold secrets, and
    /// checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong, as far as it can be told at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let schema = schema::of_settings();
        let mut figment = Figment::new();
        if let Some(path) = file {
            figment =
                figment.merge(FileLayer::read(path).map_err(|fault| SettingsError { faults: vec![fault] })?);
        }
        figment = figment.merge(Environment::new(environment, &schema));
        let mut settings = Self::from_layers(&mut Layers::new(figment, schema))?;
        let mut faults = settings.read_secret_files();
        faults.extend(settings.faults());
        if faults.is_empty() { Ok(settings) } else { Err(SettingsError { faults }) }
    }

    fn from_layers(layers: &mut Layers) -> Result<Self, SettingsError> {
        let mut faults = layers.remove_unknown_keys();
        let taken = &mut faults;
        let settings = Self {
            server: layers.section("server", taken),
            http: layers.section("http", taken),
            pg: layers.section("pg", taken),
            config: layers.section("config", taken),
            catalog: layers.section("catalog", taken),
            regions: layers.section("regions", taken),
            keys: layers.section("keys", taken),
            operator: layers.section("operator", taken),
            log: layers.section("log", taken),
            otel: layers.section("otel", taken),
            metrics: layers.section("metrics", taken),
            tenants: layers.section("tenants", taken),
            workflow: layers.section("workflow", taken),
            provisioner: layers.section("provisioner", taken),
        };
        if faults.is_empty() { Ok(settings) } else { Err(SettingsError { faults }) }
    }
}

/// The settings file as a layer. It is parsed here rather than by figment,
/// whose message would show the line at fault, which may hold a secret.
struct FileLayer {
    path: std::path::PathBuf,
    table: Dict,
}

impl FileLayer {
    fn read(path: &Path) -> Result<Self, Fault> {
        let fault = |detail: String| Fault::new("", detail).in_place(path.display().to_string());
        let text = read_bounded(path, FILE_BYTES_MAX)
            .map_err(|reason| fault(format!("cannot be read: {reason}")))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            fault(format!("{at}not valid TOML: {}", error.message()))
        })?;
        match Value::serialize(&table) {
            Ok(Value::Dict(_, table)) => Ok(Self { path: path.to_owned(), table }),
            _ => Err(fault("not a table of settings".to_owned())),
        }
    }
}

impl Provider for FileLayer {
    fn metadata(&self) -> Metadata {
        Metadata::from("settings file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.table.clone()))
    }
}

/// Reads a text file of at most so many bytes.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > bytes_max { Err(format!("it is larger than {bytes_max} bytes")) } else { Ok(text) }
}

/// The merged layers, and what may stand in them.
struct Layers {
    figment: Figment,
    merged: Dict,
    schema: serde_json::Value,
}

impl Layers {
    fn new(figment: Figment, schema: serde_json::Value) -> Self {
        // Both layers are tables already, so there is nothing that could fail.
        let merged = figment.extract().unwrap_or_default();
        Self { figment, merged, schema }
    }

    /// One section, or its default where nothing sets it or something in it is wrong.
    fn section<T: DeserializeOwned + Default>(&self, name: &str, faults: &mut Vec<Fault>) -> T {
        let Some(value) = self.merged.get(name) else { return T::default() };
        value.deserialize().unwrap_or_else(|error: figment::Error| {
            faults.extend(error.into_iter().map(|one| self.fault(name, &one)));
            T::default()
        })
    }

    fn fault(&self, section: &str, error: &figment::Error) -> Fault {
        let path: Vec<String> =
            std::iter::once(section.to_owned()).chain(error.path.iter().cloned()).collect();
        let hides =
            schema::at(&self.schema, path.iter().map(String::as_str)).is_none_or(schema::holds_secret);
        let detail = match &error.kind {
            Kind::MissingField(field) => format!("`{field}` is missing"),
            Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) if hides => {
                format!("what is there is of the wrong kind, and not shown; expected {wanted}")
            }
            _ if hides => "what is there is of the wrong kind, and not shown".to_owned(),
            kind => kind.to_string(),
        };
        self.placed(&path, detail)
    }

    fn placed(&self, path: &[String], detail: String) -> Fault {
        let fault = Fault::new(path.join("."), detail);
        let mut around = (1..=path.len()).rev().map(|end| path[..end].join("."));
        match around.find_map(|key| self.figment.find_metadata(&key)).map(|metadata| &metadata.source) {
            Some(Some(Source::File(file))) => fault.in_place(file.display().to_string()),
            Some(_) => fault.in_place(variable_of(path)),
            None => fault,
        }
    }

    /// Takes every key out that no section knows, and tells which ones it does.
    /// What is left shows its own faults.
    fn remove_unknown_keys(&mut self) -> Vec<Fault> {
        let mut unknown = Vec::new();
        let mut merged = std::mem::take(&mut self.merged);
        remove_unknown(&self.schema, &mut merged, &mut Vec::new(), &mut unknown);
        self.merged = merged;
        unknown.into_iter().map(|(path, detail)| self.placed(&path, detail)).collect()
    }
}

fn remove_unknown(
    schema: &serde_json::Value,
    table: &mut Dict,
    path: &mut Vec<String>,
    unknown: &mut Vec<(Vec<String>, String)>,
) {
    let Some(known) = schema::keys(schema) else { return };
    table.retain(|key, value| {
        path.push(key.clone());
        let inner = schema::at(schema, [key.as_str()]);
        match inner {
            None => unknown.push((path.clone(), format!("unknown; there are {}", known.join(", ")))),
            Some(inner) => remove_unknown_within(inner, value, path, unknown),
        }
        path.pop();
        inner.is_some()
    });
}

fn remove_unknown_within(
    schema: &serde_json::Value,
    value: &mut Value,
    path: &mut Vec<String>,
    unknown: &mut Vec<(Vec<String>, String)>,
) {
    match (value, schema::items(schema)) {
        (Value::Dict(_, table), _) => remove_unknown(schema, table, path, unknown),
        (Value::Array(_, values), Some(items)) => {
            for (index, value) in values.iter_mut().enumerate() {
                path.push(index.to_string());
                remove_unknown_within(items, value, path, unknown);
                path.pop();
            }
        }
        _ => {}
    }
}
