//! Moves as they are followed: by server-sent events, again from where a stream
//! was left, to their end; and by `--watch`, which may be interrupted.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::Value;

use crate::common::{Said, World, ask};
use crate::place::{banker, is_settled, moving, ordered, until, world};

/// An event: its name, its id and what it says.
type Event = (String, Option<String>, Value);

/// A stream of events, behind one that is known.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn begins(world: &World, token: &str, id: &str, last: Option<&str>) -> (u16, Self) {
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        let head = format!("Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n{last}");
        let path = format!("/v1/moves/{id}/events");
        let mut stream = BufReader::new(ask(world.http_port, ("GET", &path), &head, None).unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let status = line[9..12].parse().unwrap();
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        (status, Self(stream))
    }

    /// The next event; none at the end of the stream. Lines of the chunks that it
    /// comes in are passed over.
    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut line) = (String::new(), None, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(said) = line.strip_prefix("event: ") {
                name = said.trim().to_owned();
            } else if let Some(said) = line.strip_prefix("id: ") {
                id = Some(said.trim().to_owned());
            } else if let Some(said) = line.strip_prefix("data: ") {
                return Some((name, id, serde_json::from_str(said).unwrap()));
            }
        }
    }

    /// The next state of the move that is as it should be.
    fn until(&mut self, is_so: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.next().unwrap();
            if event.0 == "move" && is_so(&event.2) {
                return event;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_followed_to_its_end_and_again_from_where_a_stream_was_left() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    // An open transaction keeps the move from its cutover for as long as the test wants.
    let mut open = world.connect("acme").await;
    let transaction = open.transaction().await.unwrap();
    transaction.query("select from accounts", &[]).await.unwrap();
    let begun = moving(&world, "acme", &["--tier", "standard", "--hold", "100ms", "--no-wait"]).json();
    let id = begun["id"].as_str().unwrap();

    let (status, mut stream) = Stream::begins(&world, world.token(), id, None);
    assert_eq!(status, 200);
    let is_held_up = |found: &Value| {
        found["progress"]["cutovers"].as_u64() > Some(0) && found["progress"]["held_up_by"].is_string()
    };
    let (_, mark, held) = stream.until(is_held_up);
    let mark = mark.expect("a state has a mark");
    assert_eq!((&held["status"], &held["comparison"]), (&"running".into(), &"equal".into()), "{held}");
    assert!(held["narrowed_ms"].as_f64() > Some(0.0) && held["pause_ms"].is_null(), "{held}");
    drop(stream);
    // Meanwhile it goes on, and who comes back is told what has become of it, and no state twice.
    transaction.commit().await.unwrap();
    until(&world, id, |found| found["status"] == "moved" && found["operation_status"] == "succeeded");
    let (status, mut stream) = Stream::begins(&world, world.token(), id, Some(&mark));
    assert_eq!(status, 200);
    let (_, again, moved) = stream.until(|_| true);
    assert_ne!(again.as_ref(), Some(&mark));
    assert_eq!(moved["status"], "moved");
    assert!(moved["pause_ms"].as_f64().is_some() && moved["narrowed_ms"].as_f64().is_some(), "{moved}");
    assert!(moved["narrowed_ms"].as_f64() >= moved["pause_ms"].as_f64(), "{moved}");

    // It ends with the move, and there is nothing more to come back for.
    ordered(&world, "complete", &begun, "completed");
    let mut last = None;
    while let Some((name, mark, found)) = stream.next() {
        if name == "move" {
            last = Some((mark.unwrap(), found));
        }
    }
    let (mark, found) = last.unwrap();
    assert_eq!((&found["status"], &found["operation_status"]), (&"completed".into(), &"succeeded".into()));
    let (status, mut stream) = Stream::begins(&world, world.token(), id, Some(&mark));
    assert_eq!((status, stream.next()), (204, None));
    // Without the mark, the last state is told once more.
    let (status, mut stream) = Stream::begins(&world, world.token(), id, None);
    assert_eq!((status, stream.until(|_| true).1), (200, Some(mark)));
    assert_eq!(stream.next(), None);
    is_settled(&world, "acme", "schema", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_follows_a_move_without_a_token_or_beyond_its_end() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let begun = moving(&world, "acme", &["--tier", "standard"]).json();
    let id = begun["id"].as_str().unwrap();
    let nobody = "0199a1c2-7d5e-7000-8000-5b1c0e3f9a21";
    assert_eq!(Stream::begins(&world, world.token(), nobody, None).0, 404);
    assert_eq!(Stream::begins(&world, "isk_x", id, None).0, 401);
    let config = world.folder.join("insula.toml").display().to_string();
    let said = world.run(&["operator", "token", "bob@example.com", "--config", &config]);
    assert!(said.ok, "{}", said.err);
    let (status, mut stream) = Stream::begins(&world, said.out.trim(), id, None);
    assert_eq!(status, 200);
    assert_eq!(stream.until(|_| true).2["status"], "moved");
    let catalog = world.catalog.connect("insula_catalog").await;
    let revoke = "update operator_tokens set revoked_at = now() where email = 'bob@example.com'";
    assert_eq!(catalog.execute(revoke, &[]).await.unwrap(), 1);
    let last = std::iter::from_fn(|| stream.next()).last().unwrap();
    assert_eq!((last.0.as_str(), &last.2["code"]), ("end", &"unauthenticated".into()), "{last:?}");
    ordered(&world, "complete", &begun, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_move_is_watched_as_the_move_is() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let ended = |verb: &str, id: &str, options: &[&str]| {
        let said = world.run(&[&["move", verb, id][..], options].concat());
        assert!(said.ok, "{verb}: {}\n{}", said.err, world.log());
        said
    };
    let is_drawn = |said: &Said| {
        let columns = said.err.lines().next().is_some_and(|line| line.starts_with("tenant\tphase\t"));
        columns && said.err.lines().any(|line| line.starts_with("acme\t"))
    };
    // An open transaction keeps the move from its cutover.
    let mut open = world.connect("acme").await;
    let transaction = open.transaction().await.unwrap();
    transaction.query("select from accounts", &[]).await.unwrap();
    let begun = moving(&world, "acme", &["--tier", "standard", "--hold", "100ms", "--no-wait"]).json();
    let cancelled = ended("cancel", begun["id"].as_str().unwrap(), &["--watch"]);
    assert!(is_drawn(&cancelled), "{}", cancelled.err);
    let outcome = "acme is still at pool us-east-1-a; the move was cancelled\n";
    assert_eq!(cancelled.out, outcome, "{}", cancelled.err);
    transaction.commit().await.unwrap();

    let id = moving(&world, "acme", &["--tier", "standard"]).json()["id"].as_str().unwrap().to_owned();
    let back = ended("rollback", &id, &["--watch"]);
    assert!(is_drawn(&back) && back.out.starts_with("acme is back at pool us-east-1-a"), "{back:?}");

    for options in [&["--watch"][..], &["--watch", "-o", "json"], &[]] {
        let tier = if world.tenant("acme")["tier"] == "free" { "standard" } else { "free" };
        let id = moving(&world, "acme", &["--tier", tier]).json()["id"].as_str().unwrap().to_owned();
        let completed = ended("complete", &id, options);
        // Canary: without it the steps are told, and all that is known of the move.
        assert_eq!(is_drawn(&completed), options.contains(&"--watch"), "{completed:?}");
        if options == ["--watch"] {
            assert!(completed.out.contains("; nothing is kept for a rollback\n"), "{completed:?}");
        }
        if options.contains(&"json") {
            assert_eq!(completed.json()["status"], "completed");
        }
        // What has ended is not ended again.
        world.run(&["move", "cancel", &id, "--watch"]).failed_with("move_status_conflict");
        world.run(&["move", "complete", &id, "--watch"]).failed_with("move_status_conflict");
    }
    is_settled(&world, "acme", "schema", "us-east-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_interrupted_says_that_the_move_goes_on() {
    let world = world().await;
    banker(&world, "acme", "free").await;
    let mut open = world.connect("acme").await;
    let transaction = open.transaction().await.unwrap();
    transaction.query("select from accounts", &[]).await.unwrap();
    let arguments = ["tenant", "move", "acme", "--tier", "standard", "--hold", "100ms", "--watch"];
    let mut watch = world.to_run(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stderr.take().unwrap());
    let mut line = String::new();
    // The names of the columns, and the first state: it is being watched.
    while !line.starts_with("acme\t") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "{}", world.log());
    }
    let process = watch.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &process]).status().unwrap().success());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    let said = Said::of(watch.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{rest}");
    let id = world.run(&["move", "list", "acme", "-o", "json"]).json()["items"][0]["id"].clone();
    let id = id.as_str().unwrap();
    for expected in
        ["The move goes on", &format!("insula move show {id} --watch"), &format!("insula move cancel {id}")]
    {
        assert!(rest.contains(expected), "{rest}");
    }
    assert!(!rest.contains("insula: "), "it is no failure: {rest}");
    // It does.
    transaction.commit().await.unwrap();
    until(&world, id, |found| found["status"] == "moved");
    let watched = world.run(&["move", "show", id, "--watch"]);
    assert!(watched.ok && watched.out.contains("acme is now at schema us-east-1-a"), "{}", watched.err);
    let found = world.run(&["move", "show", id, "-o", "json"]).json();
    ordered(&world, "complete", &found, "completed");
    is_settled(&world, "acme", "schema", "us-east-1").await;
}
