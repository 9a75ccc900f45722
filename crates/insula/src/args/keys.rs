//! `insula operator` and `insula master-key`: what is done on the catalog and on key files, without a server.

use std::path::PathBuf;

use clap::Subcommand;

use super::SettingsFile;

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Make a token for an operator, by the settings of `serve`; it is shown once.
    #[command(after_help = "Example:\n  insula operator token ada@example.com --config /etc/insula.toml")]
    Token {
        /// Whose.
        email: String,
        #[command(flatten)]
        settings: SettingsFile,
    },
}

#[derive(Debug, Subcommand)]
pub enum MasterKeyCommand {
    /// Print a new master key, for [keys] in the settings.
    #[command(after_help = "Example:\n  insula master-key new > /etc/insula/master.key")]
    New,
    /// Add a new generation to a file of master keys; the earlier ones stay in it.
    #[command(
        after_help = "Example:\n  insula master-key rotate /etc/insula/master.key\n  then restart every process, and: insula master-key rekey --config /etc/insula.toml"
    )]
    Rotate {
        /// The file.
        file: PathBuf,
    },
    /// Bring everything that is derived or sealed to the newest generation.
    Rekey(SettingsFile),
}
