//! An author who writes SQL at random: statements that mostly fit what is
//! there, as an application's developer could write them over the years.

mod definitions;
mod others;
mod rows;
mod tables;

pub use definitions::Definitions;

use crate::entropy::SeededEntropy;

/// Writes statements; equal seeds write equal ones for equal definitions.
#[derive(Debug)]
pub struct Author {
    dice: SeededEntropy,
    made: usize,
}

impl Author {
    /// An author who has written nothing.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { dice: SeededEntropy::new(seed), made: 0 }
    }

    /// A number below another one.
    ///
    /// # Panics
    /// Never on machines of up to 64 bits.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.dice.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// One to three statements that change definitions, and now and then rows.
    pub fn version(&mut self, there: &Definitions) -> String {
        let count = 1 + self.below(3);
        let statements: Vec<_> = (0..count)
            .filter_map(|_| match self.below(24) {
                0..=2 => Some(self.table(there)),
                3 => Some(self.partitioned(there)),
                4..=6 => self.partition(there),
                7..=9 => self.index(there),
                10..=15 => self.alter(there),
                16..=19 => self.other(there),
                _ => self.more(there),
            })
            .collect();
        statements.join(";\n")
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn name(&mut self, word: &str) -> String {
        self.made += 1;
        if self.made.is_multiple_of(7) {
            format!("\"{word} X{}\"", self.made)
        } else {
            format!("{word}{}", self.made)
        }
    }
}
