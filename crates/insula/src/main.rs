//! Insula: the one binary. `insula up` starts everything on this machine,
//! `insula serve` runs roles in production, and the rest is the command line
//! that talks to either.

mod args;
mod client;
mod commands;
mod crash;
mod events;
mod offline;
mod output;
mod provisioner;
mod serve;
mod signals;
mod up;
mod visible;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use client::Failure;

/// What `insula attack` ends with where a tenant's isolation was breached.
const BREACHED: u8 = 3;

/// What it ends with where nothing was breached, and not all could be tried.
const UNTRIED: u8 = 4;

/// What a command ends with that was interrupted, as a shell has it for SIGINT.
const INTERRUPTED: u8 = 130;

/// 0 done, 1 failed with the reason on standard error, 3 breached, 4 not tried
/// as a whole, 130 interrupted; clap answers 2 for wrong usage.
fn main() -> ExitCode {
    let cli = Cli::parse();
    // Nothing has chosen another one before: this is the first line that runs.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::local("internal", error.to_string())),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    match failure {
        Failure::Told => {}
        Failure::Breached => return ExitCode::from(BREACHED),
        Failure::Untried => return ExitCode::from(UNTRIED),
        Failure::Interrupted => return ExitCode::from(INTERRUPTED),
        Failure::Problem(problem) => {
            output::note(&format!("insula: {failure}"));
            for field in &problem.errors {
                output::note(&format!("  {}: {}", field.pointer, field.detail));
            }
        }
        Failure::Local { .. } => output::note(&format!("insula: {failure}")),
    }
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Up(arguments) => up::up(&arguments).await.map_err(|error| broken("up", &error)),
        Command::Serve(arguments) => serve::serve(&arguments).await.map_err(|error| broken("serve", &error)),
        Command::Reload(file) => offline::reload(&file).await,
        Command::Settings(command) => offline::settings(command),
        Command::Operator(command) => offline::operator(command).await,
        Command::MasterKey(command) => offline::master_key(command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "insula", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Command::Openapi => output::json(&openapi()),
        command => commands::run(&cli.connection, command).await,
    }
}

/// The whole HTTP API.
fn openapi() -> utoipa::openapi::OpenApi {
    let mut description = insula_control::http::openapi();
    description.merge(insula_config_service::http::openapi());
    description
}

/// A failure of a long-running command, with its causes: its reader is the
/// operator of this machine.
fn broken(code: &'static str, error: &anyhow::Error) -> Failure {
    Failure::local(code, format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    /// So that a change of the API is seen in review.
    #[test]
    fn the_committed_description_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let made = serde_json::to_string_pretty(&super::openapi()).unwrap();
        assert!(
            committed.trim_end() == made,
            "docs/openapi.json is not what the code makes: cargo run -p insula -- openapi > docs/openapi.json"
        );
    }
}
