//! Whether the changes of the regions are followed, by how long ago each was
//! read. With its store away a region's values are still there for who watches
//! them, and grow old. Pure.

use std::time::Duration;

/// Whether there is something to be served: every region was read, none of which
/// may be left out at the beginning, and at least one of them is followed, which
/// was read no longer ago than this.
pub(crate) fn is_ready(read_ago: &[Option<Duration>], within: Duration) -> bool {
    let is_fresh = |ago: &Option<Duration>| ago.is_some_and(|ago| ago <= within);
    read_ago.iter().all(Option::is_some) && (read_ago.is_empty() || read_ago.iter().any(is_fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_region_that_is_followed_is_enough_once_all_were_read() {
        let within = Duration::from_secs(30);
        let (now, before) = (Some(Duration::ZERO), Some(within + Duration::from_millis(1)));
        let is_ready = |read_ago: &[Option<Duration>]| is_ready(read_ago, within);
        assert!(is_ready(&[]) && is_ready(&[now]) && is_ready(&[now, before]));
        assert!(is_ready(&[Some(within)]));
        assert!(!is_ready(&[now, None]), "at the beginning all are read");
        assert!(!is_ready(&[before]) && !is_ready(&[before, before]));
    }
}
