//! What the tests of live moves share: the ends of a move in each form, and a
//! schema that has what is hard to move.

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_app_schema::PlainMigration;
use insula_domain::{DatabaseName, Epoch, Isolation, Placement, RoleName, TenantId};
use insula_sql_store::Connector;
use insula_tenant_cluster::moving::Place;
use insula_tenant_cluster::{ClusterAccess, NewRole, TenantRoles, create_schema, enroll_tenants, schema};
use insula_testkit::{TestDatabase, connect};
use tokio_postgres::Client;

#[path = "../schema_support/mod.rs"]
pub mod schema_support;

use schema_support::{Pool, versions};

/// A schema with names, types and tables that are hard to move.
pub const NASTY: &str = r#"
create type mood as enum ('sad', 'so so', 'it''s "fine"');
create type point3 as (x int, "the y" text, m mood);
create table "Order ""Lines""" (
    id bigint generated always as identity primary key,
    "Select" text,
    moods mood[],
    "where's" point3,
    twice numeric generated always as (n * 2) stored,
    n numeric,
    f float8,
    r real,
    raw bytea,
    doc jsonb,
    day date,
    at timestamptz,
    span interval,
    spans int4range,
    words text[],
    m mood not null default 'sad',
    parent bigint references "Order ""Lines""" deferrable initially deferred
);
create index on "Order ""Lines""" ("Select");
create table "no rows" (a int not null, b text not null, primary key (b, a));
create table seats (id serial primary key, place int, constraint seats_place unique (place) deferrable);
create table events (id bigint not null, at date not null, what text, primary key (id, at)) partition by range (at);
create table events_old partition of events for values from (minvalue) to ('2025-01-01');
create table events_new partition of events for values from ('2025-01-01') to (maxvalue);
create index events_what on events (what);
create table counted (id int primary key, turn bigint generated always as identity, what text);
create table visits (id int primary key, seat int references seats) partition by hash (id);
create table visits_all partition of visits for values with (modulus 1, remainder 0);
create sequence "Free ""Seq""" increment 3 start 10;
"#;

/// Rows for it, for a session that finds it in its search path.
pub const NASTY_ROWS: &str = r#"
insert into "Order ""Lines""" ("Select", moods, "where's", n, f, r, raw, doc, day, at, span, spans, words, m) values
  (E'tab\t nl\n back\\slash \\. "q" ü😀', '{sad,"it''s \"fine\"",null}', row(1, 'a,b)("', 'so so')::point3, 'NaN', 'NaN', '-0', '\x00ff5c', '{"a": [1, null, "\\"]}', 'infinity', '-infinity', '1 year -2 mons 3 days 04:05:06.789', '[1,5)', '{"a,b",null,"{}"}', 'it''s "fine"'),
  ('', '{}', null, '123456789012345678901234567890.000001', 'Infinity', '1.17549435e-38', '', 'null', '4713-01-01 BC', '2026-01-01 00:00:00.000001+05', '-1 sec', 'empty', '{}', 'sad'),
  (null, null, row(null, null, null)::point3, '-Infinity', 0.1, 0.3, null, null, null, null, null, null, null, 'so so');
update "Order ""Lines""" set parent = 4 - id where id in (1, 3);
insert into seats (place) select n from generate_series(1, 50) n;
insert into events select n, '2024-06-01'::date + (n % 400), 'what ' || n from generate_series(1, 1000) n;
select nextval('"Free ""Seq"""'), nextval('"Free ""Seq"""');
"#;

/// The nasty schema, as a version.
pub fn nasty() -> Vec<PlainMigration> {
    versions(&[NASTY])
}

/// An end of a move, on a database of the test's own.
pub struct End {
    pub place: Place,
    pub database: TestDatabase,
    pub admin: Client,
}

impl End {
    /// An end of a kind, with some versions, where the tenant is at home.
    pub async fn new(isolation: Isolation, tenant: TenantId, plain: &[PlainMigration]) -> Self {
        let (database, mut admin) = if isolation == Isolation::Pool {
            let pool = Pool::with("move_pool", plain).await;
            (pool.database, pool.admin)
        } else {
            let database = TestDatabase::create("move_silo").await;
            let admin = database.connect().await;
            enroll_tenants(&admin).await.unwrap();
            (database, admin)
        };
        let connector = Connector::new(&database.url(), None).unwrap();
        let cluster: insula_domain::ClusterName = "test-a".parse().unwrap();
        let mut placement = Placement::new(tenant, isolation, cluster.clone(), Epoch(1));
        placement.database = DatabaseName::from_stored(database.name().to_owned());
        let revoke = format!("revoke all on database {} from public", database.name());
        admin.batch_execute(&revoke).await.unwrap();
        for role in roles(tenant) {
            let query = "select 1 from pg_roles where rolname = $1";
            if admin.query_opt(query, &[&role.as_str()]).await.unwrap().is_none() {
                schema_support::create_role(&admin, &role).await;
            }
        }
        if isolation == Isolation::Pool {
            schema::apply_pool_data(&mut admin, &placement.role).await.unwrap();
        } else {
            if isolation == Isolation::Schema {
                create_schema(&admin, &placement.schema, tenant).await.unwrap();
            }
            for migration in plain {
                schema::apply_plain(&mut admin, &placement.schema, migration).await.unwrap();
            }
            for (role, read_only) in roles(tenant).iter().zip([false, true]) {
                schema::grant_rights(&admin, &placement.schema, role, read_only).await.unwrap();
            }
        }
        let place = Place { access: ClusterAccess::new(cluster, connector), placement, tenant };
        Self { place, database, admin }
    }

    /// The tenant's session there; its entry must be open.
    pub async fn session(&self) -> Client {
        let role = &self.place.placement.role;
        let client = connect(&self.database.url_as(role.as_str(), role.as_str())).await;
        let path = format!("set search_path = {}, public", self.place.placement.schema);
        client.batch_execute(&path).await.unwrap();
        client
    }

    /// Runs statements as administrator within the schema.
    pub async fn run(&self, sql: &str) {
        let client = self.place.connect().await.unwrap();
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs statements so that rows are the tenant's, also in shared tables.
    pub async fn fill(&self, sql: &str) {
        self.fill_as(&self.place.placement.role, sql).await;
    }

    /// Gives another tenant of the shared tables rows.
    pub async fn fill_beside(&mut self, sql: &str) -> TenantId {
        let tenant = schema_support::new_tenant();
        let role = RoleName::of_tenant(tenant);
        schema_support::create_role(&self.admin, &role).await;
        schema::apply_pool_data(&mut self.admin, &role).await.unwrap();
        self.fill_as(&role, sql).await;
        tenant
    }

    async fn fill_as(&self, role: &RoleName, sql: &str) {
        let client = self.place.connect().await.unwrap();
        let as_tenant = format!(
            "grant {0} to {role}; set row_security = on; begin; set local session authorization {role}; {sql};
             commit; reset session authorization; revoke {0} from {role}",
            schema::POOL_READ_WRITE
        );
        client.batch_execute(&as_tenant).await.unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// A tenant's roles.
pub fn roles(tenant: TenantId) -> [RoleName; 2] {
    [RoleName::of_tenant(tenant), RoleName::read_only_of_tenant(tenant)]
}

/// The roles with passwords that are not used.
pub fn tenant_roles(tenant: TenantId) -> TenantRoles {
    let [read_write, read_only] = roles(tenant).map(|name| NewRole { verifier: name.to_string(), name });
    TenantRoles { read_write, read_only }
}
