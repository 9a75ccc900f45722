//! Runs the corpus: an attempt at a time, each in a session of its own, with
//! the victim in a transaction meanwhile and asked afterwards.

use std::sync::Arc;

use insula_domain::Entropy;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::attempt::{Attempt, How, Left, Start, Want};
use crate::corpus;
use crate::ground::{Ground, SetupError, survey};
use crate::judge::{self, breach, is_wrong, says_nothing, shortened};
use crate::session::{Answer, Gone, Login, Session};

/// One of the two tenants.
#[derive(Clone)]
pub struct Party {
    /// The whole URL of one of its logins; without TLS, or bound to the front's
    /// certificate.
    pub url: Zeroizing<String>,
    /// Its short name.
    pub slug: String,
    /// Its id.
    pub id: String,
    /// The role as which its sessions run.
    pub role: String,
    /// The schema of its tables.
    pub schema: String,
    /// The database of its tables.
    pub database: String,
}

impl std::fmt::Debug for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Party({})", self.slug)
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who tries.
    pub attacker: Party,
    /// Whose isolation is tried.
    pub victim: Party,
    /// One group or one attempt alone.
    pub only: Option<String>,
    /// The table of the application to use; else the first that fits.
    pub table: Option<String>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It came to nothing.
    Held,
    /// It reached the victim.
    Breached,
    /// It could not be made, so that nothing is known.
    CouldNotBeTried,
}

impl Verdict {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Breached => "breached",
            Self::CouldNotBeTried => "could_not_be_tried",
        }
    }
}

/// An attempt, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Its group.
    pub group: &'static str,
    /// What it tried.
    pub tried: &'static str,
    /// What the attacker saw, short.
    pub saw: String,
    /// What that means.
    pub verdict: Verdict,
    /// Why, where it did not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What an attempt came to, before the victim is asked.
#[derive(Debug)]
pub(crate) struct Finding {
    pub saw: String,
    pub verdict: Verdict,
    pub why: Option<String>,
}

impl Finding {
    pub fn held(saw: impl Into<String>) -> Self {
        Self { saw: shortened(&saw.into()), verdict: Verdict::Held, why: None }
    }

    pub fn breached(saw: impl Into<String>, why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Breached, why: Some(shortened(&why.into())), ..Self::held(saw) }
    }

    pub fn untried(why: impl Into<String>) -> Self {
        let why = Some(shortened(&why.into()));
        Self { saw: "nothing".to_owned(), verdict: Verdict::CouldNotBeTried, why }
    }

    /// Of answers.
    pub fn of(want: Want, answers: &[judge::Result], ground: &Ground) -> Self {
        if breach(want, answers, ground).is_none() && is_wrong(answers) {
            let saw = judge::saw(answers);
            return Self { saw, ..Self::untried("PostgreSQL does not understand a text of it") };
        }
        Self::of_crafted(want, answers, ground)
    }

    /// Of answers to bytes that need not be understood.
    pub fn of_crafted(want: Want, answers: &[judge::Result], ground: &Ground) -> Self {
        let saw = judge::saw(answers);
        if let Some(why) = breach(want, answers, ground) {
            return Self::breached(saw, why);
        }
        if let Some(Err(Gone::Silent)) = answers.last() {
            return Self { saw, ..Self::untried("there was no answer in time") };
        }
        if want == Want::Itself && says_nothing(answers) {
            return Self { saw, ..Self::untried("nobody said who the session is, and nothing was refused") };
        }
        Self::held(saw)
    }
}

/// Where attempts are made.
pub(crate) struct Field {
    pub ground: Ground,
    pub attacker: Login,
    pub victim: Login,
    /// The victim's session, in a transaction.
    pub witness: Session,
    /// The victim's rows, as they were.
    digest: Option<String>,
}

/// Runs the corpus, or what the plan names of it, and tells each outcome as it
/// comes.
///
/// # Errors
/// Where it cannot begin. What fails on the way is an outcome.
pub async fn run(
    plan: &Plan,
    entropy: Arc<dyn Entropy>,
    mut tell: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, SetupError> {
    let attempts = corpus::named(plan.only.as_deref());
    if attempts.is_empty() {
        return Err(SetupError::UnknownName(plan.only.clone().unwrap_or_default()));
    }
    let mut field = Field::enter(plan, entropy).await?;
    let mut outcomes = Vec::with_capacity(attempts.len());
    for (group, attempt) in attempts {
        let Finding { saw, verdict, why } = field.make(attempt).await;
        let outcome = Outcome { name: attempt.name, group, tried: attempt.tries, saw, verdict, why };
        tell(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

impl Field {
    async fn enter(plan: &Plan, entropy: Arc<dyn Entropy>) -> Result<Self, SetupError> {
        let mut random = [0; 8];
        entropy.fill(&mut random);
        let token = format!("insula-attack-{:016x}", u64::from_be_bytes(random));
        let login = |party: &Party| {
            Login::new(&party.url, Arc::clone(&entropy))
                .map_err(|gone| SetupError::NoSession { who: party.slug.clone(), why: gone.to_string() })
        };
        let (attacker, victim) = (login(&plan.attacker)?, login(&plan.victim)?);
        let parties = (&plan.attacker, &plan.victim);
        let (ground, witness) = survey((&attacker, &victim), parties, plan.table.as_deref(), &token).await?;
        let mut field = Self { ground, attacker, victim, witness, digest: None };
        let no_session = |why: String| SetupError::NoSession { who: plan.victim.slug.clone(), why };
        field.stand().await.map_err(|gone| no_session(gone.to_string()))?;
        field.look(false).await.map_err(no_session)?;
        Ok(field)
    }

    async fn make(&mut self, attempt: &Attempt) -> Finding {
        if let Err(why) = self.stand().await {
            return Finding::untried(format!("the victim's session: {why}"));
        }
        let finding = match attempt.how {
            How::Sql(want, statements) => self.statements(want, statements).await,
            How::Startup(want, start, statements) => self.startup(want, start, statements).await,
            How::Knock(bytes) => self.knock(bytes).await,
            How::Bytes(want, bytes) => self.bytes(want, bytes).await,
            How::Leave(left) => self.leave(left).await,
            How::Steps(routine) => routine(self).await.unwrap_or_else(untried_for),
        };
        match self.look(matches!(attempt.how, How::Sql(Want::GoesOn, _))).await {
            Err(why) if finding.verdict != Verdict::Breached => Finding::breached(finding.saw, why),
            _ => finding,
        }
    }

    /// The victim begins a transaction, in which others could find it.
    async fn stand(&mut self) -> Result<(), Gone> {
        let word = self.ground.word("token").to_owned();
        let begin = format!("begin; select pg_catalog.pg_backend_pid(), '{word}'");
        let begun = match self.witness.ask(&begin).await {
            // The look behind the attempt that ended it has told of it.
            Err(Gone::Closed | Gone::Refused(..)) => {
                let named = [("application_name".to_owned(), word)];
                self.witness = self.victim.session_with(&named, None).await?;
                self.witness.ask(&begin).await?
            }
            begun => begun?,
        };
        let pid = begun.values().next().ok_or_else(|| Gone::Broken("no process number came".to_owned()))?;
        self.ground.know("pid", pid.to_owned());
        Ok(())
    }

    /// Whether all is as it was with the victim; why not.
    async fn look(&mut self, locks: bool) -> Result<(), String> {
        let mut sql = String::new();
        if locks {
            sql.push_str(&self.ground.lock_row);
            sql.push(';');
        }
        sql.push_str(&self.ground.digest);
        let seen =
            self.witness.ask(&sql).await.map_err(|gone| format!("the victim's session ended: {gone}"))?;
        let ended = self.witness.ask("rollback").await;
        if let Some((code, text)) = seen.errors.first() {
            return Err(format!("the victim was stopped: {code} {text}"));
        }
        ended.map_err(|gone| format!("the victim's session ended: {gone}"))?;
        let digest = seen.values().skip(usize::from(locks)).collect::<Vec<_>>().join(" ");
        match self.digest.replace(digest.clone()) {
            Some(before) if before != digest => Err("the victim's rows are not what they were".to_owned()),
            _ => Ok(()),
        }
    }

    fn filled(&self, texts: &[&str]) -> Result<Vec<String>, Finding> {
        let filled: Result<Vec<_>, _> = texts.iter().map(|text| self.ground.fill(text)).collect();
        filled
            .map_err(|word| Finding::untried(format!("{}: nothing is known for {{{word}}}", missing(&word))))
    }

    async fn statements(&mut self, want: Want, statements: &[&str]) -> Finding {
        let filled = match self.filled(statements) {
            Ok(filled) => filled,
            Err(finding) => return finding,
        };
        let mut session = match self.attacker.session().await {
            Ok(session) => session,
            Err(gone) => return untried_for(gone),
        };
        self.in_session(&mut session, want, &filled).await
    }

    /// Runs statements, then asks who the session is.
    async fn in_session(&mut self, session: &mut Session, want: Want, statements: &[String]) -> Finding {
        let mut answers = Vec::new();
        for statement in statements {
            let rows = statement.split_once("from stdin;").map(|(_, rows)| rows.to_owned());
            let text = if rows.is_some() { statement.split(';').next().unwrap_or("") } else { statement };
            let answer = session.ask_with(text, rows.as_deref().map(str::as_bytes)).await;
            let has_ended = answer.is_err();
            answers.push(answer);
            if has_ended {
                break;
            }
        }
        if want == Want::GoesOn {
            // The victim is asked before the transaction ends.
            if let Err(why) = self.look(true).await {
                return Finding::breached(judge::saw(&answers), why);
            }
            if let Err(gone) = self.stand().await {
                return untried_for(gone);
            }
        }
        let finding = Finding::of(want, &answers, &self.ground);
        if finding.verdict == Verdict::Breached || answers.last().is_some_and(Result::is_err) {
            return finding;
        }
        let _ = session.ask("rollback").await;
        let whoever = [session.ask("select session_user, current_user").await];
        match breach(Want::Itself, &whoever, &self.ground) {
            Some(why) => Finding::breached(finding.saw, why),
            None => finding,
        }
    }

    async fn startup(&mut self, want: Want, start: Start, statements: &[&str]) -> Finding {
        let mut parameters = Vec::new();
        for (name, value) in start.parameters {
            match self.ground.fill(value) {
                Ok(value) => parameters.push(((*name).to_owned(), value)),
                Err(word) => return Finding::untried(format!("nothing is known for {{{word}}}")),
            }
        }
        let secret = start.secret.map(|secret| self.ground.fill(secret).unwrap_or_default());
        let statements = match self.filled(statements) {
            Ok(statements) => statements,
            Err(finding) => return finding,
        };
        match self.attacker.session_with(&parameters, secret.as_deref()).await {
            Ok(mut session) => {
                if want == Want::Refused && statements.is_empty() {
                    return Finding::breached("a session", "the session was let in");
                }
                self.in_session(&mut session, want, &statements).await
            }
            Err(gone @ (Gone::Silent | Gone::Unreachable(_))) => untried_for(gone),
            Err(gone) => Finding::held(gone.to_string()),
        }
    }

    async fn knock(&mut self, bytes: fn(&Ground) -> Vec<u8>) -> Finding {
        let mut session = match self.attacker.knock().await {
            Ok(session) => session,
            Err(gone) => return untried_for(gone),
        };
        let answers = [session.say_alone(&bytes(&self.ground)).await];
        Finding::of(Want::Nothing, &answers, &self.ground)
    }

    async fn bytes(&mut self, want: Want, bytes: fn(&Ground) -> Vec<u8>) -> Finding {
        let mut session = match self.attacker.session().await {
            Ok(session) => session,
            Err(gone) => return untried_for(gone),
        };
        let answers = [session.say_and_ask(&bytes(&self.ground)).await];
        Finding::of_crafted(want, &answers, &self.ground)
    }

    /// Leaves something, and looks for it as another client of the same tenant
    /// and as the victim, while the first client is there and when it is gone.
    async fn leave(&mut self, left: Left) -> Finding {
        self.leave_and_look(left).await.unwrap_or_else(untried_for)
    }

    async fn leave_and_look(&mut self, left: Left) -> Result<Finding, Gone> {
        let statements = match self.filled(left.leave) {
            Ok(statements) => statements,
            Err(finding) => return Ok(finding),
        };
        let (look, trace) = match self.filled(&[left.look, left.trace]) {
            Ok(mut filled) => (filled.remove(0), filled.remove(0)),
            Err(finding) => return Ok(finding),
        };
        let mut first = self.attacker.session().await?;
        for statement in &statements {
            if first.ask(statement).await.is_err() {
                break;
            }
        }
        let mut seen = Vec::new();
        let mut second = self.attacker.session().await?;
        seen.push(("another client of the same tenant", second.ask(&look).await?));
        let mut other = self.victim.session().await?;
        seen.push(("the victim", other.ask(&look).await?));
        drop(first);
        let mut third = self.attacker.session().await?;
        seen.push(("the next client of the same tenant", third.ask(&look).await?));
        seen.push(("the victim afterwards", other.ask(&look).await?));
        let found = seen.iter().find(|(_, answer)| holds(answer, &trace));
        let who = found.map(|(who, _)| format!("{who} found it"));
        let answers: Vec<judge::Result> = seen.into_iter().map(|(_, answer)| Ok(answer)).collect();
        let saw = judge::saw(&answers);
        Ok(who.map_or_else(|| Finding::held(saw.clone()), |why| Finding::breached(saw.clone(), why)))
    }
}

fn holds(answer: &Answer, trace: &str) -> bool {
    let text = String::from_utf8_lossy(&answer.raw);
    text.contains(trace)
}

fn missing(word: &str) -> &'static str {
    match word {
        "values" | "their_key" | "key" => "the victim has no row with a key of its own in the table",
        "child" | "child_column" => "no table in which the attacker has rows refers to the table",
        _ => "not in this pair",
    }
}

/// A session that could not be had says nothing about isolation.
fn untried_for(gone: Gone) -> Finding {
    Finding::untried(gone.to_string())
}
