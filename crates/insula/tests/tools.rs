//! Migration tools, unmodified: each runs against the blueprint, what it did is
//! captured and rolled out, and the same program then works as a tenant of a
//! pool and as a tenant with a database of its own, with other URLs.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod common;

use std::path::Path;
use std::process::Command;

use common::World;
use common::programs::{file, node, of_postgres, psql, python, run};
use serde_json::{Value, json};

/// A tenant of each model.
const TENANTS: [(&str, &str); 3] = [("acme", "free"), ("globex", "standard"), ("initech", "business")];

fn drizzle(url: &str) -> Command {
    let mut command = node();
    command.env("DATABASE_URL", url).arg(file("tools/drizzle/run.cjs"));
    command
}

fn blueprint(world: &World) -> String {
    let said = world.run(&["schema", "blueprint-url"]);
    assert!(said.ok, "{}", said.err);
    said.out.trim().to_owned()
}

/// Captures what a tool has done and rolls it out; the version's text.
fn capture_and_apply(world: &World, file: &str, name: &str) -> String {
    let folder = world.folder.join("schema");
    let dir = folder.display().to_string();
    let said = world.run(&["schema", "capture", "--name", name, "--dir", &dir]);
    assert!(said.ok, "{}{}", said.out, said.err);
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let said = world.run(&["schema", "apply", &dir]);
    assert!(said.ok, "{}\n{text}", said.err);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn django_with_its_admin() {
    let world = World::start().await;
    // Django writes its migrations beside its models.
    let site = world.folder.join("site");
    copy_folder(&file("tools/django"), &site);
    let manage = |url: &str, arguments: &[&str]| {
        let mut command = python("django-admin");
        command.args(arguments).args(["--settings", "settings", "--pythonpath"]).arg(&site);
        run(command.env("DATABASE_URL", url))
    };
    let url = blueprint(&world);
    manage(&url, &["makemigrations", "blog"]);
    manage(&url, &["migrate"]);
    capture_and_apply(&world, "0001_django.sql", "django");

    let mut seen: Vec<Value> = Vec::new();
    for (slug, tier) in TENANTS {
        world.create(slug, tier, "us-east-1");
        let url = world.url(slug);
        // Django itself finds nothing left to do.
        assert!(manage(&url, &["migrate", "--check"]).is_empty());
        let mut pages = python("python");
        pages.arg(site.join("pages.py")).arg(slug).env("DATABASE_URL", &url).current_dir(&site);
        let said: Value = serde_json::from_str(&run(&mut pages)).unwrap();
        assert_eq!(said["titles"], json!([format!("Hello from {slug}")]));
        assert_eq!(said["users"], json!(["ada", "grace"]));
        assert_eq!(said["tags"], json!(["new", "newer", "rust", "sql"]));
        assert_eq!(said["counted"], json!({"ada": 0, "grace": 1}));
        assert_eq!(said["posts_after"], 0);
        seen.push(said);
    }
    for said in &seen[1..] {
        for what in ["content_types", "permissions", "group_permissions", "sessions"] {
            assert_eq!(said[what], seen[0][what], "{what}");
        }
    }
    // A change of the models, with rows there: the next version.
    let models = site.join("blog/models.py");
    let text = std::fs::read_to_string(&models).unwrap();
    let changed = text.replace(
        "    body = models.TextField(blank=True)\n",
        "    body = models.TextField(blank=True)\n    pinned = models.BooleanField(default=False)\n",
    );
    assert_ne!(changed, text);
    std::fs::write(&models, changed).unwrap();
    manage(&url, &["makemigrations", "blog"]);
    manage(&url, &["migrate"]);
    capture_and_apply(&world, "0002_pinned.sql", "pinned");
    for (slug, _) in TENANTS {
        assert!(manage(&world.url(slug), &["migrate", "--check"]).is_empty());
        let client = world.connect(slug).await;
        client.query("select pinned from blog_post", &[]).await.unwrap();
    }
    world.doctor_is_content();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy_with_alembic() {
    let world = World::start().await;
    let upgrade = |url: &str, revision: &str| {
        let ini = world.folder.join("alembic.ini");
        let folder = file("tools/alembic");
        std::fs::write(&ini, format!("[alembic]\nscript_location = {}\n", folder.display())).unwrap();
        run(python("alembic").arg("-c").arg(ini).args(["upgrade", revision]).env("DATABASE_URL", url))
    };
    let url = blueprint(&world);
    upgrade(&url, "0001");
    let text = capture_and_apply(&world, "0001_accounts.sql", "accounts");
    assert!(text.contains("CREATE TYPE account_kind AS ENUM"), "{text}");
    for (slug, tier) in TENANTS {
        world.create(slug, tier, "us-east-1");
        let client = world.connect(slug).await;
        let rows =
            format!("insert into accounts (email) values ('Ada@{slug}.example'), ('Grace@{slug}.example')");
        client.batch_execute(&rows).await.unwrap();
    }
    // The second revision decides over the rows of each tenant.
    upgrade(&url, "head");
    let text = capture_and_apply(&world, "0002_folded.sql", "folded");
    assert!(text.contains("UPDATE accounts SET email_folded = lower(email)"), "{text}");
    for (slug, _) in TENANTS {
        let client = world.connect(slug).await;
        let one = async |query: &str| client.query_one(query, &[]).await.unwrap().get::<_, String>(0);
        let folded = format!("ada@{slug}.example grace@{slug}.example");
        assert_eq!(one("select string_agg(email_folded, ' ' order by id) from accounts").await, folded);
        assert_eq!(one("select string_agg(code || rate, ' ' order by code) from rates").await, "EUR1 USD1.2");
        assert_eq!(one("select version_num from alembic_version").await, "0002");
        assert_eq!(one("select kind::text from accounts limit 1").await, "private");
    }
    // A tenant that comes later begins with what all versions have left.
    world.create("late", "free", "us-east-1");
    let late = world.connect("late").await;
    let rates =
        late.query_one("select string_agg(code || rate, ' ' order by code) from rates", &[]).await.unwrap();
    assert_eq!(rates.get::<_, String>(0), "EUR1 USD1.2");
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn drizzle_on_node() {
    let world = World::start().await;
    run(drizzle(&blueprint(&world)).arg("migrate"));
    capture_and_apply(&world, "0001_notes.sql", "notes");
    for (slug, tier) in TENANTS {
        world.create(slug, tier, "us-east-1");
        let said: Value = serde_json::from_str(&run(drizzle(&world.url(slug)).args(["use", slug]))).unwrap();
        let expected = json!({"notes": [{"slug": "first", "body": format!("again of {slug}")}], "links": 1});
        assert_eq!(said, expected, "{slug}");
    }
    world.doctor_is_content();
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench() {
    let world = World::start().await;
    // Tables, keys and foreign keys; the rows are each tenant's own.
    run(of_postgres("pgbench").args(["-i", "-I", "dtpf", &blueprint(&world)]));
    capture_and_apply(&world, "0001_pgbench.sql", "pgbench");
    let tenants = [("acme", "free"), ("other", "free"), ("initech", "business")];
    let accounts: String = (1..=100_000).map(|id| format!("{id}\t1\t0\t\n")).collect();
    let rows = world.folder.join("accounts.tsv");
    std::fs::write(&rows, accounts).unwrap();
    for (slug, tier) in tenants {
        world.create(slug, tier, "us-east-1");
        let client = world.connect(slug).await;
        client
            .batch_execute(
                "insert into pgbench_branches (bid, bbalance) values (1, 0);
                 insert into pgbench_tellers (tid, bid, tbalance) select t, 1, 0 from generate_series(1, 10) t",
            )
            .await
            .unwrap();
        let copy = format!("\\copy pgbench_accounts from '{}'", rows.display());
        let said = run(psql(&world.url(slug)).args(["-c", &copy]));
        assert_eq!(said.trim(), "COPY 100000", "{slug}");
    }
    // The standard load, as two tenants of the pool at once.
    let urls = tenants.map(|(slug, _)| (slug, world.url(slug)));
    std::thread::scope(|scope| {
        for (slug, url) in &urls {
            scope.spawn(move || {
                let said =
                    run(of_postgres("pgbench").args(["-n", "-c", "2", "-t", "100", "-s", "1"]).arg(url));
                assert!(said.contains("200/200"), "{slug}: {said}");
            });
        }
    });
    for (slug, _) in tenants {
        let client = world.connect(slug).await;
        let sums = client
            .query_one(
                "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
                        and (select bbalance from pgbench_branches) = (select sum(tbalance) from pgbench_tellers),
                        (select count(*) from pgbench_history), (select count(*) from pgbench_accounts)",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((sums.get(0), sums.get(1), sums.get(2)), (true, 200_i64, 100_000_i64), "{slug}");
    }
    world.doctor_is_content();
}
