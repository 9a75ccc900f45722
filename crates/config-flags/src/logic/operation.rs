//! The operations that there are, by their names in rules.

/// An operation. What each does is in the specification of JsonLogic, and for
/// the last four in flagd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Var,
    Missing,
    MissingSome,
    If,
    And,
    Or,
    Not,
    Truthy,
    Equal,
    StrictlyEqual,
    Unequal,
    StrictlyUnequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Max,
    Min,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Map,
    Filter,
    Reduce,
    All,
    None,
    Some,
    Merge,
    In,
    Cat,
    Substr,
    Fractional,
    StartsWith,
    EndsWith,
    SemVer,
}

const NAMES: [(&str, Operation); 37] = [
    ("var", Operation::Var),
    ("missing", Operation::Missing),
    ("missing_some", Operation::MissingSome),
    ("if", Operation::If),
    ("and", Operation::And),
    ("or", Operation::Or),
    ("!", Operation::Not),
    ("!!", Operation::Truthy),
    ("==", Operation::Equal),
    ("===", Operation::StrictlyEqual),
    ("!=", Operation::Unequal),
    ("!==", Operation::StrictlyUnequal),
    ("<", Operation::Less),
    ("<=", Operation::LessOrEqual),
    (">", Operation::Greater),
    (">=", Operation::GreaterOrEqual),
    ("max", Operation::Max),
    ("min", Operation::Min),
    ("+", Operation::Add),
    ("-", Operation::Subtract),
    ("*", Operation::Multiply),
    ("/", Operation::Divide),
    ("%", Operation::Modulo),
    ("map", Operation::Map),
    ("filter", Operation::Filter),
    ("reduce", Operation::Reduce),
    ("all", Operation::All),
    ("none", Operation::None),
    ("some", Operation::Some),
    ("merge", Operation::Merge),
    ("in", Operation::In),
    ("cat", Operation::Cat),
    ("substr", Operation::Substr),
    ("fractional", Operation::Fractional),
    ("starts_with", Operation::StartsWith),
    ("ends_with", Operation::EndsWith),
    ("sem_ver", Operation::SemVer),
];

impl Operation {
    /// The operation of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, operation)| *operation)
    }

    /// Whether it can be written with so many arguments. What is computed may
    /// still be too few; then an operation comes to null or false.
    pub(super) const fn takes(self, count: usize, is_bare: bool) -> bool {
        if is_bare {
            return !matches!(
                self,
                Self::Map | Self::Filter | Self::Reduce | Self::All | Self::None | Self::Some
            );
        }
        match self {
            Self::Map | Self::Filter | Self::All | Self::None | Self::Some => count == 2,
            Self::Reduce => count == 3,
            Self::Equal | Self::StrictlyEqual | Self::Unequal | Self::StrictlyUnequal => count == 2,
            Self::StartsWith
            | Self::EndsWith
            | Self::In
            | Self::Divide
            | Self::Modulo
            | Self::MissingSome => count == 2,
            Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => count == 2 || count == 3,
            Self::Substr => count == 2 || count == 3,
            Self::SemVer => count == 3,
            Self::Var => count <= 2,
            Self::Not | Self::Truthy => count == 1,
            Self::Subtract => count == 1 || count == 2,
            Self::Fractional => count >= 1,
            _ => true,
        }
    }
}
