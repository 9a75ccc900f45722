//! What a scope has, and what it may have: decided under the clock, on numbers
//! that are kept with what is written.

use insula_config_model::{ConfigKey, ConfigValue, Room};
use insula_problem::{Code, Problem};

/// What a version takes beside its key and its value.
const VERSION_BYTES: i64 = 128;

/// What sealing adds to a secret, at the most.
const SEALED_BYTES: i64 = 160;

/// What one scope, such as a tenant, may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Keys that are set.
    pub keys: i64,
    /// Bytes of their newest values.
    pub bytes: i64,
    /// Bytes of all versions that are kept, each with its key and 128 for itself.
    pub kept: i64,
    /// Bytes of large values, each with 4,096 for itself.
    pub large: i64,
}

impl Default for Quota {
    /// 20,000 keys, 64 MiB of values, 512 MiB with their versions, 1 GiB of
    /// large values.
    fn default() -> Self {
        Self { keys: 20_000, bytes: 64 << 20, kept: 512 << 20, large: 1 << 30 }
    }
}

/// What a scope has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub keys: i64,
    pub bytes: i64,
    pub kept: i64,
}

/// What is known of a key for this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OfKey {
    /// Bytes of the newest value.
    pub newest: i64,
    /// Bytes of the versions without a label, where much is kept in the scope.
    pub unlabelled: i64,
}

/// A new version of a key: whether something was set before and is now, and how
/// many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub was_set: bool,
    pub is_set: bool,
    pub bytes: i64,
    pub key_bytes: i64,
}

impl Step {
    pub fn new(key: &ConfigKey, was_set: bool, value: Option<&ConfigValue>) -> Self {
        let bytes = match value {
            None => 0,
            Some(ConfigValue::Json(text)) => length(text.len()),
            Some(ConfigValue::Secret(plain)) => length(plain.len()) + SEALED_BYTES,
            Some(ConfigValue::Sealed(envelope)) => length(envelope.len()),
            Some(ConfigValue::Blob(blob)) => length(blob.sha256.len() + blob.media_type.len()) + 64,
        };
        Self { was_set, is_set: value.is_some(), bytes, key_bytes: length(key.as_str().len()) }
    }
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 4)
}

impl Usage {
    /// Takes a new version in, where there is room. True where only the newest
    /// version of the key is to be kept, beside those with a label: the scope has
    /// no room for more. A removal is never refused.
    pub fn take(&mut self, quota: &Quota, of: &mut OfKey, step: Step, room: Room) -> Result<bool, Problem> {
        let after = Self {
            keys: self.keys + i64::from(step.is_set) - i64::from(step.was_set),
            bytes: self.bytes + step.bytes - of.newest,
            kept: self.kept + step.bytes + step.key_bytes + VERSION_BYTES,
        };
        let is_squeezed = after.kept > quota.kept;
        // Where the version before has a label, that is counted twice: less fits then.
        let before = if room == Room::BesideBefore { of.newest + step.key_bytes + VERSION_BYTES } else { 0 };
        let freed = if is_squeezed { (of.unlabelled - before).max(0) } else { 0 };
        let kept = after.kept - freed;
        if step.is_set && room != Room::Always {
            let full = |what: &str, most: i64| {
                let detail = format!(
                    "There is no room for the value: {most} {what} are the most here. Remove what is not needed."
                );
                Err(Problem::new(Code::ConfigQuotaExceeded, detail))
            };
            if after.keys > quota.keys && !step.was_set {
                return full("keys", quota.keys);
            }
            if after.bytes > quota.bytes && step.bytes > of.newest {
                return full("bytes of values", quota.bytes);
            }
            if kept > quota.kept {
                return full("bytes of values with their earlier versions", quota.kept);
            }
        }
        *self = Self { kept, ..after };
        let added = step.bytes + step.key_bytes + VERSION_BYTES;
        *of = OfKey { newest: step.bytes, unlabelled: of.unlabelled - freed + added };
        Ok(is_squeezed)
    }
}

/// Counts anew what a scope has. Each newest version is looked up by itself: a
/// join would be planned for as few as there were when the plan was made.
pub(crate) const COUNT: &str = "insert into config_usage as u (scope, keys, bytes, kept)
    select $1, count(*) filter (where n.is_newest and n.kind <> 0),
        coalesce(sum(n.bytes) filter (where n.is_newest), 0),
        coalesce(sum(n.bytes + octet_length(n.key) + 128), 0)
    from (
        select v.key, v.kind, coalesce(octet_length(v.value), 0) as bytes, v.version = (
            select c.version from config_values c where c.scope = v.scope and c.key = v.key) as is_newest
        from config_versions v where v.scope = $1
    ) as n
    on conflict (scope) do update set keys = excluded.keys, bytes = excluded.bytes, kept = excluded.kept";

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { keys: 2, bytes: 1_000, kept: 3_000, large: 0 };

    fn put(was_set: bool, bytes: i64) -> Step {
        Step { was_set, is_set: true, bytes, key_bytes: 1 }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_makes_room_never() {
        let mut usage = Usage { keys: 2, bytes: 900, kept: 1_000 };
        let code = |refused: Result<bool, Problem>| refused.unwrap_err().code();
        assert_eq!(
            code(usage.take(&QUOTA, &mut OfKey::default(), put(false, 1), Room::Usual)),
            Code::ConfigQuotaExceeded
        );
        let mut of = OfKey { newest: 300, unlabelled: 0 };
        assert_eq!(code(usage.take(&QUOTA, &mut of, put(true, 401), Room::Usual)), Code::ConfigQuotaExceeded);
        assert_eq!(usage, Usage { keys: 2, bytes: 900, kept: 1_000 }, "a refusal changes nothing");
        assert!(!usage.take(&QUOTA, &mut of, put(true, 400), Room::Usual).unwrap());
        assert_eq!(usage, Usage { keys: 2, bytes: 1_000, kept: 1_529 });
        // Where it is more than it may be already, less is taken.
        usage.bytes = 5_000;
        assert!(!usage.take(&QUOTA, &mut of, put(true, 399), Room::Usual).unwrap());
        let removal = Step { was_set: true, is_set: false, bytes: 0, key_bytes: 1 };
        usage.kept = 9_000;
        assert!(usage.take(&QUOTA, &mut of, removal, Room::Usual).unwrap());
        assert_eq!((usage.keys, usage.bytes), (1, 4_600));
    }

    #[test]
    fn earlier_versions_make_room_before_anything_is_refused() {
        let mut usage = Usage { keys: 1, bytes: 100, kept: 2_900 };
        let mut of = OfKey { newest: 100, unlabelled: 2_900 };
        assert!(usage.take(&QUOTA, &mut of, put(true, 100), Room::Usual).unwrap());
        assert_eq!((usage.kept, of.unlabelled), (229, 229));
        // Those with a label stay, and so there is none.
        let mut usage = Usage { keys: 1, bytes: 100, kept: 2_900 };
        let mut of = OfKey { newest: 100, unlabelled: 0 };
        assert!(usage.take(&QUOTA, &mut of, put(true, 100), Room::Usual).is_err());
    }

    #[test]
    fn what_may_be_taken_back_keeps_its_way_back() {
        let take = |kept: i64, unlabelled: i64, room: Room| {
            let mut usage = Usage { keys: 1, bytes: 100, kept };
            let taken = usage.take(&QUOTA, &mut OfKey { newest: 100, unlabelled }, put(true, 100), room);
            taken.map(|is_squeezed| (is_squeezed, usage.kept))
        };
        assert_eq!(take(2_900, 2_900, Room::BesideBefore).unwrap(), (true, 458));
        // There is room for one of the two.
        assert!(take(2_900, 229, Room::Usual).is_ok());
        assert_eq!(take(2_900, 229, Room::BesideBefore).unwrap_err().code(), Code::ConfigQuotaExceeded);
        // What comes back does so, whatever the others have taken meanwhile.
        assert!(take(2_900, 0, Room::Usual).is_err());
        assert_eq!(take(2_900, 0, Room::Always).unwrap(), (true, 3_129));
    }
}
