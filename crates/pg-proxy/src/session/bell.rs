//! A future that is looked at only when something has happened to it. What all
//! sessions wait for, such as the front's end, has one lock for all of them, and
//! would else be asked each time that bytes come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Rings when a future is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rope: Option<Arc<Rope>>,
}

/// What the future pulls.
#[derive(Debug)]
struct Rope {
    was_pulled: AtomicBool,
    task: Waker,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.was_pulled.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Bell {
    /// Polls the future if it has rung, or has not been polled by this task
    /// yet. It must be the same one each time.
    pub fn poll<F: Future>(&mut self, future: Pin<&mut F>, context: &Context<'_>) -> Poll<F::Output> {
        let rope = match &self.rope {
            Some(rope) if rope.task.will_wake(context.waker()) => {
                // Whoever pulls after this wakes the task after this.
                if !rope.was_pulled.load(Ordering::Acquire) || !rope.was_pulled.swap(false, Ordering::AcqRel)
                {
                    return Poll::Pending;
                }
                rope
            }
            _ => {
                let (was_pulled, task) = (AtomicBool::new(false), context.waker().clone());
                self.rope.insert(Arc::new(Rope { was_pulled, task }))
            }
        };
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(rope))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_has_rung_and_not_else() {
        let (notify, polls) = (Notify::new(), AtomicUsize::new(0));
        let mut notified = pin!(notify.notified());
        let mut counted = pin!(poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            notified.as_mut().poll(context)
        }));
        let mut bell = Bell::default();
        let mut rounds = 0;
        let heard = poll_fn(|context| {
            rounds += 1;
            match rounds {
                10 => notify.notify_waiters(),
                11 => return bell.poll(counted.as_mut(), context).map(|()| true),
                12.. => return Poll::Ready(false),
                _ => context.waker().wake_by_ref(),
            }
            bell.poll(counted.as_mut(), context).map(|()| rounds == 10)
        });
        assert!(heard.await, "heard in the round in which it rang");
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn another_task_is_woken_too() {
        let notify = Arc::new(Notify::new());
        let waiting = Arc::clone(&notify);
        let mut bell = Bell::default();
        let mut notified = Box::pin(async move { waiting.notified().await });
        let first = poll_fn(|context| Poll::Ready(bell.poll(notified.as_mut(), context).is_pending()));
        assert!(first.await);
        let task =
            tokio::spawn(async move { poll_fn(|context| bell.poll(notified.as_mut(), context)).await });
        yield_now().await;
        notify.notify_one();
        task.await.unwrap();
    }
}
