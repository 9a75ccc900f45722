//! Randomness that is the same in every run: SplitMix64 (Steele, Lea, Flood:
//! "Fast splittable pseudorandom number generators", 2014). Never for secrets.

use std::sync::atomic::{AtomicU64, Ordering};

use insula_domain::Entropy;

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Random-looking bytes that follow from a seed.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// Equal seeds give equal bytes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(seed: u64) -> [u8; N] {
        let mut bytes = [0; N];
        SeededEntropy::new(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_others() {
        assert_eq!(bytes::<20>(7), bytes::<20>(7));
        assert_ne!(bytes::<20>(7), bytes::<20>(8));
        assert_eq!(bytes::<20>(7)[..5], bytes::<5>(7));
    }

    #[test]
    fn it_is_the_published_generator() {
        // The first outputs for the seed 1234567, from the test vectors of
        // https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        let entropy = SeededEntropy::new(1_234_567);
        assert_eq!([entropy.next(), entropy.next(), entropy.next()], expected);
    }
}
