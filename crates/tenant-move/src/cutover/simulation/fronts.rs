//! The simulated fronts and their clients: what they know comes late, their
//! clocks are their own, and they may be cut off from the catalog or die.

use super::chance::Chance;
use super::servers::{End, Session};
use super::state::{Broken, HOLD_MS, Op, State};

/// What a front knows of the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub at: End,
    pub epoch: u64,
    pub hold: Option<i32>,
}

/// A client and the backend that its front has for it.
#[derive(Debug, Clone, Copy)]
enum Client {
    Away,
    Connected { session: u64, end: End },
    InTransaction { session: u64, end: End, write: u64 },
}

/// A front.
#[derive(Debug)]
pub struct Front {
    pub alive: bool,
    /// Whether it hears of the catalog.
    pub connected: bool,
    /// Whether the catalog lists it among those that do: for a while after it
    /// does not any more.
    pub listed: bool,
    /// How fast its clock is, in percent.
    speed: u64,
    pub view: View,
    /// What it has read and not acted upon yet.
    read: Option<View>,
    /// The hold, and since when.
    pub held: Option<(i32, u64)>,
    /// The last hold that came to its deadline here.
    overdue: i32,
    acknowledged: i32,
    clients: [Client; 2],
}

impl Front {
    pub fn new(view: View, chance: &mut Chance) -> Self {
        Self {
            alive: true,
            connected: true,
            listed: true,
            speed: 80 + chance.below(41),
            view,
            read: None,
            held: None,
            overdue: 0,
            acknowledged: 0,
            clients: [Client::Away; 2],
        }
    }

    fn held_for_ms(&self, now_ms: u64) -> Option<u64> {
        self.held.map(|(_, since_ms)| (now_ms - since_ms) * self.speed / 100)
    }

    /// The deadline of a hold, by the front's own clock.
    pub fn tick(&mut self, now_ms: u64) {
        if let Some((hold, _)) = self.held.filter(|_| self.held_for_ms(now_ms) >= Some(HOLD_MS)) {
            self.overdue = hold;
            self.held = None;
        }
    }

    pub fn is_held_too_long(&self, now_ms: u64) -> bool {
        self.alive && self.held_for_ms(now_ms) > Some(HOLD_MS)
    }

    fn learn(&mut self, view: View, now_ms: u64) {
        if view.epoch < self.view.epoch {
            return;
        }
        self.view = view;
        self.held = match (view.hold, self.held) {
            (Some(hold), Some(held)) if held.0 == hold => Some(held),
            (Some(hold), _) if hold != self.overdue => Some((hold, now_ms)),
            _ => None,
        };
    }

    fn is_quiet(&self) -> bool {
        !self.clients.iter().any(|client| matches!(client, Client::InTransaction { .. }))
    }

    /// Whether it has heard of everything and is told nothing else.
    pub fn is_current(&self, view: View) -> bool {
        self.view == view && self.read.is_none()
    }
}

impl State {
    /// A front reads, acts upon what it has read, or acknowledges.
    pub fn front_step(&mut self, index: usize) {
        let (view, now_ms) = (self.catalog.view(), self.now_ms);
        let front = &mut self.fronts[index];
        if !front.alive {
            return;
        }
        if let Some(read) = front.read.take() {
            front.learn(read, now_ms);
        } else if front.connected && !front.is_current(view) {
            front.read = Some(view);
        }
        let Some((hold, _)) = front.held else { return };
        if front.connected && front.acknowledged != hold && front.is_quiet() {
            front.acknowledged = hold;
            self.post(Op::Acknowledge { hold, front: index });
        }
    }

    /// A front dies with everything that it knows. A commit that it has sent
    /// may come through all the same.
    pub fn front_dies(&mut self, index: usize) {
        self.fronts[index].alive = false;
        self.fronts[index].connected = false;
        for client in 0..2 {
            match std::mem::replace(&mut self.fronts[index].clients[client], Client::Away) {
                Client::Away => {}
                Client::Connected { session, end } => self.orphan(end, session, None),
                Client::InTransaction { session, end, write } => {
                    let committing = self.chance.percent(50).then_some(write);
                    self.orphan(end, session, committing);
                }
            }
        }
    }

    fn orphan(&mut self, end: End, session: u64, committing: Option<u64>) {
        if let Some(session) = self.server(end).sessions.get_mut(&session) {
            session.orphan = true;
            session.committing = committing;
        }
    }

    pub fn front_comes_back(&mut self, index: usize) {
        let view = self.catalog.view();
        if !self.fronts[index].alive {
            self.fronts[index] = Front::new(View { hold: None, ..view }, &mut self.chance);
        }
        let front = &mut self.fronts[index];
        (front.connected, front.listed) = (true, true);
        front.read = Some(view);
    }

    pub fn time_passes_at_fronts(&mut self) {
        if self.broken != Broken::FrontWithoutClock {
            self.fronts.iter_mut().for_each(|front| front.tick(self.now_ms));
        }
    }

    /// A client goes on.
    pub fn client_step(&mut self, index: usize, client: usize) {
        let front = &self.fronts[index];
        if !front.alive {
            return;
        }
        let (at, held) = (front.view.at, front.held.is_some());
        let next = match front.clients[client] {
            Client::Away if held => Client::Away,
            Client::Away => self.connect(at),
            Client::Connected { session, end } => self.begin_transaction(session, end, at, held),
            Client::InTransaction { session, end, write } => self.go_on(session, end, write),
        };
        self.fronts[index].clients[client] = next;
    }

    fn connect(&mut self, end: End) -> Client {
        let session = self.fresh();
        let server = self.server(end);
        if !server.up || !server.entry {
            self.seen.refused += 1;
            return Client::Away;
        }
        server.sessions.insert(session, Session::default());
        Client::Connected { session, end }
    }

    fn begin_transaction(&mut self, session: u64, end: End, at: End, held: bool) -> Client {
        let Some(known) = self.server(end).sessions.get(&session) else { return Client::Away };
        if held || !known.listed {
            return Client::Connected { session, end };
        }
        if end != at {
            self.server(end).sessions.remove(&session);
            return Client::Away;
        }
        let write = self.fresh();
        if self.chance.percent(40) {
            self.give_value(end);
        }
        Client::InTransaction { session, end, write }
    }

    fn go_on(&mut self, session: u64, end: End, write: u64) -> Client {
        if !self.server(end).sessions.contains_key(&session) {
            self.seen.cut_short += 1;
            return Client::Away;
        }
        match self.chance.below(100) {
            0..15 => self.give_value(end),
            15..65 => {
                self.write(end, write);
                if !self.goes_wrong(50) {
                    self.acknowledged.insert(write);
                }
                return Client::Connected { session, end };
            }
            65..70 => return Client::Connected { session, end },
            _ => {}
        }
        Client::InTransaction { session, end, write }
    }
}
