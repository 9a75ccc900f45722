//! Tellers at work while their tenant moves, and what they must not have
//! noticed.

use std::time::Duration;

use insula_testkit::{Bank, Books, Hours, Told, faults, pauses};

use crate::common::World;
use crate::place::OPENING;

/// Until all tellers have gone on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each teller does before a move and after it.
const TRANSACTIONS: usize = 20;

/// A tenant's clients at work.
pub struct Load {
    slug: String,
    bank: Bank,
    /// The end of the time in which nothing moved yet.
    quiet: Duration,
}

impl Load {
    /// Begins, and works for a while.
    pub async fn begins(world: &World, slug: &str, tellers: i64, thinks: Duration) -> Self {
        let config = world.url(slug).parse().unwrap();
        let bank = Bank::opens(&Hours { config, tellers, thinks, opening: OPENING });
        bank.until_each_has_done(TRANSACTIONS, PATIENCE).await;
        let quiet = bank.open_for();
        Self { slug: slug.to_owned(), bank, quiet }
    }

    /// All of them go on, and none was told an error.
    pub async fn goes_on(&self, world: &World) {
        self.bank.until_each_has_done(TRANSACTIONS, PATIENCE).await;
        let errors = self.bank.errors();
        assert!(errors.is_empty(), "{errors:#?}\n{}", world.log());
    }

    /// How long it has worked.
    pub fn open_for(&self) -> Duration {
        self.bank.open_for()
    }

    /// Ends, and holds what was told against what is there. Gives what was told,
    /// and the longest pause since that time, of all tellers.
    pub async fn ends(self, world: &World, since: Duration) -> (Vec<Told>, Duration) {
        let until = self.bank.open_for();
        let told = self.bank.closes().await;
        let faults = faults_of(world, &self.slug, &told).await;
        assert!(faults.is_empty(), "{faults:#?}\n{}", world.log());
        let longest = pauses(&told, &(Duration::ZERO..self.quiet), &(since..until)).last().copied();
        (told, longest.unwrap_or_default())
    }
}

/// What of that which was told is not as it is there, in words.
pub async fn faults_of(world: &World, slug: &str, told: &[Told]) -> Vec<String> {
    let books = Books::read(&world.connect(slug).await).await.unwrap();
    faults(OPENING, told, &books).iter().map(ToString::to_string).collect()
}
