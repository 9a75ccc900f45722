//! What cancels of a session may reach: what its client has asked, and never
//! what the front asks the backend by itself. One that comes while that is under
//! way waits for the client's statement behind it, where there is one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::{Connection, Pump};
use crate::cancel::Passage;
use crate::front::Front;

/// How often a cancel that has waited is sent again.
const AGAIN_MAX: u32 = 6;

/// After which time it is for the first time; each time is twice the one before.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Where cancels lead by now, and one that is sent from here.
#[derive(Default)]
pub(super) struct Cancels {
    lead: Lead,
    /// On its way: meanwhile nothing more is asked.
    sending: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    again: Option<Again>,
}

/// What is left of a cancel that has waited. It goes out together with what it is
/// meant for, and may be the first to come: PostgreSQL forgets one that finds
/// nothing under way. So it is sent again, as long as the same is under way and
/// nothing else that it could reach.
struct Again {
    /// What it is meant for: what is asked behind so many answers.
    behind: u32,
    times: u32,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Again {
    fn new(behind: u32) -> Self {
        Self { behind, times: 0, pause: None }
    }

    /// Whether it is time for the next one, where there is one.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let after = AGAIN_AFTER * 2_u32.pow(self.times);
        let is_over =
            self.pause.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(context).is_ready();
        if is_over {
            self.pause = None;
            self.times += 1;
        }
        is_over
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Lead {
    #[default]
    Nowhere,
    Later,
    There,
}

impl Pump {
    /// Cancels what the backend does for the client, as the client would: one that
    /// may come too late must not find another session there either.
    pub(super) fn cancel(&mut self, front: &Front) {
        let Ok(under_way) = self.source.slot.begin() else { return };
        let (endpoint, tls) = (Arc::clone(&under_way.target.endpoint), front.backend_tls.clone());
        let within = front.config.get().connect_timeout;
        self.cancels.sending = Some(Box::pin(async move {
            if let Err(error) = under_way.send(&tls, within).await {
                let cluster = &endpoint.name;
                tracing::warn!(%error, %cluster, "a statement could not be cancelled");
            }
        }));
    }

    /// Whether a cancel that is sent from here is on its way.
    pub(super) fn is_cancelling(&mut self, context: &mut Context<'_>, front: &Front) -> bool {
        loop {
            if let Some(sending) = &mut self.cancels.sending
                && sending.as_mut().poll(context).is_pending()
            {
                return true;
            }
            self.cancels.sending = None;
            if !self.is_to_cancel_again(context) {
                return false;
            }
            self.cancel(front);
        }
    }

    /// Whether a cancel that had waited goes out again.
    fn is_to_cancel_again(&mut self, context: &mut Context<'_>) -> bool {
        let Some(again) = &mut self.cancels.again else { return false };
        if again.times < AGAIN_MAX && self.pipeline.has_nothing_but_the_one_behind(again.behind) {
            return again.is_due(context);
        }
        self.cancels.again = None;
        false
    }

    /// Has cancels lead where they may by now; whether one has waited for that.
    /// To be called before anything goes out.
    pub(super) fn leads_cancels(&mut self, front: &Front) -> bool {
        let (lead, target) = match &self.connection {
            // What it has asked waits for the end of a hold.
            _ if self.source.way.passer.is_waiting() || self.came.is_some() => (Lead::Later, None),
            Connection::Without => (Lead::Nowhere, None),
            Connection::Waiting(_) => (Lead::Later, None),
            Connection::With(lease) if self.pipeline.answers_own().is_none() => {
                (Lead::There, Some(&lease.backend.target))
            }
            Connection::With(_) if self.pipeline.is_quiet() => (Lead::Nowhere, None),
            Connection::With(_) => (Lead::Later, None),
        };
        if lead == self.cancels.lead {
            return false;
        }
        self.cancels.lead = lead;
        let slot = &self.source.slot;
        let is_asked = match target {
            Some(target) => slot.lead_to(target.clone()),
            None if lead == Lead::Later => {
                slot.lead_later();
                false
            }
            None => {
                slot.lead_nowhere();
                false
            }
        };
        if is_asked {
            front.measures.cancels_forwarded.increment(1);
            self.cancel(front);
            self.cancels.again = Some(Again::new(self.pipeline.answered()));
        }
        is_asked
    }

    /// The backend is given back. Gives the cancels that may still come to it.
    pub(super) fn leave_cancels(&mut self) -> Option<Arc<Passage>> {
        self.cancels.lead = Lead::Nowhere;
        self.cancels.again = None;
        self.source.slot.leave()
    }
}
