//! The front as a whole: what all sessions share, and the loop that lets
//! clients in.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use insula_credentials::scram::MockSecrets;
use insula_credentials::{ContextTokens, MasterKeys};
use insula_domain::{Clock, Entropy, LoginId, TenantId};
use insula_route_map::{HoldReport, RouteMap};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::account::Accounts;
use crate::cancel::CancelKeys;
use crate::config::{LiveConfig, PgProxyConfig};
use crate::counter::Counter;
use crate::entrance::{Entrance, Ticket};
use crate::fitting::LongTexts;
use crate::gate::Gates;
use crate::journal::{Asker, Journal};
use crate::measure::Measures;
use crate::pool::{Opener, Pools};
use crate::prepared::Statements;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::session;
use crate::tls::{FrontTls, connector};
use crate::top::Top;
use crate::vital::{TICK, Vitals};

/// Clients that are turned away at the same time. The others are told at once,
/// without being asked what they want.
const TURNED_AWAY_MAX: usize = 64;

/// How long turning a client away may take.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(3);

/// Backends that are terminated at the same time: each takes one more.
const TERMINATING_MAX: usize = 2;

/// How long sessions have to say goodbye when the time for draining is over.
const LAST_GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the machine could not accept a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pause between two looks at the backends that nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What the front is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where tenants are.
    pub routes: Arc<RouteMap>,
    /// From which the roles' passwords and the token keys are derived.
    pub master_keys: Arc<MasterKeys>,
    /// Against which tokens are checked.
    pub clock: Arc<dyn Clock>,
    /// For nonces and cancel keys.
    pub entropy: Arc<dyn Entropy>,
    /// TLS towards clients, where it is configured.
    pub tls: Option<FrontTls>,
    /// Where the front says what becomes of tenants that are held.
    pub hold_reports: mpsc::Sender<HoldReport>,
}

/// The PostgreSQL front.
#[derive(Debug, Clone)]
pub struct PgProxy {
    pub(crate) front: Arc<Front>,
}

/// What all sessions share.
pub(crate) struct Front {
    pub config: LiveConfig,
    pub parts: Parts,
    pub tokens: ContextTokens,
    pub mock_secrets: MockSecrets,
    pub backend_tls: TlsConnector,
    pub cancel_keys: Arc<CancelKeys>,
    pub tenants: Arc<Counter<TenantId>>,
    pub logins: Arc<Counter<LoginId>>,
    pub pools: Pools,
    pub statements: Statements,
    pub long_texts: LongTexts,
    pub measures: Measures,
    pub vitals: Arc<Vitals>,
    pub accounts: Accounts,
    pub gates: Gates,
    pub roster: Arc<Roster>,
    pub journal: Journal,
    top: Mutex<Top>,
    handed_over: AtomicBool,
    /// Clients of the processes from which this one has taken over.
    clients_before: AtomicU64,
    sessions: Arc<Semaphore>,
    entrance: Arc<Entrance>,
    turned_away: Arc<Entrance>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A client's right to be here, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    /// As long as the session lasts.
    pub session: OwnedSemaphorePermit,
    /// Until the client is authenticated.
    pub entering: Ticket,
}

/// When sessions have to end.
#[derive(Debug, Clone)]
pub(crate) struct Stops {
    /// No new ones; idle ones end.
    pub draining: CancellationToken,
    /// All end.
    pub now: CancellationToken,
}

impl Stops {
    /// Ends when who is on the way in is not let in any more. Where another
    /// process has the listeners by now, whoever has come through them here
    /// still is: nobody is to notice that they went to another one.
    pub async fn closed(&self, front: &Front) {
        self.draining.cancelled().await;
        if front.is_handed_over() {
            self.now.cancelled().await;
        }
    }
}

impl PgProxy {
    /// A front that serves nobody yet. Install the metrics recorder first.
    ///
    /// # Errors
    /// Where TLS towards servers cannot be set up.
    pub fn new(config: PgProxyConfig, parts: Parts) -> Result<Self, rustls::Error> {
        let (backend_tls, measures) = (connector()?, Measures::register());
        let roster = Arc::new(Roster::new(Instant::now()));
        let live = LiveConfig::new(config.clone());
        let opener = Opener::new(
            (Arc::clone(&parts.master_keys), Arc::clone(&parts.entropy)),
            backend_tls.clone(),
            live.clone(),
            (measures.clone(), Arc::clone(&roster)),
            TERMINATING_MAX,
        );
        let front = Front {
            tokens: ContextTokens::new(&parts.master_keys),
            mock_secrets: MockSecrets::new(&parts.master_keys),
            backend_tls,
            cancel_keys: Arc::default(),
            tenants: Arc::default(),
            logins: Arc::default(),
            pools: Pools::new(opener),
            statements: Statements::bounded(config.statement_bytes_per_tenant_max),
            long_texts: LongTexts::default(),
            gates: Gates::new(parts.hold_reports.clone(), measures.clone()),
            measures,
            vitals: Arc::default(),
            accounts: Accounts::default(),
            roster,
            journal: Journal::new(Instant::now()),
            top: Mutex::default(),
            handed_over: AtomicBool::new(false),
            clients_before: AtomicU64::new(0),
            sessions: Arc::new(Semaphore::new(config.sessions_max)),
            entrance: Arc::new(Entrance::new(config.authenticating_max)),
            turned_away: Arc::new(Entrance::new(TURNED_AWAY_MAX)),
            config: live,
            parts,
        };
        Ok(Self { front: Arc::new(front) })
    }

    /// Serves clients until the token is cancelled, then lets sessions in a
    /// transaction finish for at most the configured time. New clients are told
    /// meanwhile that the front is shutting down; where it has handed its
    /// listeners over, they are left to who has them. Returns when all is over.
    pub async fn serve(&self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let stops = Stops { draining: shutdown, now: CancellationToken::new() };
        let closed = CancellationToken::new();
        let sessions = TaskTracker::new();
        let mut doors = JoinSet::new();
        for listener in listeners {
            let door = Door {
                front: Arc::clone(&self.front),
                stops: stops.clone(),
                closed: closed.clone(),
                sessions: sessions.clone(),
            };
            doors.spawn(door.keep(listener));
        }
        let (front, over) = (Arc::clone(&self.front), closed.clone());
        let time = tokio::spawn(async move { front.keep_time_until(&over).await });
        let (front, over) = (Arc::clone(&self.front), closed.clone());
        let holds = tokio::spawn(async move { front.keep_holds_until(&over).await });
        self.tidy_up_until(&stops.draining).await;
        if self.front.is_handed_over() {
            // What they have accepted by then is counted among the sessions.
            while doors.join_next().await.is_some() {}
        }
        sessions.close();
        if timeout(self.front.config.get().drain_timeout, sessions.wait()).await.is_err() {
            tracing::warn!(sessions = sessions.len(), "the time to drain is over; ending sessions");
            stops.now.cancel();
            let _ = timeout(LAST_GOODBYE_TIMEOUT, sessions.wait()).await;
        }
        self.front.journal.tell(Instant::now(), true);
        closed.cancel();
        while doors.join_next().await.is_some() {}
        let _ = tokio::join!(time, holds);
    }
}

impl PgProxy {
    /// Other bounds from here on. Those of sessions at once, of the time to
    /// drain and of threads stay as they were in the beginning.
    pub fn set_config(&self, config: PgProxyConfig) {
        self.front.config.set(config);
    }

    /// Another process accepts clients on the same listeners from here on: once
    /// this one is told to stop it leaves them alone.
    pub fn hand_over(&self) {
        self.front.handed_over.store(true, Ordering::Release);
    }

    /// The processes from which this one has taken over still serve so many
    /// clients.
    pub fn is_told_of_clients_before(&self, clients: u64) {
        self.front.clients_before.store(clients, Ordering::Relaxed);
        self.front.measures.clients_before(clients);
    }

    /// Those, as was told last.
    #[must_use]
    pub fn clients_before(&self) -> u64 {
        self.front.clients_before.load(Ordering::Relaxed)
    }

    /// Clients that this process serves, and those.
    #[must_use]
    pub fn clients_in_all(&self) -> u64 {
        self.front.vitals.count() as u64 + self.clients_before()
    }

    /// Threads that it is to have.
    pub(crate) fn threads(&self) -> usize {
        self.front.config.get().threads
    }

    /// Lets go of backends that nobody uses, until the front stops.
    async fn tidy_up_until(&self, stopped: &CancellationToken) {
        let front = &self.front;
        let mut ticks = interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped.cancelled() => return,
                now = ticks.tick() => {
                    let snapshot = front.parts.routes.snapshot();
                    front.pools.sweep(&snapshot, now.into_std());
                    front.pools.dial_ahead(&snapshot, now.into_std());
                    front.gates.forget();
                    front.accounts.forget(|tenant| snapshot.route(tenant).is_none());
                    front.measures.pools(front.pools.tally());
                    front.journal.tell(now.into_std(), false);
                }
            }
        }
    }
}

impl Front {
    /// Looks after sessions that take too long, until all are gone.
    async fn keep_time_until(&self, over: &CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = ticks.tick().await;
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                now = ticks.tick() => {
                    self.vitals.advance(now.saturating_duration_since(began));
                    self.pools.relieve(now.into_std());
                }
            }
        }
    }

    /// Holds tenants, and lets them go, as the routes say, until all are gone.
    async fn keep_holds_until(&self, over: &CancellationToken) {
        let routes = &self.parts.routes;
        let mut changed = routes.changed();
        loop {
            // What changes behind this is looked at the next time.
            changed.mark_unchanged();
            let (snapshot, now) = (routes.snapshot(), Instant::now());
            self.pools.dial_ahead(&snapshot, now);
            let looked = self.gates.look(&snapshot, now);
            if looked.has_released {
                // What idles at an old place is of no use any more.
                self.pools.sweep(&snapshot, now);
            }
            let time_is_over = async {
                match looked.next {
                    Some(next) => sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over.cancelled() => return,
                _ = changed.changed() => {}
                () = time_is_over => {}
            }
        }
    }

    /// Whether another process has the listeners too.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Which tenants have series of their own.
    pub fn top(&self) -> MutexGuard<'_, Top> {
        // What a panic leaves there is counted wrong once.
        self.top.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is turned away: counts it, and writes it into the log.
    pub fn note_refused(&self, asker: &Asker, refusal: &Refusal) {
        self.measures.refused(refusal.code);
        if let Some(tenant) = asker.tenant {
            self.accounts.of(tenant).errors(1);
        }
        self.journal.refused(asker, refusal, &self.parts.routes.snapshot());
    }

    fn admit(&self, peer: IpAddr) -> Option<Admission> {
        let session = Arc::clone(&self.sessions).try_acquire_owned().ok()?;
        Some(Admission { session, entering: self.entrance.admit(peer)? })
    }
}

/// One listener's way in.
struct Door {
    front: Arc<Front>,
    stops: Stops,
    closed: CancellationToken,
    sessions: TaskTracker,
}

impl Door {
    async fn keep(self, listener: TcpListener) {
        let mut draining = false;
        loop {
            let accepted = tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.stops.draining.cancelled(), if !draining => {
                    if self.front.is_handed_over() {
                        return;
                    }
                    draining = true;
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.let_in(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn let_in(&self, stream: TcpStream, peer: SocketAddr) {
        if self.stops.draining.is_cancelled() && !self.front.is_handed_over() {
            return self.turn_away(stream, peer, Refusal::stopping());
        }
        match self.front.admit(peer.ip()) {
            Some(admission) => {
                let (front, stops) = (Arc::clone(&self.front), self.stops.clone());
                self.sessions.spawn(session::serve(front, stream, admission, stops, (peer, span(peer))));
            }
            None => self.turn_away(stream, peer, Refusal::overloaded()),
        }
    }

    fn turn_away(&self, stream: TcpStream, peer: SocketAddr, refusal: Refusal) {
        let Some(ticket) = self.front.turned_away.admit(peer.ip()) else {
            return span(peer).in_scope(|| session::hang_up(&self.front, &stream, &refusal));
        };
        let (front, sent_away) = (Arc::clone(&self.front), ticket.sent_away());
        let turned_away = async move {
            let serving = session::serve_no_more(&front, stream, peer, &refusal);
            tokio::select! {
                _ = timeout(TURN_AWAY_TIMEOUT, serving) => {}
                () = sent_away.cancelled() => {}
            }
            drop(ticket);
        };
        tokio::spawn(turned_away.instrument(span(peer)));
    }
}

/// What every line of a session's log carries.
fn span(peer: SocketAddr) -> Span {
    tracing::info_span!("pg_session", %peer, tenant = tracing::field::Empty)
}
