//! Taking apart and putting together `postgres://` URLs.

/// The same URL for another database, whose name needs no escapes.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    assert_plain(database);
    let (head, query) = match url.split_once('?') {
        Some((head, query)) => (head, format!("?{query}")),
        None => (url, String::new()),
    };
    let start = authority_start(head);
    let end = head[start..].find('/').map_or(head.len(), |slash| start + slash);
    format!("{}/{database}{query}", &head[..end])
}

/// The same URL for another user; neither name nor password needs escapes.
pub(crate) fn with_user(url: &str, user: &str, password: &str) -> String {
    assert_plain(user);
    assert_plain(password);
    let start = authority_start(url);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |end| start + end);
    let host = url[start..end].rsplit('@').next().unwrap_or_default();
    format!("{}{user}:{password}@{host}{}", &url[..start], &url[end..])
}

fn authority_start(url: &str) -> usize {
    url.find("://").expect("a URL of the form postgres://…") + "://".len()
}

fn assert_plain(text: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    assert!(text.bytes().all(plain), "`{text}` would need escapes in a URL");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_replaced_or_added() {
        for (url, expected) in [
            ("postgres://u:p@h:1/old", "postgres://u:p@h:1/new"),
            ("postgres://u:p@h:1", "postgres://u:p@h:1/new"),
            ("postgres://u:p%2F@h:1/old?sslmode=disable", "postgres://u:p%2F@h:1/new?sslmode=disable"),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }

    #[test]
    fn the_user_is_replaced_or_added() {
        for (url, expected) in [
            ("postgres://u:p@h:1/db", "postgres://me:pw@h:1/db"),
            ("postgres://h:1/db?a=b", "postgres://me:pw@h:1/db?a=b"),
            ("postgres://u@[::1]:1", "postgres://me:pw@[::1]:1"),
        ] {
            assert_eq!(with_user(url, "me", "pw"), expected);
        }
    }

    #[test]
    #[should_panic(expected = "would need escapes")]
    fn what_needs_escapes_is_refused() {
        let _ = with_database("postgres://h/a", "b/c");
    }
}
