//! What is asked of Parameter Store, and how its answers are understood.

use std::collections::BTreeSet;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::{ParameterHistory, ParameterTier, ParameterType};
use insula_config_model::{BackendFault, Label};
use time::OffsetDateTime;

use super::history::{Claim, Entry, REMOVED, Told};
use crate::client::Faults;

/// The most names in one answer, and in one deletion.
const NAMES_MAX: i32 = 10;
/// The most numbers of a history in one answer.
const HISTORY_MAX: i32 = 50;

#[derive(Debug)]
pub(super) struct Store {
    client: Client,
    faults: Faults,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Put {
    /// It got this number.
    At(i64),
    /// Nothing, since somebody else was faster.
    Taken,
}

impl Store {
    pub(super) fn new(backend: &str, client: Client) -> Self {
        Self { client, faults: Faults(backend.to_owned()) }
    }

    pub(super) fn backend(&self) -> &str {
        &self.faults.0
    }

    pub(super) fn busy(&self) -> BackendFault {
        self.faults.away("others kept writing in between")
    }

    fn fault<E>(&self, error: SdkError<E>) -> BackendFault
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().map(str::to_owned);
        self.faults.of(code.as_deref(), error)
    }

    /// The history in the order of its numbers; empty where there is no parameter.
    pub(super) async fn history(&self, name: &str) -> Result<Vec<Entry>, BackendFault> {
        let (mut history, mut from) = (Vec::new(), None);
        loop {
            let request = self.client.get_parameter_history().name(name).max_results(HISTORY_MAX);
            let answer = match request.set_next_token(from).send().await {
                Ok(answer) => answer,
                Err(error) if error.code() == Some("ParameterNotFound") => return Ok(Vec::new()),
                Err(error) => return Err(self.fault(error)),
            };
            history.extend(answer.parameters().iter().map(entry));
            from = answer.next_token.filter(|token| !token.is_empty());
            if from.is_none() {
                history.sort_by_key(|entry: &Entry| entry.number);
                return Ok(history);
            }
        }
    }

    pub(super) async fn put(
        &self,
        name: &str,
        value: Option<&str>,
        claim: &Claim,
        overwrite: bool,
    ) -> Result<Put, BackendFault> {
        let request = self
            .client
            .put_parameter()
            .name(name)
            .value(value.unwrap_or(REMOVED))
            .description(claim.text())
            .r#type(ParameterType::String)
            .tier(ParameterTier::Standard)
            .overwrite(overwrite);
        match request.send().await {
            Ok(answer) => Ok(Put::At(answer.version())),
            Err(error) if matches!(error.code(), Some("ParameterAlreadyExists" | "TooManyUpdates")) => {
                Ok(Put::Taken)
            }
            Err(error) => Err(self.fault(error)),
        }
    }

    pub(super) async fn label(&self, name: &str, told: &Told, label: &Label) -> Result<(), BackendFault> {
        let request = self.client.label_parameter_version().name(name).parameter_version(told.number);
        match request.labels(label.as_str()).send().await {
            Ok(answer) if answer.invalid_labels().is_empty() => Ok(()),
            Ok(_) => Err(BackendFault::Refused(format!("Parameter Store takes no label {label}"))),
            Err(error) if error.code() == Some("ParameterVersionNotFound") => {
                Err(BackendFault::NoVersion(told.version))
            }
            Err(error) => Err(self.fault(error)),
        }
    }

    pub(super) async fn unlabel(&self, name: &str, told: &Told, label: &Label) -> Result<(), BackendFault> {
        let request = self.client.unlabel_parameter_version().name(name).parameter_version(told.number);
        request.labels(label.as_str()).send().await.map(drop).map_err(|error| self.fault(error))
    }

    /// Names below a path, and where it goes on.
    pub(super) async fn names(
        &self,
        path: &str,
        from: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), BackendFault> {
        let request = self.client.get_parameters_by_path().path(path).recursive(true).max_results(NAMES_MAX);
        let answer = request.set_next_token(from).send().await.map_err(|error| self.fault(error))?;
        let names = answer.parameters().iter().filter_map(|parameter| parameter.name().map(str::to_owned));
        Ok((names.collect(), answer.next_token.filter(|token| !token.is_empty())))
    }

    /// Removes up to ten parameters with their histories.
    pub(super) async fn delete(&self, names: Vec<String>) -> Result<(), BackendFault> {
        let request = self.client.delete_parameters().set_names(Some(names));
        request.send().await.map(drop).map_err(|error| self.fault(error))
    }
}

fn entry(parameter: &ParameterHistory) -> Entry {
    let labels: BTreeSet<Label> = parameter.labels().iter().filter_map(|label| label.parse().ok()).collect();
    let seconds = parameter.last_modified_date().map_or(0, |at| at.secs());
    Entry {
        number: parameter.version(),
        value: parameter.value().unwrap_or_default().to_owned(),
        description: parameter.description().unwrap_or_default().to_owned(),
        labels,
        at: OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH),
    }
}
