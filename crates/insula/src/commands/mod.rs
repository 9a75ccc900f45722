//! The commands that talk to a running server.

mod attack;
mod clusters;
mod config;
mod credentials;
mod drift;
mod moves;
mod offers;
mod operations;
mod pg;
mod schema;
mod tenants;

use crate::args::{Command, Connection};
use crate::client::{Client, Failure};

/// Runs a command against the server.
pub async fn run(connection: &Connection, command: Command) -> Result<(), Failure> {
    if let Command::Attack(attack) = &command
        && attack.list
    {
        return attack::list(connection.output, attack.only.as_deref());
    }
    let client = Client::find(connection)?;
    let format = connection.output;
    match command {
        Command::Tenant(command) => tenants::run(&client, format, command).await,
        Command::Move(command) => moves::run(&client, format, command).await,
        Command::Schema(command) => schema::run(&client, format, command).await,
        Command::Config(command) => config::run(&client, format, command).await,
        Command::Login(command) => credentials::logins(&client, format, command).await,
        Command::Key(command) => credentials::keys(&client, format, command).await,
        Command::Plan(command) => offers::plans(&client, format, command).await,
        Command::Tier(command) => offers::tiers(&client, format, command).await,
        Command::Cluster(command) => clusters::clusters(&client, format, command).await,
        Command::Region(command) => clusters::regions(&client, format, command).await,
        Command::Pg(command) => pg::run(&client, format, command).await,
        Command::Operation(command) => operations::operations(&client, format, command).await,
        Command::Audit(command) => operations::audit(&client, format, command).await,
        Command::Attack(arguments) => attack::run(&client, format, arguments).await,
        Command::Doctor => operations::doctor(&client, format).await,
        Command::Up(_)
        | Command::Serve(_)
        | Command::Settings(_)
        | Command::Operator(_)
        | Command::MasterKey(_)
        | Command::Completions { .. }
        | Command::Openapi
        | Command::Reload(_) => unreachable!("these need no server"),
    }
}
