//! Taking what is asked: a message is read into memory before it is answered, and
//! of those that are long there are not many at once.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use futures_util::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is longer needs a place among those that are long.
const LONG: usize = 1 << 20;

/// Places that a message has; it has them until this is dropped.
pub(super) type Places = Arc<Mutex<Vec<OwnedSemaphorePermit>>>;

/// The request, whose body is read on behind [`LONG`] only with a place in each of
/// these, and the places that it will have.
pub(super) fn bounded(request: Request, of: [&Arc<Semaphore>; 2]) -> (Request, Places) {
    let places = Places::default();
    let told = request.headers().get(CONTENT_LENGTH).and_then(|told| told.to_str().ok()?.parse().ok());
    if told.is_some_and(|told: usize| told <= LONG) {
        return (request, places);
    }
    let (of, held) = (of.map(Arc::clone), Arc::clone(&places));
    let request = request.map(|body| {
        let begun = (body.into_data_stream(), 0, of, held);
        Body::from_stream(stream::unfold(begun, |(mut data, mut taken, of, held)| async move {
            let next = data.next().await?;
            let before = taken;
            taken += next.as_ref().map_or(0, |bytes| bytes.len());
            if before <= LONG && taken > LONG {
                for room in &of {
                    // They are never closed.
                    if let Ok(place) = Arc::clone(room).acquire_owned().await {
                        held.lock().unwrap_or_else(PoisonError::into_inner).push(place);
                    }
                }
            }
            Some((next, (data, taken, of, held)))
        }))
    });
    (request, places)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::FutureExt;

    use super::*;

    fn asked(chunks: usize) -> Request {
        let chunks = (0..chunks).map(|_| Ok::<_, std::io::Error>(vec![0_u8; LONG / 4]));
        Request::new(Body::from_stream(stream::iter(chunks.collect::<Vec<_>>())))
    }

    #[tokio::test]
    async fn a_long_message_waits_for_its_place_and_a_short_one_does_not() {
        let of = [Arc::new(Semaphore::new(2)), Arc::new(Semaphore::new(1))];
        let take = |chunks| {
            let (request, places) = bounded(asked(chunks), [&of[0], &of[1]]);
            (to_bytes(request.into_body(), usize::MAX), places)
        };
        let (first, held) = take(9);
        assert_eq!(first.await.unwrap().len(), 9 * LONG / 4);
        assert_eq!([of[0].available_permits(), of[1].available_permits()], [1, 0]);
        let (second, _places) = take(5);
        let mut second = std::pin::pin!(second);
        assert!(second.as_mut().now_or_never().is_none(), "there is no place");
        let (short, none) = take(4);
        assert_eq!(short.await.unwrap().len(), LONG);
        assert!(none.lock().unwrap().is_empty());
        drop(held);
        assert_eq!(second.await.unwrap().len(), 5 * LONG / 4);
    }
}
