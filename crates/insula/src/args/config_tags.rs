//! `insula config tags`: which tags there are, and where they are kept.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ConfigTagsCommand {
    /// Which backend keeps the values of each tag, and how far moves are.
    Where,
    /// Have another backend keep the values of a tag. They are read, watched and written meanwhile.
    #[command(after_help = "Example:\n  insula config tags move param_config_ --to etcd")]
    Move {
        /// The tag.
        tag: String,
        /// The backend, by its name in the settings; postgres is the store's.
        #[arg(long, value_name = "NAME")]
        to: String,
        /// Do not wait for the end.
        #[arg(long)]
        no_wait: bool,
    },
}
