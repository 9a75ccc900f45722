//! `SET` and `RESET`.

use insula_sql_lexer::Token;

use super::{Course, Follower, Span, Stage};
use crate::effects::Pin;
use crate::names::Setting;

/// For whom a setting is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Session,
    Transaction,
    /// It is reset.
    Default,
}

/// What the first word of `SET` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Setting(Setting),
    /// A name with a dot.
    Custom,
    Local,
    Session,
    /// `TRANSACTION` or `CONSTRAINTS`, for the transaction alone.
    Transaction,
}

impl Course {
    pub(super) fn change(&mut self, scope: Scope, setting: Setting) {
        match (setting, scope) {
            // The numbers that follow outlive the transaction.
            (Setting::Seed, Scope::Session | Scope::Transaction) => self.found.pin(Pin::Seed),
            // A table made with such a path does, too.
            (Setting::Path, Scope::Session | Scope::Transaction) => self.is_path = true,
            (Setting::Called, Scope::Session) => self.found.resets = true,
            _ => {}
        }
        self.found.settings |= scope != Scope::Transaction;
        let is_read_by = matches!(setting, Setting::ReadBy | Setting::Called);
        self.found.reads_otherwise |= scope == Scope::Transaction && is_read_by;
    }
}

impl Follower<'_> {
    /// `SET` and `RESET` go on.
    pub(super) fn set(&mut self, course: &mut Course, token: &Token, place: usize, word: &[u8]) -> Stage {
        match course.stage {
            Stage::SetName(scope, _, span) if *token == Token::Symbol(b'.') => Stage::SetDot(scope, span),
            Stage::SetName(Scope::Session, First::Local, _) => {
                self.set_name(Scope::Transaction, token, place)
            }
            Stage::SetName(Scope::Session, First::Session, _) if word == b"authorization" => {
                course.found.sets_anything();
                Stage::Role
            }
            Stage::SetName(Scope::Session, First::Session, _) => self.set_name(Scope::Session, token, place),
            Stage::SetName(scope, first, span) => {
                self.settle(course, scope, first, span);
                if scope == Scope::Session && first == First::Setting(Setting::Role) {
                    return Self::role(course, token, word);
                }
                Stage::Rest
            }
            Stage::SetDot(scope, before) => match self.name(token, place) {
                Some((_, span)) => Stage::SetName(scope, First::Custom, Span { end: span.end, ..before }),
                None => Stage::Rest,
            },
            Stage::Role => Self::role(course, token, word),
            Stage::Set(scope) => self.set_name(scope, token, place),
            _ => Stage::Rest,
        }
    }

    fn set_name(&self, scope: Scope, token: &Token, place: usize) -> Stage {
        let Some((name, span)) = self.name(token, place) else { return Stage::Rest };
        let is_word = matches!(token, Token::Word(_));
        let first = match name {
            b"local" if is_word && scope == Scope::Session => First::Local,
            b"session" if is_word && scope == Scope::Session => First::Session,
            b"transaction" | b"constraints" if is_word => First::Transaction,
            // A quoted name may have its dot in it; and unseen it may be any.
            _ if !is_word && (name.contains(&b'.') || self.text.is_none()) => First::Custom,
            _ => First::Setting(Setting::of(name)),
        };
        Stage::SetName(scope, first, span)
    }

    /// The name of the setting has ended.
    pub(super) fn settle(&mut self, course: &mut Course, scope: Scope, first: First, span: Span) {
        match first {
            First::Setting(setting) => course.change(scope, setting),
            First::Custom => {
                course.change(scope, Setting::Plain);
                if scope != Scope::Transaction || self.text.is_none() {
                    self.keep(course, self.written(span));
                }
            }
            First::Local | First::Session | First::Transaction => {}
        }
    }

    /// What comes behind `SET ROLE`. Going back to one's own is harmless.
    fn role(course: &mut Course, token: &Token, word: &[u8]) -> Stage {
        match (token, word) {
            (Token::Symbol(b'='), _) | (_, b"to") => Stage::Role,
            (_, b"none" | b"default") => Stage::Rest,
            _ => {
                course.found.pin(Pin::Role);
                Stage::Rest
            }
        }
    }
}
