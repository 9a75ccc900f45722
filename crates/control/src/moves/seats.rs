//! Seats for what a run does to servers for good, before and after the cutover.
//! A worker that was suspended may wake when another one has done all of it, and
//! the tenant is where it was not: names are the same in each of its moves. So it
//! takes the seat first, asks then whose the run is, and works over connections
//! that end as soon as anybody else has the seat.

use insula_tenant_cluster::moving::{At, Place, Seat};
use insula_workflow::StepError;

use crate::workflows::moving::OfMove;
use crate::workflows::retried;

/// The seat on the server of a place, in a run that is still this worker's.
///
/// # Errors
/// Where the server or the catalog is away, or another worker has the run.
pub async fn seat(run: &OfMove, place: &Place) -> Result<Seat, StepError> {
    let seat = take(place).await?;
    run.heartbeat().await?;
    Ok(seat)
}

async fn take(place: &Place) -> Result<Seat, StepError> {
    let seat = Seat::take(&place.access, place.tenant).await.map_err(retried)?;
    seat.at_length().await.map_err(retried)
}

/// The seats on the servers of both ends of a move, which may be one.
#[derive(Debug)]
pub struct Seats {
    source: Place,
    target: Place,
    at_source: Seat,
    at_target: Option<Seat>,
}

impl Seats {
    /// Takes them, in a run that is still this worker's.
    ///
    /// # Errors
    /// As [`seat`].
    pub async fn take(run: &OfMove, source: &Place, target: &Place) -> Result<Self, StepError> {
        let at_source = take(source).await?;
        let at_target = match source.access.name() == target.access.name() {
            true => None,
            false => Some(take(target).await?),
        };
        run.heartbeat().await?;
        Ok(Self { source: source.clone(), target: target.clone(), at_source, at_target })
    }

    /// The source, beside its seat.
    #[must_use]
    pub fn source(&self) -> At<'_> {
        (&self.at_source, &self.source).into()
    }

    /// The target, beside its seat.
    #[must_use]
    pub fn target(&self) -> At<'_> {
        (self.target_seat(), &self.target).into()
    }

    /// The seat on the target's server.
    #[must_use]
    pub fn target_seat(&self) -> &Seat {
        self.at_target.as_ref().unwrap_or(&self.at_source)
    }
}
