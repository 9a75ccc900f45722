//! Why a statement is not taken: where it stands, what kind of problem it is,
//! and a reason that tells its author what to do instead.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident, $word:literal;)*) => {
        /// What kind of problem a refusal is about. The words are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum RefusalKind {
            $($(#[$doc])* $variant,)*
        }

        impl RefusalKind {
            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// PostgreSQL's grammar does not know the text.
    SyntaxError, "syntax_error";
    /// The statement is nested too deeply to be read.
    TooDeep, "too_deep";
    /// Would begin, end or divide the transaction that a version runs in.
    TransactionControl, "transaction_control";
    /// PostgreSQL cannot run it in a transaction.
    OutsideTransaction, "outside_transaction";
    /// Changes who the session is or how it behaves.
    SessionState, "session_state";
    /// Rights and owners are Insula's to give.
    RightsAndOwners, "rights_and_owners";
    /// Names a schema, although the placement decides the schema.
    SchemaName, "schema_name";
    /// Reaches beyond the placement: servers, databases, roles, extensions.
    BeyondPlacement, "beyond_placement";
    /// An extension outside the allow list.
    Extension, "extension";
    /// A kind of statement that a version cannot hold.
    NotSupported, "not_supported";
    /// Takes the name `tenant_id`, which the pool form needs.
    TenantColumn, "tenant_column";
    /// A kind of table that cannot be kept apart in a pool.
    TableKind, "table_kind";
    /// A constraint that cannot be made to hold per tenant.
    Constraint, "constraint";
    /// Row-level security in a pool is Insula's.
    RowSecurity, "row_security";
    /// A function that cannot be proved safe in a pool.
    Function, "function";
    /// A trigger that cannot be proved safe in a pool.
    Trigger, "trigger";
    /// An expression that calls what cannot be proved safe there.
    Expression, "expression";
    /// A sequence or id that all tenants of a pool share.
    Sequence, "sequence";
    /// A data statement that does not fit a pool.
    DataStatement, "data_statement";
    /// Names a thing that the app schema does not have.
    UnknownObject, "unknown_object";
    /// What the blueprint has recorded cannot be written as a statement.
    NotCaptured, "not_captured";
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One statement that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The migration's file name.
    pub file: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The column in the line, in characters, from 1.
    pub column: usize,
    /// The statement, on one line and shortened.
    pub statement: String,
    /// What kind of problem it is.
    pub kind: RefusalKind,
    /// Why, and what to do instead.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)
    }
}

/// Everything in a migration that is not taken, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub struct Refusals(pub Vec<Refusal>);

impl Refusals {
    /// Whether the text is not SQL at all, rather than SQL that is refused.
    #[must_use]
    pub fn is_syntax_error(&self) -> bool {
        self.0.iter().any(|refusal| refusal.kind == RefusalKind::SyntaxError)
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            refusal.fmt(f)?;
        }
        Ok(())
    }
}
