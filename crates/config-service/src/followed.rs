//! Whether the changes of the regions are followed, by how long ago each was
//! read. With its store away a region's values are still there for who watches
//! them, and grow old. Pure.

use std::time::Duration;

/// How long the changes of a region may go unread before that is said; they are
/// read every five seconds where the store answers.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);

/// Whether a region that was read so long ago is followed.
pub(crate) fn is_followed(read_ago: Duration) -> bool {
    read_ago <= FOLLOWED_WITHIN
}

/// Whether there is something to be served: every region was read, none of which
/// may be left out at the beginning, and at least one of them is followed.
pub(crate) fn is_ready(read_ago: &[Option<Duration>]) -> bool {
    let is_fresh = |ago: &Option<Duration>| ago.is_some_and(is_followed);
    read_ago.iter().all(Option::is_some) && (read_ago.is_empty() || read_ago.iter().any(is_fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_region_that_is_followed_is_enough_once_all_were_read() {
        let (now, before) = (Some(Duration::ZERO), Some(FOLLOWED_WITHIN + Duration::from_millis(1)));
        assert!(is_ready(&[]) && is_ready(&[now]) && is_ready(&[now, before]));
        assert!(is_ready(&[Some(FOLLOWED_WITHIN)]));
        assert!(!is_ready(&[now, None]), "at the beginning all are read");
        assert!(!is_ready(&[before]) && !is_ready(&[before, before]));
    }
}
