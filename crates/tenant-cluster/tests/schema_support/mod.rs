//! What the tests of the app schema on clusters share: pools, silos, and
//! sessions of tenants in them.

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // helpers of tests fail as tests do

use insula_app_schema::{AppSchema, Migration, PlainMigration, PoolForm, PoolMigration, check_all};
use insula_domain::{OsEntropy, RoleName, SchemaName, SchemaVersion, SystemClock, TenantId};
use insula_sql_store::Connector;
use insula_tenant_cluster::{ClusterAccess, schema};
use insula_testkit::{TestDatabase, connect, postgres};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, SqlState};

/// The versions of the shop.
pub fn shop() -> Vec<PlainMigration> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/schema");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    });
    let schema = AppSchema::from_files(files.collect()).unwrap();
    check_all(schema.migrations()).unwrap()
}

/// Versions from their texts, 1 first.
pub fn versions(texts: &[&str]) -> Vec<PlainMigration> {
    let migrations: Vec<_> = texts
        .iter()
        .zip(1..)
        .map(|(sql, version)| Migration::new(SchemaVersion(version), "test", sql))
        .collect();
    check_all(&migrations).unwrap()
}

/// Their pool form.
pub fn pool_form(plain: &[PlainMigration]) -> Vec<PoolMigration> {
    PoolForm::replay(plain).unwrap().1
}

/// A new tenant's id.
pub fn new_tenant() -> TenantId {
    TenantId::generate(&SystemClock, &OsEntropy)
}

/// A role that can log in, its name as its password.
pub async fn create_role(admin: &Client, role: &RoleName) {
    admin.batch_execute(&format!("create role {role} login password '{role}'")).await.unwrap();
}

/// A session as a role.
pub async fn session(database: &TestDatabase, role: &RoleName) -> Client {
    connect(&database.url_as(role.as_str(), role.as_str())).await
}

/// A database of shared tables.
pub struct Pool {
    pub database: TestDatabase,
    pub admin: Client,
    pub migrations: Vec<PoolMigration>,
}

impl Pool {
    /// An empty pool that will be given some versions.
    pub async fn empty(label: &str, plain: &[PlainMigration]) -> Self {
        let database = TestDatabase::create(label).await;
        let admin = database.connect().await;
        schema::create_group_roles(&admin).await.unwrap();
        schema::install_support(&admin).await.unwrap();
        schema::install_pool(&admin).await.unwrap();
        schema::harden_database(&admin).await.unwrap();
        let name = database.name();
        let prepare = format!(
            "revoke all on database {name} from public; grant connect on database {name} to {}, {};
             alter database {name} set search_path = app, public",
            schema::POOL_READ_WRITE,
            schema::POOL_READ_ONLY
        );
        admin.batch_execute(&prepare).await.unwrap();
        Self { database, admin, migrations: pool_form(plain) }
    }

    /// A pool with all of some versions.
    pub async fn with(label: &str, plain: &[PlainMigration]) -> Self {
        let mut pool = Self::empty(label, plain).await;
        pool.apply_all().await;
        pool
    }

    /// A pool with one version, given as text.
    pub async fn of(label: &str, sql: &str) -> Self {
        Self::with(label, &versions(&[sql])).await
    }

    pub async fn apply_all(&mut self) {
        for migration in &self.migrations {
            schema::apply_pool(&mut self.admin, migration).await.unwrap();
        }
    }

    /// A tenant of the pool, and its session.
    pub async fn tenant(&mut self) -> PoolTenant {
        let id = new_tenant();
        let role = RoleName::of_tenant(id);
        create_role(&self.admin, &role).await;
        self.admin.batch_execute(&format!("grant {} to {role}", schema::POOL_READ_WRITE)).await.unwrap();
        schema::apply_pool_data(&mut self.admin, &role).await.unwrap();
        let client = session(&self.database, &role).await;
        PoolTenant { id, role, client }
    }

    /// What the audit finds, each as `object: detail`.
    pub async fn findings(&self) -> Vec<String> {
        let found = schema::audit_pool(&self.admin, &self.migrations).await.unwrap();
        found.into_iter().map(|finding| format!("{}: {}", finding.object, finding.detail)).collect()
    }
}

/// A tenant of a pool.
pub struct PoolTenant {
    pub id: TenantId,
    pub role: RoleName,
    pub client: Client,
}

impl PoolTenant {
    /// The first column of the first row, as text.
    pub async fn one(&self, query: &str) -> String {
        one(&self.client, query).await
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The error that a statement must end with.
    pub async fn refused(&self, sql: &str) -> DbError {
        refused(&self.client, sql).await
    }
}

/// The first column of the first row, as text.
pub async fn one(client: &Client, query: &str) -> String {
    let messages = client.simple_query(query).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let rows = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
        _ => None,
    });
    rows.unwrap_or_else(|| panic!("no row: {query}"))
}

/// The error that a statement must end with.
pub async fn refused(client: &Client, sql: &str) -> DbError {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("it was let through: {sql}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone(),
    }
}

pub fn is_denied(error: &DbError) -> bool {
    *error.code() == SqlState::INSUFFICIENT_PRIVILEGE
}

/// A tenant with a schema of its own in a shared database.
pub struct Silo {
    pub schema: SchemaName,
    pub role: RoleName,
    pub client: Client,
}

/// Makes a schema of a tenant's own in a database, with some versions.
pub async fn schema_silo(database: &TestDatabase, plain: &[PlainMigration]) -> Silo {
    let tenant = new_tenant();
    let schema = SchemaName::of_tenant(tenant);
    let admin = database.connect().await;
    admin.batch_execute(&format!("create schema {schema}")).await.unwrap();
    silo(database, tenant, schema, plain).await
}

/// Makes a database a tenant's own, with some versions.
pub async fn database_silo(database: &TestDatabase, plain: &[PlainMigration]) -> Silo {
    silo(database, new_tenant(), SchemaName::of_silo(), plain).await
}

async fn silo(
    database: &TestDatabase,
    tenant: TenantId,
    schema: SchemaName,
    plain: &[PlainMigration],
) -> Silo {
    let mut admin = database.connect().await;
    let role = RoleName::of_tenant(tenant);
    create_role(&admin, &role).await;
    for migration in plain {
        schema::apply_plain(&mut admin, &schema, migration).await.unwrap();
    }
    schema::grant_rights(&admin, &schema, &role, false).await.unwrap();
    let path =
        format!("alter role {role} in database {} set search_path = {schema}, public", database.name());
    admin.batch_execute(&path).await.unwrap();
    let client = session(database, &role).await;
    Silo { schema, role, client }
}

/// The way to the server of a database, as the rest of the crate has it.
pub fn access(database: &TestDatabase) -> ClusterAccess {
    let connector = Connector::new(&database.url(), None).unwrap();
    ClusterAccess::new("test-a".parse().unwrap(), connector)
}

/// Where the server of the tests is asked for something that is not a database.
pub async fn maintenance() -> Client {
    postgres().await.connect("postgres").await
}
