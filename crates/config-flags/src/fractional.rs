//! `fractional`: a share of those who ask, by a hash of who they are, so that
//! each stays where it is. The hash is MurmurHash3 (x86, 32 bits, seed 0) as
//! published by Austin Appleby; how it becomes a share is flagd's.
//! Source: <https://flagd.dev/reference/custom-operations/fractional-operation/>.

use serde_json::Value;

/// The largest sum of weights.
const WEIGHTS_MAX: u64 = i32::MAX as u64;

/// The 32 bits of MurmurHash3 with seed 0.
#[must_use]
pub fn murmur3(bytes: &[u8]) -> u32 {
    let scrambled = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = words.iter().fold(0_u32, |hash, word| {
        let mixed = hash ^ scrambled(u32::from_le_bytes(*word));
        mixed.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        hash ^= scrambled(last);
    }
    // The length counts modulo 2^32, as in the published function.
    hash ^= u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// One share: what is chosen, and its weight.
fn share(value: &Value) -> Option<(&Value, u64)> {
    let parts = value.as_array()?;
    let (variant, weight) = match parts.as_slice() {
        [variant] => (variant, 1),
        // A weight that is computed may fall below nothing; then it is nothing.
        [variant, weight] => (variant, whole(weight)?.max(0).unsigned_abs()),
        _ => return None,
    };
    (!variant.is_array() && !variant.is_object()).then_some((variant, weight))
}

fn whole(value: &Value) -> Option<i64> {
    let float = value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9.1e15)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    Some(float as i64)
}

/// Which of the shares falls to the one who asks; null where the shares are
/// none. `who` is the key by default: the flag's name and the targeting key.
pub(crate) fn choose(arguments: &[Value], who: Option<String>) -> Value {
    let (who, shares) = match arguments {
        [Value::String(given), shares @ ..] => (Some(given.clone()), shares),
        [Value::Null, shares @ ..] => (who, shares),
        shares => (who, shares),
    };
    let Some(who) = who else { return Value::Null };
    let Some(shares) = shares.iter().map(share).collect::<Option<Vec<_>>>() else { return Value::Null };
    let total = shares.iter().fold(0_u64, |sum, (_, weight)| sum.saturating_add(*weight));
    if total > WEIGHTS_MAX {
        return Value::Null;
    }
    let place = (u64::from(murmur3(who.as_bytes())) * total) >> 32;
    let mut end = 0;
    for (variant, weight) in shares {
        end += weight;
        if place < end {
            return variant.clone();
        }
    }
    Value::Null
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Computed with imurmurhash 0.1.4 of npm, which flagd's own evaluation uses.
    #[test]
    fn the_hash_is_the_published_one() {
        for (text, hash) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("ab", 0x9bbf_d75f),
            ("abc", 0xb3dd_93fa),
            ("abcd", 0x43ed_676a),
            ("hello", 0x248b_fa47),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn shares_are_as_large_as_their_weights() {
        let rule = |who: &str| vec![json!(who), json!(["a", 10]), json!(["b", 30]), json!(["c", 60])];
        let mut counted = std::collections::BTreeMap::new();
        for number in 0..20_000 {
            let who = format!("user-{number}");
            let chosen = choose(&rule(&who), None);
            assert_eq!(chosen, choose(&rule(&who), None), "it stays");
            *counted.entry(chosen.to_string()).or_insert(0) += 1;
        }
        for (variant, expected) in [("\"a\"", 2_000), ("\"b\"", 6_000), ("\"c\"", 12_000)] {
            let found: i32 = counted[variant];
            assert!((found - expected).abs() < 300, "{variant}: {found}");
        }
    }

    #[test]
    fn a_larger_share_only_adds() {
        let rule = |who: &str, weight: i32| {
            choose(&[json!(who), json!(["new", weight]), json!(["old", 100 - weight])], None)
        };
        for number in 0..2_000 {
            let who = format!("user-{number}");
            if rule(&who, 10) == "new" {
                assert_eq!(rule(&who, 25), "new", "{who}");
            }
        }
    }

    #[test]
    fn who_is_left_out_is_the_flag_and_the_key() {
        let shares = [json!(["a", 50]), json!(["b", 50])];
        let named = [json!("bannerada"), shares[0].clone(), shares[1].clone()];
        let null = [Value::Null, shares[0].clone(), shares[1].clone()];
        let expected = choose(&named, None);
        assert_eq!(choose(&shares, Some("bannerada".to_owned())), expected);
        assert_eq!(choose(&null, Some("bannerada".to_owned())), expected);
        assert_eq!(choose(&shares, None), Value::Null);
    }

    #[test]
    fn shares_that_are_none_choose_nothing() {
        for shares in [
            json!(["x"]),
            json!(["x", "a"]),
            json!(["x", []]),
            json!(["x", ["a", 1, 2]]),
            json!(["x", ["a", 1.5]]),
            json!(["x", ["a", "1"]]),
            json!(["x", ["a", 0]]),
            json!(["x", ["a", -5]]),
            json!(["x", [["a"], 1]]),
            json!(["x", ["a", 2_147_483_647], ["b", 1]]),
        ] {
            assert_eq!(choose(shares.as_array().unwrap(), None), Value::Null, "{shares}");
        }
        assert_eq!(choose(&[json!("x"), json!(["a"])], None), "a", "a weight is 1 where none is said");
        assert_eq!(choose(&[json!("x"), json!(["a", -5]), json!([true, 1])], None), true);
    }
}
