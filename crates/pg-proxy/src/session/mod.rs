//! One client's session, from the first byte to the last. The order stands in
//! [`serve`] and [`prepare`]; every stage takes the stage before it, so that none
//! can be left out: `Accepted → Secured → Started → Authenticated → Routed →
//! Opened`, which is relayed.

mod authenticate;
mod bell;
mod from_client;
mod from_server;
mod lane;
mod memory;
mod pump;
mod relay;
mod resets;
mod route;
mod secure;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod trial;
mod turn;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use insula_pg_wire::backend;
use insula_problem::Code;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};

use self::relay::Opened;
use self::secure::{Accepted, Begun, Secured};
use crate::cancel::NotNow;
use crate::entrance::Ticket;
use crate::front::{Admission, Front, Stops};
use crate::journal::Asker;
use crate::link::{Link, LinkError};
use crate::measure::Counted;
use crate::refusal::Refusal;

/// Why a session ended before its client left.
#[derive(Debug)]
pub(crate) enum End {
    /// The client is told why.
    Refused(Refusal),
    /// There is nobody to tell, or nothing to say.
    Gone(&'static str),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Gone("the client left"),
            LinkError::Io(_) => Self::Gone("the connection failed"),
            LinkError::Wire(error) => Self::Refused(Refusal::protocol(error)),
        }
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Gone("the connection failed")
    }
}

/// Serves one client. Its relay does not enter the span: that would be done
/// each time that bytes come.
pub(crate) async fn serve(
    front: Arc<Front>,
    stream: TcpStream,
    admission: Admission,
    stops: Stops,
    (peer, span): (SocketAddr, Span),
) {
    let Admission { session, entering } = admission;
    let accepted = Accepted::new(stream, peer);
    // On its own, since it needs much memory, which is free again from here on.
    let opened = Box::pin(let_in(&front, accepted, entering, &stops)).instrument(span.clone()).await;
    if let Some((link, opened)) = opened {
        opened.relay(link, &front, &stops, span).await;
    }
    drop(session);
}

/// Everything before the relay. `None` where there will be none; the client has
/// been told.
async fn let_in(
    front: &Front,
    accepted: Accepted,
    entering: Ticket,
    stops: &Stops,
) -> Option<(Link, Opened)> {
    let deadline = Instant::now() + front.config.get().startup_timeout;
    let sent_away = entering.sent_away();
    let entering = (entering, Counted::new(&front.measures.authenticating));
    let secured = tokio::select! {
        secured = accepted.secure(front, deadline) => secured,
        () = stops.closed(front) => return None,
        // It has said nothing, and another one has its place.
        () = sent_away.cancelled() => {
            front.measures.refused(Code::Overloaded);
            return None;
        }
    };
    let (mut link, secured) = secured?;
    entering.0.has_asked();
    let mut asker = secured.asker();
    let opened = tokio::select! {
        opened = prepare(front, &mut link, secured, &mut asker, (deadline, entering)) => opened,
        () = stops.closed(front) => Err(Refusal::stopping().into()),
    };
    match opened {
        Ok(opened) => return opened.map(|opened| (link, opened)),
        Err(End::Gone(why)) => tracing::debug!(why, "a client was not let in"),
        Err(End::Refused(refusal)) => refuse(front, &mut link, &asker, &refusal).await,
    }
    None
}

/// Tells a client why it is not let in, counts it, and hangs up.
async fn turn_away(front: &Front, link: &mut Link, refusal: &Refusal) {
    refuse(front, link, &Asker::default(), refusal).await;
}

/// The same for one of whom is known who they say that they are.
async fn refuse(front: &Front, link: &mut Link, asker: &Asker, refusal: &Refusal) {
    front.note_refused(asker, refusal);
    link.refuse(refusal).await;
}

/// The order of a session up to the relay. `None` is a cancel request, which is
/// done by then.
async fn prepare(
    front: &Front,
    link: &mut Link,
    secured: Secured,
    asker: &mut Asker,
    (deadline, entering): (Instant, (Ticket, Counted)),
) -> Result<Option<Opened>, End> {
    let started = match secured.start(front)? {
        Begun::Session(started) => started,
        Begun::Cancel(key) => return cancel(front, key).await.map(|()| None),
    };
    let authenticated = timeout_at(deadline, started.authenticate(front, link))
        .await
        .unwrap_or_else(|_| Err(Refusal::too_slow().into()))?;
    asker.tenant = Some(authenticated.identity.tenant());
    drop(entering);
    let routed = authenticated.route(front)?;
    routed.open(front, link).await.map(Some)
}

/// Passes a cancel request on to the backend to which the key belongs. The
/// client learns nothing of what came of it, as in PostgreSQL.
async fn cancel(front: &Front, key: insula_pg_wire::startup::CancelKey) -> Result<(), End> {
    let Some(slot) = front.cancel_keys.find(&key) else {
        front.measures.cancels_unknown.increment(1);
        return Err(End::Gone("no session has this cancel key"));
    };
    let under_way = match slot.begin() {
        Ok(under_way) => under_way,
        // The session sends it, and counts it.
        Err(NotNow::Later) => return Ok(()),
        Err(NotNow::Idle) => {
            front.measures.cancels_idle.increment(1);
            return Ok(());
        }
    };
    let endpoint = Arc::clone(&under_way.target.endpoint);
    match under_way.send(&front.backend_tls, front.config.get().connect_timeout).await {
        Ok(()) => front.measures.cancels_forwarded.increment(1),
        Err(error) => {
            let cluster = &endpoint.name;
            tracing::warn!(%error, %cluster, "a cancel request did not get through");
        }
    }
    Ok(())
}

/// Tells a client for whom there is not even room to be turned away in one
/// write, which an empty connection takes.
pub(crate) fn hang_up(front: &Front, stream: &TcpStream, refusal: &Refusal) {
    front.note_refused(&Asker::default(), refusal);
    let mut message = BytesMut::new();
    backend::put_error(&mut message, &refusal.fields());
    // It may have gone already.
    let _ = stream.try_write(&message);
}

/// Turns away a client for whom there is no room. A cancel request is served
/// all the same: it helps to get the front out of its trouble.
pub(crate) async fn serve_no_more(front: &Front, stream: TcpStream, peer: SocketAddr, refusal: &Refusal) {
    let deadline = Instant::now() + front.config.get().startup_timeout;
    let Some((mut link, secured)) = Accepted::new(stream, peer).secure(front, deadline).await else { return };
    let asker = secured.asker();
    match secured.start(front) {
        Ok(Begun::Cancel(key)) => {
            if let Err(End::Gone(why)) = cancel(front, key).await {
                tracing::debug!(why, "a cancel request came to nothing");
            }
        }
        Ok(Begun::Session(_)) | Err(_) => refuse(front, &mut link, &asker, refusal).await,
    }
}
