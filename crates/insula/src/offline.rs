//! Commands that need no running server: settings, master keys, and an
//! operator's token written into the catalog itself.

use std::sync::Arc;

use insula_credentials::{MasterKeys, OperatorToken, Secret};
use insula_domain::{Entropy, OsEntropy};
use insula_settings::{Settings, process_environment};
use nix::sys::signal::{Signal, kill};

use crate::args::{MasterKeyCommand, OperatorCommand, SettingsCommand, SettingsFile};
use crate::client::Failure;
use crate::output;
use crate::provisioner::write_whole;
use crate::serve::{Insula, Operator, handover, master_keys};

fn load(file: &SettingsFile) -> Result<Settings, Failure> {
    Settings::load(file.config.as_deref(), process_environment())
        .map_err(|error| Failure::local("invalid_settings", error.to_string()))
}

fn failed(error: &anyhow::Error) -> Failure {
    Failure::local("failed", format!("{error:#}"))
}

/// `insula settings …`
pub fn settings(command: SettingsCommand) -> Result<(), Failure> {
    match command {
        SettingsCommand::Check(file) => {
            load(&file)?;
            output::line("the settings are valid");
        }
        SettingsCommand::Show(file) => output::line(load(&file)?.to_redacted_toml().trim_end()),
        SettingsCommand::Schema => output::line(Settings::json_schema().trim_end()),
    }
    Ok(())
}

/// `insula reload`: what SIGHUP does, for the process that has the ports of
/// these settings. Settings that are not valid are told here, and not sent.
pub async fn reload(file: &SettingsFile) -> Result<(), Failure> {
    let settings = load(file)?;
    let told = |error: std::io::Error| Failure::local("not_reloaded", error.to_string());
    let Some(process) = handover::running(&settings).await.map_err(told)? else {
        return Err(Failure::local(
            "not_running",
            format!(
                "No process of these settings runs here: none answers in {}. `insula up` takes no settings over.",
                settings.server.data_dir.display()
            ),
        ));
    };
    kill(process, Signal::SIGHUP).map_err(|error| told(error.into()))?;
    output::line(&format!("process {process} reads its settings again: its log says what it takes over"));
    Ok(())
}

/// Opens what the settings name.
async fn open(file: &SettingsFile) -> Result<Insula, Failure> {
    let settings = load(file)?;
    let keys = Arc::new(master_keys(&settings.keys).map_err(|error| failed(&error))?);
    Insula::open(settings, keys, None).await.map_err(|error| failed(&error))
}

/// `insula operator …`
pub async fn operator(command: OperatorCommand) -> Result<(), Failure> {
    let OperatorCommand::Token { email, settings } = command;
    if !email.contains('@') || email.len() > 254 || email.chars().any(char::is_whitespace) {
        return Err(Failure::local("invalid_request", format!("{email} is no e-mail address.")));
    }
    let insula = open(&settings).await?;
    let token = new_operator_token(&OsEntropy);
    let text = token.to_text();
    insula
        .bootstrap(Some(Operator { email, token, password: None }))
        .await
        .map_err(|error| failed(&error))?;
    output::note("The token is shown this once.");
    output::line(text.expose());
    Ok(())
}

/// A new token under a random id.
pub fn new_operator_token(entropy: &dyn Entropy) -> OperatorToken {
    let mut id = [0_u8; 16];
    entropy.fill(&mut id);
    OperatorToken::generate(uuid::Builder::from_random_bytes(id).into_uuid(), entropy)
}

/// `insula master-key …`
pub async fn master_key(command: MasterKeyCommand) -> Result<(), Failure> {
    match command {
        MasterKeyCommand::New => {
            output::line(MasterKeys::generate(&OsEntropy).to_text().expose().trim_end());
            Ok(())
        }
        MasterKeyCommand::Rotate { file } => {
            let wrong = |why: String| Failure::local("master_key", format!("{}: {why}", file.display()));
            let text = Secret::new(std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?);
            let keys = MasterKeys::parse(text.expose()).map_err(|error| wrong(error.to_string()))?;
            let rotated = keys.rotated(&OsEntropy);
            // Made with the rights of its owner alone; the old file is replaced whole.
            write_whole(&file, rotated.to_text().expose().as_bytes())
                .map_err(|error| wrong(error.to_string()))?;
            output::line(&format!(
                "generation {} is the newest now; restart every process, then: insula master-key rekey",
                rotated.current_generation()
            ));
            Ok(())
        }
        MasterKeyCommand::Rekey(file) => {
            let insula = open(&file).await?;
            let done = insula_control::rekey::rekey(insula.control())
                .await
                .map_err(|problem| Failure::local("failed", problem.chain()))?;
            output::line(&format!(
                "{} clusters and {} tenants rekeyed, {} configured secrets sealed anew",
                done.clusters, done.tenants, done.config_secrets
            ));
            if done.moving == 0 {
                return Ok(());
            }
            let why = format!(
                "{} tenants are on a move and keep the generation they have: the earlier keys are still needed. Rekey \
                 again when these moves are over",
                done.moving
            );
            Err(Failure::local("tenants_moving", why))
        }
    }
}
