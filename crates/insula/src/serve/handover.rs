//! A restart that nobody notices: the new process asks the running one for its
//! listeners by a Unix socket in the data folder, and says when it is ready;
//! then the old one stops accepting, and stops. Both have the same sockets with
//! the same queues, so that no connection falls between them.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use insula_pg_proxy::PgProxy;
use insula_settings::Settings;
use nix::unistd::{Pid, geteuid};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::listeners::Listeners;

/// Listeners that are handed over at the most.
const LISTENERS_MAX: usize = 32;

/// How long the new process may take from the listeners to being ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How long the old process may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often the old process says how many clients it still has.
const TELLS_EVERY: Duration = Duration::from_secs(1);

/// What goes along with the listeners.
const HERE_THEY_ARE: u8 = b'L';

/// What the new process says when it is ready.
const READY: u8 = b'R';

/// What somebody says who has only asked which process this is.
const ONLY_ASKED: u8 = b'A';

/// What the old process says when it was told to stop before that.
const STOPS: u8 = b'S';

/// Where a process with these settings can be asked. Those that listen on
/// different ports are different ones.
fn place(settings: &Settings) -> PathBuf {
    let port = settings.http.listen.first().map_or(0, std::net::SocketAddr::port);
    settings.server.data_dir.join(format!("handover-{port}.sock"))
}

/// Listeners of another process, which still accepts on them.
#[derive(Debug)]
pub struct Taken {
    listeners: Vec<TcpListener>,
    old: UnixStream,
}

impl Taken {
    /// Asks the running process; `None` where there is none.
    pub fn ask(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let Ok(mut old) = UnixStream::connect(place(settings)) else { return Ok(None) };
        old.set_read_timeout(Some(ANSWER_WITHIN))?;
        old.set_write_timeout(Some(ANSWER_WITHIN))?;
        let listeners = receive(&mut old).context("the running process does not hand its listeners over")?;
        Ok(Some(Self { listeners, old }))
    }

    /// The listeners, to be used in the place of new ones.
    pub fn listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.listeners)
    }

    /// Tells the old process that this one is ready, so that it stops, unless
    /// it does already. Gives what it has to say from then on.
    pub fn ready(mut self) -> std::io::Result<Option<Before>> {
        let told = self.old.write_all(&[READY]);
        let mut said = [0];
        if told.is_err() && self.old.read_exact(&mut said).is_ok() && said == [STOPS] {
            return Ok(None);
        }
        told.map(|()| Some(Before(self.old)))
    }
}

/// The process before this one, which drains.
#[derive(Debug)]
pub struct Before(UnixStream);

impl Before {
    /// Has the front know how many clients it still has, until it has ended.
    pub async fn follow(self, proxy: PgProxy, stop: CancellationToken) {
        if stop.run_until_cancelled(self.hear(&proxy)).await.is_some() {
            proxy.is_told_of_clients_before(0);
        }
    }

    /// Ends with an error: that of the end of what is said.
    async fn hear(self, proxy: &PgProxy) -> std::io::Result<()> {
        self.0.set_nonblocking(true)?;
        let mut old = tokio::net::UnixStream::from_std(self.0)?;
        loop {
            proxy.is_told_of_clients_before(old.read_u64().await?);
        }
    }
}

fn receive(old: &mut UnixStream) -> anyhow::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [0];
    let received =
        recvmsg(old.as_fd(), &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != 1 || data != [HERE_THEY_ARE] {
        return Err(anyhow!("its answer is another one"));
    }
    let mut listeners: Vec<TcpListener> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            listeners.extend(descriptors.map(TcpListener::from));
        }
    }
    Ok(listeners)
}

/// The process that has the ports of these settings, where one runs.
///
/// # Errors
/// Where it does not say which it is, or is another user's.
pub async fn running(settings: &Settings) -> std::io::Result<Option<Pid>> {
    let Ok(mut door) = tokio::net::UnixStream::connect(place(settings)).await else { return Ok(None) };
    let process = door.peer_cred()?.pid();
    // What it offers is left alone. It may be handing over to another one.
    let leaves = async {
        door.read_u8().await?;
        door.write_all(&[ONLY_ASKED]).await
    };
    let _ = timeout(ANSWER_WITHIN, leaves).await;
    let process = process.ok_or_else(|| std::io::Error::other("it cannot be seen which process it is"))?;
    Ok(Some(Pid::from_raw(process)))
}

/// What a process hands over.
#[derive(Debug)]
pub struct Offer {
    listeners: Vec<OwnedFd>,
    place: PathBuf,
    proxy: Option<PgProxy>,
}

impl Offer {
    /// The listeners of this process, and its front, which is to leave them
    /// alone then.
    pub fn new(settings: &Settings, listeners: &Listeners, proxy: Option<PgProxy>) -> std::io::Result<Self> {
        let all = listeners.http.iter().chain(&listeners.pg).chain(&listeners.config);
        let listeners = all.map(|one| one.as_fd().try_clone_to_owned()).collect::<Result<_, _>>()?;
        Ok(Self { listeners, place: place(settings), proxy })
    }

    /// Hands over to whoever asks and becomes ready, and stops this process
    /// then. Until the token is cancelled.
    pub async fn keep(self, stop: CancellationToken) {
        let door = match open(&self.place) {
            Ok(door) => door,
            Err(error) => {
                let place = self.place.display();
                return tracing::warn!(%error, %place, "no other process can take over from this one");
            }
        };
        let new = loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = door.accept() => asked,
            };
            let Ok((new, _)) = asked else { continue };
            // The folder may be open to others; the same user could do anything.
            let is_own = new.peer_cred().is_ok_and(|who| who.uid() == geteuid().as_raw());
            let Ok(new) = new.into_std().and_then(|new| new.set_nonblocking(false).map(|()| new)) else {
                continue;
            };
            if !is_own {
                tracing::warn!("another user has asked for the listeners");
                continue;
            }
            let descriptors: Vec<OwnedFd> =
                self.listeners.iter().filter_map(|one| one.try_clone().ok()).collect();
            let Ok(mut asking) = new.try_clone() else { continue };
            let mut handed = tokio::task::spawn_blocking(move || hand_to(new, &descriptors));
            let handed = tokio::select! {
                handed = &mut handed => handed,
                () = stop.cancelled() => {
                    // The new one has the listeners, and goes on alone. It may have gone itself.
                    let _ = asking.write_all(&[STOPS]);
                    let _ = asking.shutdown(Shutdown::Both);
                    let _ = handed.await;
                    return;
                }
            };
            match handed {
                Ok(Ok(Some(new))) => break new,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "another process did not take over; this one goes on")
                }
                Err(_) => return,
            }
        };
        tracing::info!("another process has taken over");
        if let Some(proxy) = self.proxy {
            proxy.hand_over();
            // As long as this process lives. A new one that does not listen is of
            // an older version, or has no front.
            drop(tokio::spawn(tell(new, proxy)));
        }
        stop.cancel();
    }
}

/// Says again and again how many clients there are still.
async fn tell(new: UnixStream, proxy: PgProxy) -> std::io::Result<()> {
    new.set_nonblocking(true)?;
    let mut new = tokio::net::UnixStream::from_std(new)?;
    let mut ticks = interval(TELLS_EVERY);
    loop {
        ticks.tick().await;
        timeout(ANSWER_WITHIN, new.write_u64(proxy.clients_in_all())).await??;
    }
}

/// A new socket at the place, in one step, so that one is always there.
fn open(place: &Path) -> std::io::Result<tokio::net::UnixListener> {
    let beside = place.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&beside);
    let door = tokio::net::UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&beside, place)?;
    Ok(door)
}

/// Gives the listeners away, and waits until the other one is ready. `None` where
/// it did not want them.
fn hand_to(mut new: UnixStream, descriptors: &[OwnedFd]) -> std::io::Result<Option<UnixStream>> {
    new.set_read_timeout(Some(READY_WITHIN))?;
    new.set_write_timeout(Some(ANSWER_WITHIN))?;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(std::io::Error::other("there are too many listeners"));
    }
    sendmsg(new.as_fd(), &[IoSlice::new(&[HERE_THEY_ARE])], &mut control, SendFlags::NOSIGNAL)?;
    let mut said = [0];
    new.read_exact(&mut said)?;
    match said {
        [READY] => Ok(Some(new)),
        [ONLY_ASKED] => Ok(None),
        _ => Err(std::io::Error::other("it has said something else")),
    }
}
