//! The local provisioner: PostgreSQL servers for tenants that have one of
//! their own, as children of this process. A file beside each data folder says
//! which port it has, from before the folder is there until after it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use insula_control::{ClusterProvisioner, ProvisionedCluster};
use insula_credentials::MasterKeys;
use insula_domain::{ClusterName, RegionName};
use insula_local_postgres::{Installation, SUPERUSER, ServerSpec, Servers, port_holder, socket_folder};
use insula_problem::{Code, Problem};
use insula_settings::Provisioner;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How many servers start at once: recovery keeps a core busy each.
const STARTS_AT_ONCE: usize = 4;

/// The pauses between the tries of servers that do not start.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the file beside a data folder says.
#[derive(Debug, Serialize, Deserialize)]
struct Provisioned {
    port: u16,
    key_generation: u32,
}

/// Starts servers on this machine.
#[derive(Debug)]
pub struct LocalProvisioner {
    folder: PathBuf,
    first_port: u16,
    last_port: u16,
    keys: Arc<MasterKeys>,
    servers: Arc<Servers>,
    /// Two at once would take the same port.
    taking: Mutex<()>,
    /// The servers that do not start, and why.
    down: SyncMutex<BTreeMap<ClusterName, String>>,
}

impl LocalProvisioner {
    /// A provisioner that keeps its servers in the folder.
    pub fn new(folder: PathBuf, ports: (u16, u16), keys: Arc<MasterKeys>, servers: Arc<Servers>) -> Self {
        let (first_port, last_port) = ports;
        Self {
            folder,
            first_port,
            last_port,
            keys,
            servers,
            taking: Mutex::default(),
            down: SyncMutex::default(),
        }
    }

    /// The provisioner that the settings ask for.
    pub fn from_settings(
        settings: &Provisioner,
        keys: &Arc<MasterKeys>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(local) = settings.local() else { return Ok(None) };
        let installation = Installation::find(pg_bin().as_deref())?;
        let servers = Arc::new(Servers::new(installation));
        let ports = (local.first_port, local.last_port);
        Ok(Some(Arc::new(Self::new(local.data_dir.to_owned(), ports, keys.clone(), servers))))
    }

    /// The servers, also those that others have started in the group.
    pub fn servers(&self) -> &Arc<Servers> {
        &self.servers
    }

    /// Starts all servers that were provisioned before. One that does not start
    /// is its own tenant's trouble: it is left to [`Self::keep_trying`], and
    /// told with what is wrong.
    pub async fn start_all(&self) -> anyhow::Result<BTreeMap<ClusterName, String>> {
        self.try_again(self.names()?).await;
        Ok(self.down().clone())
    }

    /// Tries the servers that do not start again, with growing pauses, until it
    /// is told to stop.
    pub async fn keep_trying(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let down: BTreeSet<_> = self.down().keys().cloned().collect();
            let before = down.len();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.try_again(down) => {}
            }
            // What helped one may help the others.
            pause = if self.down().len() < before { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        }
    }

    async fn try_again(&self, names: BTreeSet<ClusterName>) {
        let starts = stream::iter(names).map(|name| async move {
            let started = self.start_again(&name).await;
            (name, started)
        });
        let mut ended = starts.buffer_unordered(STARTS_AT_ONCE);
        while let Some((name, started)) = ended.next().await {
            match started {
                Ok(()) if self.down().remove(&name).is_some() => {
                    tracing::warn!(cluster = %name, "a server of a tenant runs again");
                }
                Ok(()) => {}
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::error!(cluster = %name, error = why, "a server of a tenant does not start");
                    self.down().insert(name, why);
                }
            }
        }
    }

    /// Starts a server that was provisioned before. One that was removed
    /// meanwhile is left alone.
    async fn start_again(&self, name: &ClusterName) -> anyhow::Result<()> {
        if !self.file(name).exists() {
            return Ok(());
        }
        let provisioned = self.read(name)?;
        self.servers.start(self.spec(name, &provisioned)?).await?;
        Ok(())
    }

    fn down(&self) -> MutexGuard<'_, BTreeMap<ClusterName, String>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> anyhow::Result<BTreeSet<ClusterName>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error).with_context(|| self.folder.display().to_string()),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if let Some(name) = file.strip_suffix(".json").and_then(|name| name.parse().ok()) {
                names.insert(name);
            }
        }
        Ok(names)
    }

    fn file(&self, name: &ClusterName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn data_dir(&self, name: &ClusterName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn read(&self, name: &ClusterName) -> anyhow::Result<Provisioned> {
        let path = self.file(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The port of a server: the one that it has, or a free one of the range.
    async fn take_port(&self, name: &ClusterName) -> anyhow::Result<Option<Provisioned>> {
        let _taking = self.taking.lock().await;
        let mut taken = BTreeSet::new();
        for other in self.names()? {
            let provisioned = self.read(&other)?;
            if other == *name {
                return Ok(Some(provisioned));
            }
            taken.insert(provisioned.port);
        }
        let free = (self.first_port..=self.last_port)
            .find(|port| !taken.contains(port) && port_holder(*port).is_none());
        let Some(port) = free else { return Ok(None) };
        let provisioned = Provisioned { port, key_generation: self.keys.current_generation() };
        if !self.folder.is_dir() {
            // The servers' own user has to pass, and nobody to list the tenants.
            std::fs::create_dir_all(&self.folder)?;
            std::fs::set_permissions(&self.folder, std::fs::Permissions::from_mode(0o711))?;
        }
        write_whole(&self.file(name), &serde_json::to_vec(&provisioned)?)?;
        Ok(Some(provisioned))
    }

    fn spec(&self, name: &ClusterName, provisioned: &Provisioned) -> anyhow::Result<ServerSpec> {
        let password = self.keys.cluster_admin_password(name, provisioned.key_generation)?;
        let spec = ServerSpec::new(name.as_str(), self.data_dir(name), provisioned.port, password.expose());
        Ok(spec)
    }
}

/// Writes a file so that it is there whole or not at all.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The folder of PostgreSQL's programs that the environment names.
pub fn pg_bin() -> Option<PathBuf> {
    std::env::var_os("INSULA_PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A socket's folder as the catalog has it, in place of a host.
fn text(folder: PathBuf) -> Result<String, Problem> {
    folder.into_os_string().into_string().map_err(|_| Problem::internal("a socket's folder has an odd name"))
}

fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Problem {
    Problem::internal(error)
}

#[async_trait]
impl ClusterProvisioner for LocalProvisioner {
    fn kind(&self) -> &'static str {
        "local"
    }

    async fn provision(
        &self,
        name: &ClusterName,
        _region: &RegionName,
    ) -> Result<ProvisionedCluster, Problem> {
        let provisioned = self.take_port(name).await.map_err(internal)?.ok_or_else(|| {
            Problem::new(
                Code::NoCapacity,
                format!("All ports from {} to {} are taken by servers.", self.first_port, self.last_port),
            )
        })?;
        let password =
            self.keys.cluster_admin_password(name, provisioned.key_generation).map_err(internal)?;
        let spec = self.spec(name, &provisioned).map_err(internal)?;
        let address = self.servers.start(spec).await.map_err(internal)?;
        self.down().remove(name);
        Ok(ProvisionedCluster {
            host: text(address.socket_folder)?,
            port: address.port,
            admin_user: SUPERUSER.to_owned(),
            admin_password: password,
        })
    }

    async fn address(&self, name: &ClusterName) -> Result<Option<(String, u16)>, Problem> {
        if !self.file(name).exists() {
            return Ok(None);
        }
        let provisioned = self.read(name).map_err(internal)?;
        let folder = socket_folder(&self.data_dir(name)).map_err(internal)?;
        Ok(Some((text(folder)?, provisioned.port)))
    }

    async fn remove(&self, name: &ClusterName) -> Result<(), Problem> {
        if !self.file(name).exists() {
            return Ok(());
        }
        self.down().remove(name);
        self.servers.stop(name.as_str()).await;
        // Also where there is no data folder: an `initdb` that was cut off
        // leaves its half, and a file with the password, beside it.
        insula_local_postgres::remove(&self.data_dir(name)).await.map_err(internal)?;
        std::fs::remove_file(self.file(name)).map_err(internal)
    }

    fn down(&self) -> BTreeMap<ClusterName, String> {
        Self::down(self).clone()
    }

    async fn list(&self) -> Result<Vec<ClusterName>, Problem> {
        Ok(self.names().map_err(internal)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::OsEntropy;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_server_that_never_came_to_be() {
        let folder = insula_testkit::passable_folder();
        let servers = Arc::new(Servers::new(insula_testkit::installation()));
        let keys = Arc::new(MasterKeys::generate(&OsEntropy));
        let provisioner = LocalProvisioner::new(folder.path().to_owned(), (1, 1), keys, servers);
        let name: ClusterName = "acme-0".parse().unwrap();
        // As a process leaves it that was killed while `initdb` ran.
        let provisioned = Provisioned { port: 1, key_generation: 1 };
        write_whole(&provisioner.file(&name), &serde_json::to_vec(&provisioned).unwrap()).unwrap();
        std::fs::create_dir(folder.path().join("acme-0.new-1")).unwrap();
        std::fs::write(folder.path().join("acme-0.pwfile-1"), "secret").unwrap();
        assert_eq!(provisioner.list().await.unwrap(), std::slice::from_ref(&name), "canary: it is known");
        provisioner.remove(&name).await.unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
