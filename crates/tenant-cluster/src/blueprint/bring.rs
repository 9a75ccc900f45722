//! Bringing versions to the blueprint, and trying them beside it.

use std::collections::BTreeSet;

use insula_app_schema::{Migration, PlainMigration};
use insula_domain::DatabaseName;
use insula_problem::{Code, Problem};

use super::place::{make_database, open_public};
use super::{Blueprint, CHECK_DATABASE, Contents, contents, record};
use crate::schema::apply_as_owner;
use crate::spaces::drop_database;
use crate::{db, literal};

impl Blueprint<'_> {
    /// Brings the versions that the blueprint does not have, without recording
    /// them. Call [`Blueprint::take`] before.
    ///
    /// # Errors
    /// `blueprint_ahead` where there are changes that were not captured and a
    /// version would come after them; `migration_failed` where one fails.
    pub async fn bring(&self, versions: &[PlainMigration]) -> Result<(), Problem> {
        let there: BTreeSet<_> = self.versions().await?.into_iter().map(|version| version.version).collect();
        for migration in versions.iter().filter(|migration| !there.contains(&migration.version())) {
            self.refuse_if_ahead(migration.migration()).await?;
            self.bring_one(migration).await?;
        }
        Ok(())
    }

    /// Refuses a version that was not captured, where changes were not captured.
    ///
    /// # Errors
    /// `blueprint_ahead` with the first of them.
    pub async fn refuse_if_ahead(&self, migration: &Migration) -> Result<(), Problem> {
        let Some(first) = self.first_uncaptured().await? else { return Ok(()) };
        let detail = format!(
            "{} was not captured from the blueprint, and the blueprint has changes that were not captured, the first \
             of them: {first}",
            migration.file_name()
        );
        Err(Problem::new(Code::BlueprintAhead, detail))
    }

    async fn bring_one(&self, migration: &PlainMigration) -> Result<(), Problem> {
        let row = self
            .admin
            .query_one("select replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')", &[])
            .await
            .map_err(db)?;
        let token: String = row.get(0);
        let applied = migration.applied();
        self.admin
            .execute(
                "insert into insula_capture.tickets (token, version, name, sha256, sql)
                 values (encode(sha256(convert_to($1, 'UTF8')), 'hex'), $2, $3, $4, $5)",
                &[
                    &token,
                    &applied.version.0,
                    &migration.migration().name,
                    &applied.sha256,
                    &migration.migration().sql,
                ],
            )
            .await
            .map_err(db)?;
        let mut session = self.session(&super::database()).await?;
        let adopt = format!("select insula_capture.adopt({})", literal(&token));
        let brought = apply_as_owner(&mut session, &[adopt], migration).await;
        self.admin.batch_execute("delete from insula_capture.tickets").await.map_err(db)?;
        brought?;
        record::note_sequences(&self.admin, applied.version).await
    }

    /// What versions alone make, in a database beside the blueprint that is
    /// removed again. Call [`Blueprint::take`] before.
    ///
    /// # Errors
    /// `migration_failed` where one fails.
    pub async fn try_versions(&self, versions: &[PlainMigration]) -> Result<Contents, Problem> {
        let name = DatabaseName::from_stored(CHECK_DATABASE.to_owned());
        let maintenance = self.access.maintenance().await?;
        drop_database(&maintenance, &name).await?;
        make_database(&maintenance, &name).await?;
        open_public(&*self.access.own(&name).await?).await?;
        let tried = async {
            let mut session = self.session(&name).await?;
            for migration in versions {
                apply_as_owner(&mut session, &[], migration).await?;
            }
            contents(&session).await
        };
        let tried = tried.await;
        drop_database(&maintenance, &name).await?;
        tried
    }

    /// What is in the blueprint now.
    ///
    /// # Errors
    /// Where the cluster is away.
    pub async fn contents(&self) -> Result<Contents, Problem> {
        contents(&*self.session(&super::database()).await?).await
    }
}
