//! `insula login` and `insula key`: who may come in as a tenant.

use clap::Subcommand;
use insula_domain::PoolMode;

#[derive(Debug, Subcommand)]
pub enum LoginCommand {
    /// Create a login with a secret that is shown once.
    #[command(after_help = "Example:\n  insula login create acme reporting --read-only")]
    Create {
        /// The tenant.
        slug: String,
        /// The login's name under the tenant.
        name: String,
        /// Its sessions may only read.
        #[arg(long)]
        read_only: bool,
        /// It may open the databases of descendants: app/child.
        #[arg(long)]
        descendants: bool,
        /// How long its sessions keep a connection to the database: transaction,
        /// or session for programs that leave something in it. As the front is
        /// set where it is not given.
        #[arg(long, value_name = "MODE")]
        pool_mode: Option<PoolMode>,
    },
    /// List a tenant's logins.
    List {
        /// The tenant.
        slug: String,
    },
    /// Revoke a login; its sessions end.
    Revoke {
        /// The tenant.
        slug: String,
        /// The login's name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create an API key that is shown once.
    #[command(after_help = "Example:\n  insula key create acme --role tenant_admin --scope /orders")]
    Create {
        /// The tenant.
        slug: String,
        /// The role of requests that carry it, tenant_user where it is left out. The
        /// application may have words of its own; each of them reads configuration,
        /// tenant_admin and config_writer write it, and tenant_admin and
        /// config_secrets see its secrets.
        #[arg(long)]
        role: Option<String>,
        /// The path that it is bound to.
        #[arg(long, value_name = "PATH")]
        scope: Option<String>,
    },
    /// List a tenant's keys.
    List {
        /// The tenant.
        slug: String,
    },
    /// Revoke a key.
    Revoke {
        /// Its id.
        id: String,
    },
}
