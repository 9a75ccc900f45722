//! One tenant's key against another tenant's configuration, through every call of
//! every interface: it is answered as if the other tenant were not there, nothing
//! of the other's is ever in an answer, and nothing of the other's changes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // fails as tests do

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod ends;
mod flags;
mod flawed;
mod ways;

use std::time::Duration;

use calls::{NAME, call, calls};
use common::World;
use common::config::{Key, put};
use tonic::Code;
use ways::{Case, Doors, of_operators, ways};

const PATIENCE: Duration = Duration::from_secs(30);

/// The other tenant's value, by which it is known wherever it shows up.
const MARK: &str = "globex-alone-knows-this";

/// A house with two tenants and their keys; the other one's id.
async fn house() -> (World, [Key; 2], String) {
    let world = World::start().await;
    world.apply_shop();
    let ids: Vec<String> = ["acme", "globex"]
        .iter()
        .map(|slug| world.create(slug, "free", "us-east-1"))
        .map(|tenant| tenant["id"].as_str().unwrap().to_owned())
        .collect();
    let keys = [world.key("acme"), world.key("globex")];
    let stub = world.stub();
    put(&stub, &keys[1].secret, NAME, format!("{{\"of\":\"{MARK}\"}}"), "").await.unwrap();
    let (name, value) = flags::flag();
    put(&stub, &keys[1].secret, &name, value, "").await.unwrap();
    (world, keys, ids[1].clone())
}

fn doors(world: &World) -> Doors {
    Doors { http: world.http_port, grpc: world.grpc_port }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_key_reaches_nothing_of_another_tenant() {
    let (world, [acme, globex], id) = house().await;
    let (doors, case) = (doors(&world), Case { key: &acme.secret, others: ["globex", &id] });
    let channel = doors.channel();
    let own = async |method: &str, key: &str| call(method, &channel, key, "").await;
    let kept = ["Config/History", "Config/Explain", "Rollouts/Clients"];
    let mut before = Vec::new();
    for method in kept {
        before.push(own(method, &globex.secret).await.unwrap());
    }

    let found: Vec<String> = ways(&doors, &case)
        .await
        .into_iter()
        .filter_map(|way| Some(format!("{}: {}", way.name, way.leak?)))
        .collect();
    assert!(found.is_empty(), "{found:#?}");

    for (key, is_refused) in [(acme.secret.clone(), true), (world.token().to_owned(), false)] {
        let doors = doors.clone();
        let answered = tokio::task::spawn_blocking(move || of_operators(&doors, &key)).await.unwrap();
        assert!(answered.len() > 2, "{answered:?}");
        for (route, answer) in answered {
            let said = answer.err().unwrap_or_default();
            assert_eq!(said.starts_with("HTTP/1.1 403"), is_refused, "{route}: {said}");
        }
    }

    for method in calls() {
        for scope in ["platform", "tier/free", "region/us-east-1"] {
            let status = call(&method, &channel, &acme.secret, scope).await.unwrap_err();
            let refused = [Code::NotFound, Code::PermissionDenied, Code::InvalidArgument];
            assert!(refused.contains(&status.code()), "{method} {scope}: {status}");
        }
        // For itself it may do all of it, and sees nothing of the other's.
        if let Ok(answer) = own(&method, &acme.secret).await {
            assert!(!answer.contains(MARK), "{method}: {answer}");
        }
    }
    for (method, before) in kept.into_iter().zip(before) {
        assert_eq!(own(method, &globex.secret).await.unwrap(), before, "{method}: nothing has changed");
    }
    // Canary: the mark is there for those who may see it.
    for scope in ["", "tenant/globex"] {
        for method in ["Get", "List", "History", "Explain", "Watch"] {
            let answer = call(&format!("Config/{method}"), &channel, &globex.secret, scope).await.unwrap();
            assert!(answer.contains(MARK), "{method} {scope}: {answer}");
        }
    }

    // Keys that are none; who guesses many has to wait.
    for method in calls() {
        for key in ["isk_0190163d8694739baea5966c26f8ad91_x", "isk_", "nothing", &globex.secret[..40]] {
            let status = own(&method, key).await.unwrap_err();
            let refused = [Code::Unauthenticated, Code::ResourceExhausted];
            assert!(refused.contains(&status.code()), "{method} {key}: {status}");
        }
    }
}

/// Each way finds something where there is something to be found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doors_that_believe_whom_one_claims_to_be_are_found_in_every_way() {
    let (world, [acme, globex], id) = house().await;
    let case = Case { key: &acme.secret, others: ["globex", &id] };
    let flawed = flawed::before(&doors(&world), world.token(), &globex.secret).await;
    let ways = ways(&flawed, &case).await;
    let missed: Vec<&str> =
        ways.iter().filter(|way| way.leak.is_none()).map(|way| way.name.as_str()).collect();
    assert!(ways.len() > 80 && missed.is_empty(), "of {} ways nothing is found by {missed:#?}", ways.len());
}
