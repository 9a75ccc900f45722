//! Which tenants have series of their own among the metrics, and what the rest
//! has together. There are as many series as was asked for, and one more,
//! however many tenants there are.
//!
//! What is counted between two turns goes to the tenant's own series where it
//! has had one at the first of them and has it at the second, and else to the
//! rest. So a tenant that comes in begins with 0, one that leaves takes nothing
//! along that the rest would have to give back, no series ever gets smaller
//! while it is there, and the rates of all together are what was counted.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use insula_domain::TenantId;

use crate::account::Counts;
use crate::pool::Tally;

/// For so long a tenant keeps the series that it has; then those have them that
/// had most transactions in this time.
const WINDOW: Duration = Duration::from_secs(60);

/// What one series says; of one tenant, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Series {
    pub counts: Counts,
    pub clients: u32,
    pub held: Tally,
}

/// The tenants with series of their own.
#[derive(Debug, Default)]
pub(crate) struct Top {
    /// What was counted of each tenant until the last turn.
    seen: HashMap<TenantId, Counts>,
    /// What the series of their own have counted.
    own: HashMap<TenantId, Counts>,
    rest: Counts,
    /// When the window began, and the transactions of each tenant then.
    window: Option<(Instant, HashMap<TenantId, u64>)>,
}

impl Top {
    /// The series as they are now, those of tenants and that of the rest, where
    /// so many tenants may have one at the most.
    pub fn turn(
        &mut self,
        now: Instant,
        most: usize,
        samples: &HashMap<TenantId, Series>,
    ) -> (HashMap<TenantId, Series>, Series) {
        self.own.retain(|tenant, _| samples.contains_key(tenant));
        let chosen = self.choose(now, most, samples);
        let mut rest = Series::default();
        let mut own = HashMap::with_capacity(chosen.len());
        for (tenant, sample) in samples {
            let passed = sample.counts.since(self.seen.get(tenant).copied().unwrap_or_default());
            let before = self.own.get(tenant).copied();
            if !chosen.contains(tenant) || before.is_none() {
                self.rest = self.rest.and(passed);
            }
            if chosen.contains(tenant) {
                let counts = before.map_or(Counts::default(), |before| before.and(passed));
                own.insert(*tenant, Series { counts, ..*sample });
            } else {
                rest.clients += sample.clients;
                rest.held = rest.held.and(sample.held);
            }
        }
        self.own = own.iter().map(|(tenant, series)| (*tenant, series.counts)).collect();
        self.seen = samples.iter().map(|(tenant, sample)| (*tenant, sample.counts)).collect();
        rest.counts = self.rest;
        (own, rest)
    }

    /// Who has a series of its own from here on.
    fn choose(
        &mut self,
        now: Instant,
        most: usize,
        samples: &HashMap<TenantId, Series>,
    ) -> HashSet<TenantId> {
        let is_over =
            self.window.as_ref().is_none_or(|(began, _)| now.saturating_duration_since(*began) >= WINDOW);
        let before = |tenant: &TenantId| {
            self.window.as_ref().and_then(|(_, before)| before.get(tenant)).copied().unwrap_or(0)
        };
        let mut tenants: Vec<_> = samples
            .iter()
            .map(|(tenant, sample)| {
                let has_one = self.own.contains_key(tenant);
                let busy = sample.counts.transactions.saturating_sub(before(tenant));
                // Within the window nobody loses its series to another one.
                let keeps = has_one && !is_over;
                (Reverse(keeps), Reverse(busy), Reverse(has_one), *tenant)
            })
            .collect();
        tenants.sort_unstable();
        if is_over {
            let transactions = |(tenant, sample): (&TenantId, &Series)| (*tenant, sample.counts.transactions);
            self.window = Some((now, samples.iter().map(transactions).collect()));
        }
        tenants.into_iter().take(most).map(|(.., tenant)| tenant).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tenant(number: u128) -> TenantId {
        TenantId::from(Uuid::from_u128(number))
    }

    /// A front whose tenants have had so many transactions.
    fn samples(transactions: &[u64]) -> HashMap<TenantId, Series> {
        let sample = |transactions: u64| Series {
            counts: Counts { transactions, ..Counts::default() },
            clients: 1,
            held: Tally { open: 2, idle: 1, waiting: 0 },
        };
        (1..).zip(transactions).map(|(number, count)| (tenant(number), sample(*count))).collect()
    }

    /// A turn with one series: whose it is, what it says, and what the rest says.
    fn turn(top: &mut Top, now: Instant, transactions: &[u64]) -> (u128, u64, u64) {
        let (own, rest) = top.turn(now, 1, &samples(transactions));
        assert_eq!(own.len(), 1);
        let (tenant, series) = own.into_iter().next().unwrap();
        assert_eq!((series.clients, series.held.open), (1, 2));
        assert_eq!(rest.clients as usize, transactions.len() - 1);
        (tenant.as_uuid().as_u128(), series.counts.transactions, rest.counts.transactions)
    }

    #[test]
    fn what_is_counted_goes_to_one_series_and_none_gets_smaller() {
        let (mut top, began) = (Top::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(turn(&mut top, at(0), &[10, 3, 1]), (1, 0, 14), "who comes in begins with 0");
        assert_eq!(turn(&mut top, at(15), &[12, 50, 1]), (1, 2, 61), "and keeps it for a while");
        assert_eq!(turn(&mut top, at(45), &[15, 60, 1]), (1, 5, 71));
        // The second has had more since: what the first has had since the last
        // look is nobody's but the rest's.
        assert_eq!(turn(&mut top, at(61), &[16, 70, 1]), (2, 0, 82));
        assert_eq!(turn(&mut top, at(70), &[18, 71, 2]), (2, 1, 85));
        // The first comes back, from 0 again.
        assert_eq!(turn(&mut top, at(130), &[90, 72, 2]), (1, 0, 158));
        assert_eq!(turn(&mut top, at(140), &[91, 72, 2]), (1, 1, 158));
    }

    #[test]
    fn the_rates_of_all_together_are_what_was_counted() {
        let (mut top, began) = (Top::default(), Instant::now());
        let mut counts = [0_u64; 7];
        let mut shown: HashMap<TenantId, u64> = HashMap::new();
        let (mut rest_before, mut rates) = (0, 0);
        for step in 0..200_u64 {
            // Each is the busiest for a while.
            for (index, count) in counts.iter_mut().enumerate() {
                *count += 1 + 20 * u64::from(step / 13 % 7 == index as u64);
            }
            let now = began + Duration::from_secs(step * 15);
            let (own, rest) = top.turn(now, 3, &samples(&counts));
            assert_eq!(own.len(), 3);
            // As Prometheus has it: a series that is new, or has begun again,
            // counts from 0.
            let seen: HashMap<_, _> = own.iter().map(|(id, one)| (*id, one.counts.transactions)).collect();
            for (tenant, value) in &seen {
                let before = shown.get(tenant).copied().unwrap_or(0);
                assert!(*value >= before, "it gets smaller while it is there");
                rates += value - before;
            }
            assert!(rest.counts.transactions >= rest_before);
            rates += rest.counts.transactions - rest_before;
            (rest_before, shown) = (rest.counts.transactions, seen);
            assert_eq!(rates, counts.iter().sum::<u64>(), "after {step}");
        }
    }

    #[test]
    fn who_is_gone_makes_room_at_once_and_begins_anew() {
        let (mut top, now) = (Top::default(), Instant::now());
        turn(&mut top, now, &[10, 3]);
        assert_eq!(turn(&mut top, now, &[12, 3]), (1, 2, 13));
        let (own, rest) = top.turn(now, 1, &samples(&[]));
        assert!(own.is_empty() && rest.counts.transactions == 13);
        assert_eq!(turn(&mut top, now, &[4, 1]), (1, 0, 18));
        let (own, rest) = top.turn(now, 0, &samples(&[6, 1]));
        assert!(own.is_empty() && rest.counts.transactions == 20 && rest.clients == 2);
        let (own, _) = top.turn(now, 10, &samples(&[6, 1]));
        assert_eq!(own.len(), 2, "no more than there are");
    }
}
