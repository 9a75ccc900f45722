//! The verification itself: what is presented is compared with what the catalog
//! has, and a wrong one takes a place of the throttle.

use std::net::IpAddr;
use std::sync::Arc;

use insula_credentials::{ApiKey, OperatorToken, ScramVerifier, Secret, SecretHash};
use insula_problem::{Code, Problem};

use crate::held::{Holder, Pass};
use crate::throttle::{Attempt, Claim};
use crate::{Access, Credential, refused};

const OPERATOR: &str = "an operator's token: Authorization: Bearer iop_…";
const KEY: &str = "a tenant's API key: Authorization: Bearer isk_…";

impl Access {
    /// The e-mail address of the operator whose credential this is. Looked up
    /// in the catalog each time.
    ///
    /// Only what was presented and is wrong counts as an attempt: a request
    /// without a credential guesses at nothing, and a catalog that is away
    /// proves nothing.
    ///
    /// # Errors
    /// `unauthenticated`, `too_many_attempts`, and where the catalog is away.
    pub async fn operator(&self, credential: &Credential, from: IpAddr) -> Result<String, Problem> {
        let claim = match credential {
            Credential::Token(token) => Claim::token(token.id().as_bytes()),
            Credential::Password { email, .. } => Claim::password(email),
            Credential::Key(_) => return Err(refused(OPERATOR)),
        };
        let attempt = self.throttle.attempt(claim, from, self.clock.now())?;
        let verified = match credential {
            Credential::Token(token) => self.token(token).await.map(|(_, email)| email),
            Credential::Password { email, password } => self.password(email, password, from).await,
            Credential::Key(_) => Err(refused(OPERATOR)),
        };
        self.settle(attempt, &verified);
        verified
    }

    /// Whose key or token this is, for as long as it holds. One that is known
    /// is not looked up again: it is told when it ends (see [`Access::follow`]),
    /// and holds on while the catalog is away. Passwords are looked up, and do
    /// not end.
    ///
    /// # Errors
    /// `unauthenticated`, `too_many_attempts`, and where the catalog is away.
    pub async fn pass(&self, credential: &Credential, from: IpAddr) -> Result<Arc<Pass>, Problem> {
        let (id, claim) = match credential {
            Credential::Password { email, .. } => {
                let operator = self.operator(credential, from).await?;
                debug_assert_eq!(&operator, email);
                return Ok(Arc::new(Pass::unending(Holder::Operator { email: operator })));
            }
            Credential::Token(token) => (token.id(), Claim::token(token.id().as_bytes())),
            Credential::Key(key) => (key.id().as_uuid(), Claim::token(key.id().as_uuid().as_bytes())),
        };
        if let Some((hash, pass)) = self.held.find(id)
            && matches(credential, &hash)
        {
            return Ok(pass);
        }
        // Many come at once where a tenant's clients connect again, also from one
        // address: a place is taken by those alone who were wrong.
        self.throttle.room(claim, from, self.clock.now())?;
        let _turn = self.lookups.acquire().await.map_err(Problem::internal)?;
        if let Some((hash, pass)) = self.held.find(id)
            && matches(credential, &hash)
        {
            return Ok(pass);
        }
        let looked_up = match credential {
            Credential::Key(key) => self.key(key).await,
            Credential::Token(token) => {
                self.token(token).await.map(|(hash, email)| (hash, Holder::Operator { email }))
            }
            Credential::Password { .. } => Err(refused(OPERATOR)),
        };
        match looked_up {
            Ok((hash, holder)) => self.held.keep(id, hash, holder),
            Err(problem) => {
                if problem.code() == Code::Unauthenticated {
                    drop(self.throttle.attempt(claim, from, self.clock.now())?);
                }
                Err(problem)
            }
        }
    }

    fn settle<T>(&self, attempt: Attempt<'_>, verified: &Result<T, Problem>) {
        match verified {
            Ok(_) => attempt.right(self.clock.now()),
            Err(problem) if problem.code() == Code::Unauthenticated => drop(attempt),
            Err(_) => attempt.void(),
        }
    }

    async fn key(&self, key: &ApiKey) -> Result<(SecretHash, Holder), Problem> {
        let stored = self.catalog.client().await?.api_key(key.id()).await?;
        let stored = stored.filter(|stored| stored.revoked_at.is_none()).ok_or_else(|| refused(KEY))?;
        let hash = SecretHash::from_stored(&stored.secret_hash).ok_or_else(|| refused(KEY))?;
        if !key.matches(&hash) {
            return Err(refused(KEY));
        }
        let holder =
            Holder::Key { id: stored.id, tenant: stored.tenant, role: stored.role, path: stored.scope };
        Ok((hash, holder))
    }

    async fn token(&self, token: &OperatorToken) -> Result<(SecretHash, String), Problem> {
        let stored = self.catalog.client().await?.operator_token(token.id()).await?;
        let stored = stored.ok_or_else(|| refused(OPERATOR))?;
        let hash = SecretHash::from_stored(&stored.secret_hash).ok_or_else(|| refused(OPERATOR))?;
        if token.matches(&hash) { Ok((hash, stored.email)) } else { Err(refused(OPERATOR)) }
    }

    /// An unknown operator costs as much time as a wrong password.
    async fn password(&self, email: &str, password: &Secret, from: IpAddr) -> Result<String, Problem> {
        let hashing = self.throttle.hashing(from)?;
        let stored = self.catalog.client().await?.operator_verifier(email).await?;
        let known = stored.is_some();
        let verifier: ScramVerifier = match stored {
            Some(text) => text.parse().map_err(|_| refused(OPERATOR))?,
            None => self.nobody.clone(),
        };
        let password = Secret::new(password.expose().to_owned());
        let matches = tokio::task::spawn_blocking(move || {
            // Held until the hashing is over, also where nobody waits for it any more.
            let _hashing = hashing;
            verifier.verifies(&password)
        })
        .await;
        if known && matches.unwrap_or(false) { Ok(email.to_owned()) } else { Err(refused(OPERATOR)) }
    }
}

fn matches(credential: &Credential, hash: &SecretHash) -> bool {
    match credential {
        Credential::Token(token) => token.matches(hash),
        Credential::Key(key) => key.matches(hash),
        Credential::Password { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use futures_util::future::join_all;
    use insula_catalog::{ApiKeyRecord, Author, Catalog};
    use insula_domain::{ApiKeyId, Clock, SystemClock, TenantId};
    use insula_sql_store::{Connector, PoolSize};
    use insula_testkit::{SeededEntropy, TestDatabase};
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    struct World {
        access: Arc<Access>,
        catalog: Catalog,
        _database: TestDatabase,
    }

    async fn world(wrong_a_minute: u32) -> World {
        let database = TestDatabase::create("access").await;
        let catalog = Catalog::new(Connector::new(&database.url(), None).unwrap(), PoolSize(4));
        catalog.migrate().await.unwrap();
        // What a key refers to is not what is looked at here.
        let client = database.connect().await;
        client.batch_execute("alter table api_keys drop constraint api_keys_tenant_id_fkey").await.unwrap();
        let entropy = SeededEntropy::new(7);
        let access = Access::new(catalog.clone(), wrong_a_minute, Arc::new(SystemClock), &entropy);
        World { access: Arc::new(access), catalog, _database: database }
    }

    impl World {
        async fn add(&self, key: &ApiKey) {
            let mut client = self.catalog.client().await.unwrap();
            let change = client.change(Author::new("test", SystemClock.now())).await.unwrap();
            let record = ApiKeyRecord {
                id: key.id(),
                tenant: TenantId::from(Uuid::from_u128(1)),
                role: "tenant_user".to_owned(),
                scope: Some("/config".to_owned()),
                secret_hash: key.hash().as_bytes().to_vec(),
                created_at: SystemClock.now(),
                revoked_at: None,
            };
            change.add_api_key(&record).await.unwrap();
            change.audit("key.create", None, "key", &serde_json::json!({})).await.unwrap();
            change.commit().await.unwrap();
        }

        async fn revoke(&self, id: ApiKeyId) {
            let mut client = self.catalog.client().await.unwrap();
            let change = client.change(Author::new("test", SystemClock.now())).await.unwrap();
            assert!(change.revoke_api_key(id).await.unwrap());
            change.audit("key.revoke", None, "key", &serde_json::json!({})).await.unwrap();
            change.commit().await.unwrap();
        }

        async fn pass(&self, key: &ApiKey) -> Result<Arc<Pass>, Code> {
            let again = ApiKey::parse(key.to_text().expose()).unwrap();
            self.access.pass(&Credential::Key(again), HERE).await.map_err(|problem| problem.code())
        }
    }

    fn key(id: u128, seed: u64) -> ApiKey {
        ApiKey::generate(ApiKeyId::from(Uuid::from_u128(id)), &SeededEntropy::new(seed))
    }

    #[tokio::test]
    async fn a_key_holds_until_it_is_revoked_and_its_end_is_heard_at_once() {
        let world = world(30).await;
        let (mine, other) = (key(1, 1), key(2, 2));
        world.add(&mine).await;
        world.add(&other).await;
        let stop = CancellationToken::new();
        let (access, until) = (world.access.clone(), stop.clone());
        let following = tokio::spawn(async move { access.follow(until).await });
        let (passed, others) = (world.pass(&mine).await.unwrap(), world.pass(&other).await.unwrap());
        let Holder::Key { tenant, role, path, .. } = &passed.holder else { panic!("a key's") };
        assert_eq!((tenant.as_uuid(), role.as_str()), (Uuid::from_u128(1), "tenant_user"));
        assert_eq!(path.as_deref(), Some("/config"));
        assert!(Arc::ptr_eq(&passed, &world.pass(&mine).await.unwrap()), "known, and not looked up again");
        // The same id with another secret is another's.
        assert_eq!(world.pass(&key(1, 3)).await.unwrap_err(), Code::Unauthenticated);
        world.revoke(mine.id()).await;
        tokio::time::timeout(Duration::from_secs(8), passed.ended().cancelled()).await.unwrap();
        assert_eq!(world.pass(&mine).await.unwrap_err(), Code::Unauthenticated);
        assert!(!others.ended().is_cancelled(), "canary: the other one holds on");
        stop.cancel();
        following.await.unwrap();
    }

    #[tokio::test]
    async fn many_right_keys_from_one_address_are_let_in_and_wrong_ones_shut_it() {
        let world = world(3).await;
        let keys: Vec<ApiKey> = (1..20).map(|number| key(number, number as u64)).collect();
        for key in &keys {
            world.add(key).await;
        }
        let passed = join_all(keys.iter().map(|key| world.pass(key))).await;
        assert!(passed.iter().all(Result::is_ok));
        let mut said = Vec::new();
        for number in 0..5 {
            said.push(world.pass(&key(100 + number, 1)).await.unwrap_err());
        }
        assert_eq!(said[..3], [Code::Unauthenticated; 3]);
        assert_eq!(said[3..], [Code::TooManyAttempts; 2]);
        assert!(world.pass(&keys[0]).await.is_ok(), "who is known is not shut out");
    }
}
