//! Whether a tenant is to come, and a place for it: what is left there of an
//! earlier stay goes before anything is put there.

use insula_problem::Problem;

use super::Transfer;

const HOME: &str = "select state, epoch from config_homes where scope = $1";

/// A stay of before ends here, and its notes go; where it is awaited already with
/// this epoch, what has come stays.
const AWAIT: &str = "insert into config_homes as h (scope, state, since, epoch, at, reads_until)
    values ($1, 'arriving', 0, $2, $3, -1)
    on conflict (scope) do update
    set state = 'arriving', epoch = $2, at = $3, reads_until = -1, requests_until = 0
    where h.state <> 'open' and h.epoch < $2 or h.state = 'leaving' and h.epoch = $2";

const IS_CLEAR: &str = "select reads_until >= 0 from config_homes
    where scope = $1 and state = 'arriving' and epoch = $2";

macro_rules! clear {
    ($table:literal) => {
        concat!(
            "with home as materialized (
                select 1 from config_homes
                where scope = $1 and state = 'arriving' and epoch = $2 and reads_until = -1 for share
             ), gone as (
                delete from ",
            $table,
            " t using home where t.ctid = any(array(select p.ctid from ",
            $table,
            " p where p.scope = $1 limit $3)) returning 1
             )
             select count(*) from gone"
        )
    };
}

const CLEAR: [&str; 2] = [clear!("config_reads"), clear!("config_requests")];

const CLEARED: &str = "update config_homes set reads_until = 0
    where scope = $1 and state = 'arriving' and epoch = $2 and reads_until = -1";

/// How much is removed at once.
const AT_ONCE: i64 = 5_000;

impl Transfer<'_> {
    /// Whether it is still to come: not where it has come with this epoch or a
    /// later one.
    pub(super) async fn is_due(&self) -> Result<bool, Problem> {
        let rows = self.to.chores.query(HOME, &[&self.scope]).await?;
        let is_due = |state: &str, epoch: i64| {
            let is_coming = state == "arriving" || state == "leaving";
            state != "open" && epoch < self.epoch || is_coming && epoch == self.epoch
        };
        Ok(rows.first().is_none_or(|row| is_due(row.get(0), row.get(1))))
    }

    /// Whether it is read and written where it is to come from.
    pub(super) async fn is_there(&self) -> Result<bool, Problem> {
        let rows = self.from.chores.query(HOME, &[&self.scope]).await?;
        Ok(rows
            .first()
            .is_some_and(|row| row.get::<_, &str>(0) == "open" && row.get::<_, i64>(1) < self.epoch))
    }

    /// Has a place for it.
    pub(super) async fn await_it(&self) -> Result<(), Problem> {
        let (to, scope, epoch) = (self.to, &self.scope, &self.epoch);
        to.chores.query(AWAIT, &[scope, epoch, &to.ambient.clock.now()]).await?;
        let known = to.chores.query(IS_CLEAR, &[scope, epoch]).await?;
        let is_clear: bool = known.first().ok_or_else(Self::late)?.get(0);
        if is_clear {
            return Ok(());
        }
        for sql in CLEAR {
            loop {
                let rows = to.chores.query(sql, &[scope, epoch, &AT_ONCE]).await?;
                if rows.first().is_none_or(|row| row.get::<_, i64>(0) == 0) {
                    break;
                }
            }
        }
        to.chores.query(CLEARED, &[scope, epoch]).await.map(drop)
    }
}
