//! Names of parameters. They have letters of English, digits and `_.-/`
//! (<https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-paramstore-su-create.html>);
//! every other byte of a key is written `.-` and two hexadecimal digits. Pure.

use insula_config_model::{ConfigKey, Scope};

/// What all names begin with.
pub(super) const ROOT: &str = "/config-service/";
/// The longest name.
const NAME_MAX: usize = 1_011;
/// How many parts a name may have; two are ours.
const PARTS_MAX: usize = 15;

/// What the names of a scope begin with.
pub(super) fn under(scope: &Scope) -> String {
    match scope {
        Scope::Platform => format!("{ROOT}platform/"),
        Scope::Region(region) => format!("{ROOT}region.{region}/"),
        Scope::Tier(tier) => format!("{ROOT}tier.{tier}/"),
        Scope::Tenant(tenant) => format!("{ROOT}{tenant}/"),
    }
}

/// The name of a key; none where it would be too long.
pub(super) fn name_of(scope: &Scope, key: &ConfigKey) -> Option<String> {
    let mut name = under(scope);
    let bytes = key.as_str().as_bytes();
    let mut parts = 3;
    for (at, byte) in bytes.iter().enumerate() {
        let plain = match byte {
            b'/' => {
                parts += 1;
                parts <= PARTS_MAX
            }
            b'.' => bytes.get(at + 1) != Some(&b'-'),
            byte => byte.is_ascii_alphanumeric() || b"_-".contains(byte),
        };
        if plain {
            name.push(char::from(*byte));
        } else {
            name += &format!(".-{byte:02X}");
        }
    }
    (name.len() <= NAME_MAX).then_some(name)
}

/// The scope and the key of a name; none where it is not one of ours.
pub(super) fn scope_and_key(name: &str) -> Option<(Scope, ConfigKey)> {
    let (scope, key) = name.strip_prefix(ROOT)?.split_once('/')?;
    let scope = match scope.split_once('.') {
        Some((kind, name)) => format!("{kind}/{name}"),
        None if scope == "platform" => scope.to_owned(),
        None => format!("tenant/{scope}"),
    };
    let scope: Scope = scope.parse().ok()?;
    let key: ConfigKey = String::from_utf8(decoded(key)?).ok()?.parse().ok()?;
    // A key has one name, so that nothing is there twice.
    (name_of(&scope, &key)? == name).then_some((scope, key))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((before, behind)) = rest.split_once(".-") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(behind.get(..2)?, 16).ok()?);
        rest = behind.get(2..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_name_of_its_own() {
        let scope: Scope = "tier/free".parse().unwrap();
        let mut names = std::collections::BTreeSet::new();
        let keys = [
            "a",
            "a.b",
            "a-b",
            "a.-b",
            "a.-2E-b",
            "a..-b",
            "a..b",
            "a/b",
            "a%2Fb",
            "größe/日本",
            "A",
            "-",
            ".-",
        ];
        let deep = "a/".repeat(100) + "a";
        for key in keys.iter().copied().chain([deep.as_str()]) {
            let key: ConfigKey = key.parse().unwrap();
            let name = name_of(&scope, &key).unwrap();
            assert!(
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte)),
                "{name}"
            );
            assert!(name.split('/').count() <= PARTS_MAX + 1, "{name}");
            assert_eq!(scope_and_key(&name), Some((scope.clone(), key)));
            assert!(names.insert(name));
        }
        assert_eq!(name_of(&scope, &"日".repeat(170).parse().unwrap()), None);
        for name in [
            "/other/x/y",
            "/config-service/tier.free/.-6",
            "/config-service/tier.free/.-61",
            "/config-service/x/y",
        ] {
            assert_eq!(scope_and_key(name), None, "{name}");
        }
    }
}
