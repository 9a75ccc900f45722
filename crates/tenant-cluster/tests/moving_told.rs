//! What a move tells of rows: of those that differ or do not fit, nothing that
//! may be a person's leaves the region, neither in words nor in the log.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

mod stream_support;

use insula_domain::Isolation::{Database, Pool, Schema};
use insula_problem::{Code, Problem};
use insula_tenant_cluster::moving::{
    CompareOptions, Comparison, CopyOptions, CopyProgress, Differs, Seat, StreamFault, copy, export_snapshot,
    verify,
};
use insula_tenant_cluster::schema::said_by_server;
use stream_support::{Pair, one, versions};
use tokio_util::sync::CancellationToken;

/// A value that is a person's.
const VALUE: &str = "ada@example.test";
/// As much of it as is still hers.
const PART: &str = "ada@ex";

/// As PostgreSQL has it.
const DIGEST: &str = "md5:28ae5bf8fa0cde12855e61ac303859cc";

const PEOPLE: &str = "create table people (mail text primary key, name text not null default '', n int);
    create table seats (at date not null, number int not null, guest varchar(40) not null, primary key (at, number, guest));";

/// All that a problem can be told by.
fn told(problem: &Problem) -> String {
    format!(
        "{problem} {problem:?} {} {:?} {:?}",
        problem.chain(),
        problem.to_body(None),
        said_by_server(problem)
    )
}

/// The digest by which the row is found.
async fn digest(pair: &Pair) -> String {
    format!("md5:{}", one(&pair.source.admin, &format!("select md5('{VALUE}'::text)")).await)
}

#[tokio::test]
async fn a_row_that_differs_is_told_by_a_digest_of_its_key() {
    let pair = Pair::new(Database, Pool, &versions(&[PEOPLE])).await;
    assert_eq!(digest(&pair).await, DIGEST);
    let rows = format!(
        "insert into people values ('{VALUE}'); insert into seats values ('2026-01-02', 7, '{VALUE}')"
    );
    pair.source.run(&rows).await;
    let (comparison, stop) = (Comparison::default(), CancellationToken::new());
    let (from, to) = ((&pair.source.place, None), (&pair.target.place, None));
    let how = CompareOptions::default();
    let verified = verify(from, to, &pair.tables, how, &comparison, &stop).await.unwrap();
    let found: Vec<_> = verified.differences.iter().map(|found| (found.key.as_str(), found.what)).collect();
    let people = format!("mail={DIGEST}");
    let seats = format!("at=2026-01-02, number=7, guest={DIGEST}");
    assert_eq!(
        found,
        [(people.as_str(), Differs::MissingAtTarget), (seats.as_str(), Differs::MissingAtTarget)]
    );
    pair.clean().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_applied_is_told_by_a_digest_of_its_key() {
    let pair = Pair::new(Schema, Database, &versions(&[PEOPLE])).await;
    pair.source.run(&format!("insert into people values ('{VALUE}')")).await;
    let duplicate = format!("insert into people values ('{VALUE}')");
    for (at_target, at_source) in [
        ("delete from people".to_owned(), format!("update people set name = 'x' where mail = '{VALUE}'")),
        ("delete from people".to_owned(), "delete from people".to_owned()),
        (duplicate, format!("insert into people values ('{VALUE}')")),
        // What the server says of it has the value as well: the detail, or the words of a function.
        (
            "alter table people add check (n <> 5)".to_owned(),
            format!("insert into people values ('{VALUE}', '', 5)"),
        ),
        (
            "create function f(m text) returns bool language plpgsql as $$ begin
                 raise exception 'not %', m using detail = m, errcode = '23514', table = m, constraint = m; end $$;
             alter table people add check (f(mail))"
                .to_owned(),
            format!("insert into people values ('{VALUE}')"),
        ),
    ] {
        pair.source.run("truncate people").await;
        pair.target.run("truncate people").await;
        if !at_source.starts_with("insert") {
            pair.source.run(&format!("insert into people values ('{VALUE}')")).await;
        }
        drop(pair.prepare().await);
        pair.target.run(&at_target).await;
        let stream = pair.stream().await;
        pair.source.run(&at_source).await;
        let fault = pair.caught_up(&stream).await.unwrap_err();
        let StreamFault::Diverged { key, .. } = &fault else { panic!("{fault:?}") };
        assert_eq!(*key, format!("mail={DIGEST}"), "{at_source}");
        let text = format!("{fault} {fault:?}");
        let problem = Problem::from(fault);
        assert_eq!(problem.code(), Code::MoveDiverged);
        assert!(!text.contains(PART) && !told(&problem).contains(PART), "{text} {}", told(&problem));
        assert!(stream.stop().await.is_err());
    }
    pair.clean().await;
}

#[tokio::test]
async fn rows_that_do_not_fit_are_not_told() {
    let pair = Pair::new(Database, Schema, &versions(&[PEOPLE])).await;
    pair.source.run(&format!("insert into people values ('{VALUE}'), ('x{VALUE}')")).await;
    let function = |raised: &str| {
        format!(
            "create or replace function f(m text) returns bool language plpgsql as $$ begin {raised} end $$;
             alter table people add constraint fits check (f(mail))"
        )
    };
    for (at_target, undo, words) in [
        // The detail names the key, or the whole row.
        (
            "create unique index same on people (right(mail, 10))".to_owned(),
            "drop index if exists same",
            "unique_violation",
        ),
        (
            "alter table people alter n set not null".to_owned(),
            "alter table people alter n drop not null",
            "column n",
        ),
        // The message does.
        (
            "alter table people alter mail type varchar(3)".to_owned(),
            "alter table people alter mail type text",
            "22001",
        ),
        (function("return m::int = 1;"), "alter table people drop constraint fits", "22P02"),
        (function("raise exception 'not %', m;"), "alter table people drop constraint fits", "P0001"),
        (function("return m::regclass > 5;"), "alter table people drop constraint fits", "3F000"),
    ] {
        pair.target.run(&format!("truncate people; {at_target}")).await;
        let (progress, stop) = (CopyProgress::default(), CancellationToken::new());
        let shown = export_snapshot(&pair.source.place).await.unwrap();
        let mut seat = Seat::take_at(&pair.target.place).await.unwrap();
        let (from, to) = ((&pair.source.place, shown.snapshot()), (&pair.target.place, &mut seat));
        let copied = copy(from, to, &pair.tables, CopyOptions::default(), &progress, &stop).await;
        let problem = copied.unwrap_err();
        assert!(!told(&problem).contains(PART), "{at_target}: {}", told(&problem));
        assert!(problem.chain().contains(words), "{at_target}: {}", problem.chain());
        pair.target.run(undo).await;
    }
    // Canary: the server tells it, and whoever prints the driver's error does.
    let insert = format!("insert into people values ('{VALUE}')");
    let client = pair.source.place.connect().await.unwrap();
    let error = client.batch_execute(&insert).await.unwrap_err();
    assert!(Problem::internal(error).chain().contains(PART));
    pair.clean().await;
}
