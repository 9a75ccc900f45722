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
use nix::unistd::geteuid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio_util::sync::CancellationToken;

use super::listeners::Listeners;

/// Listeners that are handed over at the most.
const LISTENERS_MAX: usize = 32;

/// How long the new process may take from the listeners to being ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How long the old process may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What goes along with the listeners.
const HERE_THEY_ARE: u8 = b'L';

/// What the new process says when it is ready.
const READY: u8 = b'R';

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
    /// it does already.
    pub fn ready(mut self) -> std::io::Result<()> {
        let told = self.old.write_all(&[READY]);
        let mut said = [0];
        if told.is_err() && self.old.read_exact(&mut said).is_ok() && said == [STOPS] {
            return Ok(());
        }
        told
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
        let all = listeners.http.iter().chain(&listeners.pg);
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
        loop {
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
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "another process did not take over; this one goes on")
                }
                Err(_) => return,
            }
        }
        tracing::info!("another process has taken over");
        if let Some(proxy) = &self.proxy {
            proxy.hand_over();
        }
        stop.cancel();
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

/// Gives the listeners away, and waits until the other one is ready.
fn hand_to(mut new: UnixStream, descriptors: &[OwnedFd]) -> std::io::Result<()> {
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
    if said == [READY] { Ok(()) } else { Err(std::io::Error::other("it has said something else")) }
}
