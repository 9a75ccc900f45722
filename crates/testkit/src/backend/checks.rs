//! The checks on versions, conditions, races, order, bounds and scopes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;
use insula_config_model::{BackendFault, KEY_BYTES_MAX, NewVersion, Scope, Version};

use super::ground::{Ground, key, text_of, value_of};
use super::labels;

/// A check, as it is run.
pub type Run = fn(Ground) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! checks {
    ($($name:ident: $check:path),* $(,)?) => {
        /// Every check by its name.
        pub const CHECKS: &[(&str, Run)] = &[$((stringify!($name), |ground| Box::pin($check(ground)))),*];
    };
}

checks! {
    versions: versions,
    conditions: conditions,
    race: race,
    repeated: repeated,
    removal_and_return: removal_and_return,
    versions_left_out: versions_left_out,
    history_in_pages: history_in_pages,
    list_in_order: list_in_order,
    list_by_prefix: list_by_prefix,
    keys_apart: keys_apart,
    longest_keys: longest_keys,
    largest_value: largest_value,
    scopes_apart: scopes_apart,
    forgotten: forgotten,
    swept: swept,
    labels_move: labels::labels_move,
    label_on_nothing: labels::label_on_nothing,
    labels_bounded: labels::labels_bounded,
    trimmed: labels::trimmed,
    label_or_trim: labels::label_or_trim,
    labelled_for_ever: labels::labelled_for_ever,
}

fn conflicts(done: Result<(), BackendFault>, newest: Version, expected: Version) {
    match done {
        Err(BackendFault::Conflict { newest: has, expected: wants }) => {
            assert_eq!((has, wants), (newest, expected), "what a conflict says");
        }
        other => panic!("{other:?} in the place of a conflict with {newest}"),
    }
}

async fn versions(ground: Ground) {
    assert_eq!(ground.newest("a").await, None);
    for version in 1..=3 {
        ground.put("a", version).await;
        assert_eq!(ground.newest_version("a").await, version);
    }
    for version in 1..=3 {
        let stored = ground.at("a", version).await.expect("a version that was written");
        let written = ground.version("a", version, &value_of(version));
        assert_eq!(text_of(&stored), Some(value_of(version)));
        assert_eq!((stored.scope, stored.key, stored.version), (written.scope, written.key, version));
        assert_eq!((stored.author, stored.at, stored.note), (written.author, written.at, written.note));
        assert_eq!(stored.revision, 0);
    }
    assert_eq!(ground.at("a", 4).await, None);
    assert_eq!(ground.at("b", 1).await, None);
}

async fn conditions(ground: Ground) {
    conflicts(ground.try_put("a", 2, 1).await, 0, 1);
    ground.put("a", 1).await;
    ground.put("a", 2).await;
    conflicts(ground.try_put("a", 3, 0).await, 2, 0);
    conflicts(ground.try_put("a", 3, 1).await, 2, 1);
    conflicts(ground.try_put("a", 7, 6).await, 2, 6);
    for version in [1, 2] {
        let changed = ground.backend.write(&ground.version("a", version, "\"other\""), 2).await;
        assert!(changed.is_err(), "version {version} was written anew");
    }
    assert_eq!(ground.history("a", None, 10).await, [2, 1]);
    assert_eq!(ground.newest("a").await.as_ref().and_then(text_of), Some(value_of(2)));
}

async fn race(ground: Ground) {
    let writers: i64 = 8;
    for version in 1..=20 {
        let writes: Vec<NewVersion> = (0..writers)
            .map(|writer| NewVersion {
                author: format!("key:{writer}"),
                ..ground.version("a", version, &format!("\"{version} by {writer}\""))
            })
            .collect();
        let done =
            join_all(
                writes.iter().map(|write| {
                    let (backend, write) = (ground.backend.clone(), write.clone());
                    async move {
                        tokio::spawn(async move { backend.write(&write, version - 1).await }).await.unwrap()
                    }
                }),
            )
            .await;
        let won: Vec<&NewVersion> =
            writes.iter().zip(&done).filter(|(_, done)| done.is_ok()).map(|(write, _)| write).collect();
        for lost in done.iter().filter_map(|done| done.as_ref().err()) {
            assert!(matches!(lost, BackendFault::Conflict { newest, .. } if *newest == version), "{lost:?}");
        }
        assert_eq!(won.len(), 1, "writers that won version {version}: {done:?}");
        let stored = ground.newest("a").await.expect("the winner's");
        assert_eq!((stored.version, &stored.author), (version, &won[0].author));
        assert_eq!(text_of(&stored).map(String::into_bytes), won[0].value);
    }
    let history = ground.history("a", None, 50).await;
    // Writes that came too late may count where a backend bounds the versions.
    let kept = if ground.backend.limits().versions_max.is_some() { history.len() } else { 20 };
    assert!(kept >= 2);
    assert_eq!(history, (1..=20).rev().take(kept).collect::<Vec<i64>>());
}

async fn repeated(ground: Ground) {
    let first = ground.version("a", 1, "1");
    let write = async |new: &NewVersion, expected| ground.backend.write(new, expected).await;
    let (one, two) = tokio::join!(write(&first, 0), write(&first, 0));
    assert!(one.is_ok() && two.is_ok(), "the same write twice at once: {one:?}, {two:?}");
    assert!(write(&first, 0).await.is_ok());
    assert_eq!(ground.history("a", None, 10).await, [1]);
    conflicts(write(&ground.version("a", 1, "2"), 0).await, 1, 0);
    conflicts(write(&NewVersion { author: "key:2".to_owned(), ..first.clone() }, 0).await, 1, 0);
    conflicts(write(&NewVersion { value: None, ..first.clone() }, 0).await, 1, 0);
    ground.put("a", 2).await;
    assert!(write(&first, 0).await.is_ok(), "what was done stays done when it is repeated late");
    assert_eq!(ground.history("a", None, 10).await, [2, 1]);
    let removal = NewVersion { value: None, ..ground.version("a", 3, "") };
    assert!(write(&removal, 2).await.is_ok() && write(&removal, 2).await.is_ok());
    assert_eq!(ground.history("a", None, 10).await, [3, 2, 1]);
}

async fn removal_and_return(ground: Ground) {
    ground.put("a", 1).await;
    ground.put("b", 1).await;
    let removal = NewVersion { value: None, ..ground.version("a", 2, "") };
    ground.backend.write(&removal, 1).await.unwrap();
    let newest = ground.newest("a").await.expect("a removal is a version");
    assert_eq!((newest.version, &newest.value, &newest.note), (2, &None, &removal.note));
    assert_eq!(ground.list("", None, 10).await, ["a", "b"], "a removal is listed");
    assert_eq!(ground.at("a", 1).await.as_ref().and_then(text_of), Some(value_of(1)));
    conflicts(ground.try_put("a", 3, 0).await, 2, 0);
    ground.put("a", 3).await;
    assert_eq!(ground.history("a", None, 10).await, [3, 2, 1]);
    assert_eq!(ground.at("a", 2).await.expect("the removal").value, None);
    assert_eq!(ground.newest("a").await.as_ref().and_then(text_of), Some(value_of(3)));
}

async fn versions_left_out(ground: Ground) {
    ground.try_put("a", 41, 0).await.unwrap();
    ground.try_put("a", 50, 41).await.unwrap();
    ground.put("a", 51).await;
    assert_eq!(ground.history("a", None, 10).await, [51, 50, 41]);
    assert_eq!(ground.at("a", 50).await.as_ref().and_then(text_of), Some(value_of(50)));
    assert_eq!(ground.at("a", 49).await, None);
    conflicts(ground.try_put("a", 53, 52).await, 51, 52);
}

async fn history_in_pages(ground: Ground) {
    for version in 1..=25 {
        ground.put("a", version).await;
        if version <= 2 {
            ground.put("a.b", version).await;
        }
    }
    let mut seen = Vec::new();
    loop {
        let page = ground.history("a", seen.last().copied(), 10).await;
        assert!(page.len() <= 10, "{page:?}");
        if page.is_empty() {
            break;
        }
        seen.extend(page);
        assert!(seen.len() < 100, "it does not end: {seen:?}");
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<i64>>());
    assert_eq!(ground.history("a", Some(1), 10).await, [0i64; 0]);
    assert_eq!(ground.history("a.b", None, 10).await, [2, 1]);
    assert_eq!(ground.history("none", None, 10).await, [0i64; 0]);
}

/// Names whose order differs by bytes, by UTF-16 and by what languages say, or
/// that a way to write them down could mix up.
const NAMES: &[&str] = &[
    "a",
    "a!",
    "a#1",
    "a%2Fb",
    "a(x)",
    "a*",
    "a+b",
    "a,b",
    "a-b",
    "a.-2E-b",
    "a.-b",
    "a.b",
    "a..b",
    "a/b",
    "a/b.c",
    "a/b/c",
    "a0",
    "a:b",
    "a=b",
    "a@b",
    "A",
    "Z",
    "[x]",
    "a\\b",
    "a\"b",
    "a'b",
    "a_b",
    "a__b",
    "ab",
    "a{{x}}",
    "a~",
    "b",
    "größe/日本",
    "gross",
    "z",
    "ä",
    "ß",
    "\u{e9}",
    "e\u{301}",
    "\u{fffd}",
    "\u{ff21}",
    "\u{10000}",
    "\u{1f3db}",
];

async fn list_in_order(ground: Ground) {
    for name in NAMES {
        ground.put(name, 1).await;
    }
    let mut sorted: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    sorted.sort();
    assert_eq!(ground.list("", None, 100).await, sorted);
    let mut paged: Vec<String> = Vec::new();
    loop {
        let page = ground.list("", paged.last().map(String::as_str), 7).await;
        assert!(page.len() <= 7, "{page:?}");
        if page.is_empty() {
            break;
        }
        paged.extend(page);
        assert!(paged.len() < 1_000, "it does not end");
    }
    assert_eq!(paged, sorted);
    assert_eq!(ground.list("", Some("a.b0"), 1).await, ["a/b"], "behind a key that there is not");
}

async fn list_by_prefix(ground: Ground) {
    let names = ["a", "a/b", "a/b/c", "ab", "a_b", "axb", "a%b", "b", "größe/x", "grö"];
    for name in names {
        ground.put(name, 1).await;
        ground.put(name, 2).await;
    }
    for (prefix, covered) in [
        ("a/", &["a/b", "a/b/c"][..]),
        ("a_", &["a_b"]),
        ("a%", &["a%b"]),
        ("a/b", &["a/b", "a/b/c"]),
        ("grö", &["grö", "größe/x"]),
        ("größe/", &["größe/x"]),
        ("c", &[]),
    ] {
        assert_eq!(ground.list(prefix, None, 100).await, covered, "{prefix}");
    }
    assert_eq!(ground.list("a", Some("a%b"), 2).await, ["a/b", "a/b/c"]);
    assert_eq!(ground.list("b", Some("a"), 10).await, ["b"], "behind a key before the prefix");
    assert_eq!(ground.list("a", Some("b"), 10).await, [""; 0], "behind a key after the prefix");
}

async fn keys_apart(ground: Ground) {
    for (version, name) in (1..).zip(NAMES) {
        ground.try_put(name, version, 0).await.unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
    }
    for (version, name) in (1..).zip(NAMES) {
        assert_eq!(ground.newest_version(name).await, version, "{name}");
        assert_eq!(ground.history(name, None, 10).await, [version], "{name}");
    }
}

async fn longest_keys(ground: Ground) {
    let max = ground.backend.limits().key_bytes_max.min(KEY_BYTES_MAX);
    let plain = "k".repeat(max);
    let parts = format!("{}kk", "k/".repeat(max / 2 - 1));
    let foreign = "日".repeat(max / 3);
    for name in [&plain, &parts, &foreign] {
        ground.put(name, 1).await;
        ground.put(name, 2).await;
        assert_eq!(ground.newest_version(name).await, 2);
        ground.label(name, "stable", Some(1)).await.unwrap();
    }
    assert_eq!(ground.list("k", None, 10).await, [parts, plain]);
    for longest in ["k".repeat(KEY_BYTES_MAX), "日".repeat(KEY_BYTES_MAX / 3)] {
        match ground.try_put(&longest, 1, ground.newest_version(&longest).await).await {
            Ok(()) | Err(BackendFault::Conflict { .. }) => {}
            Err(BackendFault::Refused(_)) if max < KEY_BYTES_MAX => {
                assert_eq!(ground.newest(&longest).await, None);
            }
            other => panic!("{other:?} for the longest key"),
        }
    }
}

async fn largest_value(ground: Ground) {
    let max = ground.backend.limits().value_bytes_max;
    let value = |bytes: usize| format!("\"{}\"", "v".repeat(bytes - 2));
    let write = async |name, bytes| ground.backend.write(&ground.version(name, 1, &value(bytes)), 0).await;
    write("largest", max).await.unwrap();
    let stored = ground.newest("largest").await.expect("the largest value");
    assert_eq!(text_of(&stored), Some(value(max)));
    match write("too-large", max + 1).await {
        Err(BackendFault::Refused(_)) => assert_eq!(ground.newest("too-large").await, None),
        other => panic!("{other:?} for a value over the limit"),
    }
    ground.backend.write(&ground.version("least", 1, "0"), 0).await.unwrap();
}

async fn scopes_apart(ground: Ground) {
    let id = ground.scope.to_string().replace(['/', '-'], "");
    let name = format!("insula_{id}");
    let region = format!("r{}", &id[id.len() - 12..]);
    let scopes = [
        Scope::Platform,
        Scope::Region(region.parse().unwrap()),
        Scope::Tier(region.parse().unwrap()),
        ground.scope.clone(),
        ground.another().scope,
    ];
    let grounds = scopes.map(|scope| Ground { scope, ..ground.clone() });
    for (version, ground) in (1..).zip(&grounds) {
        ground.try_put(&name, version, 0).await.unwrap();
        ground.label(&name, "stable", Some(version)).await.unwrap();
    }
    for (version, ground) in (1..).zip(&grounds) {
        assert_eq!(ground.newest_version(&name).await, version, "{}", ground.scope);
        assert_eq!(ground.history(&name, None, 10).await, [version]);
        assert_eq!(ground.labels(&name, version).await, ["stable"]);
        assert_eq!(ground.list(&name, None, 10).await, std::slice::from_ref(&name));
    }
}

async fn forgotten(ground: Ground) {
    let other = ground.another();
    for ground in [&ground, &other] {
        for name in ["a", "a/b", "größe"] {
            ground.put(name, 1).await;
            ground.put(name, 2).await;
            ground.label(name, "stable", Some(1)).await.unwrap();
        }
    }
    ground.backend.forget(&ground.scope).await.unwrap();
    ground.backend.forget(&ground.scope).await.unwrap();
    assert_eq!(ground.list("", None, 10).await, [""; 0]);
    for name in ["a", "a/b", "größe"] {
        assert_eq!(ground.newest(name).await, None);
        assert_eq!(ground.history(name, None, 10).await, [0i64; 0]);
        assert_eq!(ground.at(name, 1).await, None);
        assert_eq!(other.newest_version(name).await, 2);
        assert_eq!(other.labels(name, 1).await, ["stable"]);
    }
    ground.put("a", 1).await;
    assert_eq!(ground.labels("a", 1).await, [""; 0], "a label came back");
    assert_eq!(ground.history("a", None, 10).await, [1]);
}

async fn swept(ground: Ground) {
    let other = ground.another();
    let mut written = BTreeMap::new();
    for (ground, names) in [(&ground, &NAMES[..20]), (&other, &NAMES[20..])] {
        for name in names {
            ground.put(name, 1).await;
            written.insert((ground.scope.clone(), key(name)), 1);
        }
    }
    let removal = NewVersion { value: None, ..ground.version("a", 2, "") };
    ground.backend.write(&removal, 1).await.unwrap();
    written.insert((ground.scope.clone(), key("a")), 2);
    let (mut seen, mut from, mut parts) = (BTreeMap::new(), None::<String>, 0);
    loop {
        let sweep = ground.backend.sweep(from.as_deref(), 9).await.unwrap();
        for held in sweep.held {
            if [&ground.scope, &other.scope].contains(&&held.scope) {
                let twice = seen.insert((held.scope, held.key), held.version);
                assert_eq!(twice, None, "a key that nobody changed is there twice");
            }
        }
        from = sweep.next;
        parts += 1;
        assert!(parts < 10_000, "it does not end");
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, written);
    assert!(parts > 2, "{parts} parts of about 9");
}
