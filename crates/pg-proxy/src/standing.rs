//! Whether a session may go on after its tenant's route or its login changed.
//! Pure: the same facts and the same snapshot give the same verdict.

use insula_domain::{LoginId, TenantId, TenantStatus};
use insula_problem::Code;
use insula_route_map::Snapshot;

use crate::refusal::Refusal;

/// What a session rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The login; `None` for a session that came with a context token.
    pub login: Option<LoginId>,
    /// The tenant that the credential is of.
    pub credential_tenant: TenantId,
    /// The tenant as which the session runs: that one, or one below it.
    pub tenant: TenantId,
    /// Whether the session may only read.
    pub read_only: bool,
}

/// What becomes of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    GoesOn,
    /// It ends as soon as nothing is under way and no transaction is open.
    EndsWhenIdle(Refusal),
    /// It ends at once, in the middle of a transaction too.
    EndsNow(Refusal),
}

impl Standing {
    /// The verdict in a state of the map.
    pub fn judge(&self, snapshot: &Snapshot) -> Verdict {
        if let Some(ended) = self.ended_tenant(snapshot) {
            return Verdict::EndsNow(ended);
        }
        let when_idle = |code, why| Verdict::EndsWhenIdle(Refusal::ended(code, why));
        if let Some(id) = self.login {
            let Some(login) = snapshot.login_by_id(id) else {
                return when_idle(Code::LoginRefused, "its login was removed");
            };
            let reaches = login.descendants || self.tenant == self.credential_tenant;
            if login.tenant != self.credential_tenant || login.read_only != self.read_only || !reaches {
                return when_idle(Code::LoginRefused, "its login's rights have changed");
            }
        }
        if !snapshot.is_within(self.tenant, self.credential_tenant) {
            return when_idle(Code::UnknownScope, "its database scope is gone");
        }
        if snapshot.route(self.tenant).is_none_or(|route| route.placement.is_none()) {
            return when_idle(Code::Unavailable, "the tenant has no placement any more");
        }
        Verdict::GoesOn
    }

    fn ended_tenant(&self, snapshot: &Snapshot) -> Option<Refusal> {
        [self.credential_tenant, self.tenant].into_iter().find_map(|tenant| {
            let (slug, status) = match snapshot.route(tenant) {
                Some(route) => (Some(&route.slug), route.status),
                None => (None, TenantStatus::Deleted),
            };
            let code = match status {
                TenantStatus::Active => return None,
                TenantStatus::Suspended => Code::TenantSuspended,
                _ => Code::TenantStatusConflict,
            };
            let name = slug.map_or_else(String::new, |slug| format!(" \"{slug}\""));
            Some(Refusal::ended(code, format!("the tenant{name} is {status}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use insula_domain::{DatabaseTerms, Epoch, Isolation, Placement};
    use insula_route_map::{LoginRoute, Route, RouteMap, Rows, Update};
    use uuid::Uuid;

    use super::*;

    fn tenant(number: u128) -> TenantId {
        TenantId::from(Uuid::from_u128(number))
    }

    /// A parent (1) with a child (2), and a login of the parent.
    fn rows() -> Rows {
        let route = |number: u128, slug: &str, parent: Option<u128>| Route {
            tenant: tenant(number),
            slug: slug.parse().unwrap(),
            parent: parent.map(tenant),
            tier: "free".parse().unwrap(),
            region: "us-east-1".parse().unwrap(),
            status: TenantStatus::Active,
            placement: Some(Placement::new(
                tenant(number),
                Isolation::Pool,
                "c".parse().unwrap(),
                Epoch::FIRST,
            )),
            role_key_generation: 1,
            max_connections: None,
            terms: DatabaseTerms::default(),
            hold: None,
            is_narrowed: false,
            goes_to: None,
            revision: 1,
        };
        let login = LoginRoute {
            id: LoginId::from(Uuid::from_u128(9)),
            name: "parent".parse().unwrap(),
            tenant: tenant(1),
            verifier: String::new(),
            read_only: false,
            descendants: true,
            max_sessions: None,
            pool_mode: None,
            revision: 1,
        };
        Rows {
            tenants: vec![route(1, "parent", None), route(2, "child", Some(1)), route(3, "other", None)],
            logins: vec![login],
            ..Rows::default()
        }
    }

    fn standing(of: u128) -> Standing {
        Standing {
            login: Some(LoginId::from(Uuid::from_u128(9))),
            credential_tenant: tenant(1),
            tenant: tenant(of),
            read_only: false,
        }
    }

    fn judge(standing: &Standing, change: impl FnOnce(&mut Rows)) -> Verdict {
        let (map, mut rows) = (RouteMap::new(), rows());
        change(&mut rows);
        map.apply(Update::Whole { revision: 1, rows });
        standing.judge(&map.snapshot())
    }

    fn code(verdict: Verdict) -> (&'static str, &'static str) {
        match verdict {
            Verdict::GoesOn => ("goes on", ""),
            Verdict::EndsWhenIdle(refusal) => ("when idle", refusal.code.as_str()),
            Verdict::EndsNow(refusal) => ("now", refusal.code.as_str()),
        }
    }

    #[test]
    fn an_unchanged_session_goes_on_and_so_does_one_with_a_new_secret() {
        for of in [1, 2] {
            assert_eq!(judge(&standing(of), |_| ()), Verdict::GoesOn);
            assert_eq!(judge(&standing(of), |rows| rows.logins[0].verifier = "new".into()), Verdict::GoesOn);
            assert_eq!(
                judge(&standing(of), |rows| rows.tenants[0].slug = "x".parse().unwrap()),
                Verdict::GoesOn
            );
        }
        assert_eq!(
            judge(&Standing { login: None, ..standing(1) }, |rows| rows.logins.clear()),
            Verdict::GoesOn
        );
    }

    #[test]
    fn a_session_goes_on_where_its_tenant_goes() {
        let moves = |rows: &mut Rows| rows.tenants[1].placement.as_mut().unwrap().epoch = Epoch(2);
        assert_eq!(judge(&standing(2), moves), Verdict::GoesOn);
    }

    #[test]
    fn a_suspended_tenant_ends_its_sessions_at_once() {
        let suspend =
            |index: usize| move |rows: &mut Rows| rows.tenants[index].status = TenantStatus::Suspended;
        assert_eq!(code(judge(&standing(1), suspend(0))), ("now", "tenant_suspended"));
        assert_eq!(code(judge(&standing(2), suspend(1))), ("now", "tenant_suspended"));
        assert_eq!(
            code(judge(&standing(2), suspend(0))),
            ("now", "tenant_suspended"),
            "the login's own tenant"
        );
        assert_eq!(judge(&standing(1), suspend(1)), Verdict::GoesOn, "a child is not its parent");
        let gone = judge(&standing(1), |rows| rows.tenants.clear());
        assert_eq!(code(gone), ("now", "tenant_status_conflict"));
    }

    #[test]
    fn other_changes_end_a_session_when_it_is_idle() {
        type Change = fn(&mut Rows);
        let changes: [(Change, &str); 5] = [
            (|rows| rows.logins.clear(), "login_refused"),
            (|rows| rows.logins[0].read_only = true, "login_refused"),
            (|rows| rows.logins[0].descendants = false, "login_refused"),
            (|rows| rows.tenants[1].parent = Some(tenant(3)), "unknown_scope"),
            (|rows| rows.tenants[1].placement = None, "unavailable"),
        ];
        for (change, expected) in changes {
            assert_eq!(code(judge(&standing(2), change)), ("when idle", expected));
        }
    }
}
