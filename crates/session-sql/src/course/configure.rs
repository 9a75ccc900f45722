//! Calls of `set_config`, and search paths.

use std::borrow::Cow;

use insula_sql_lexer::Token;

use super::setting::Scope;
use super::{Course, Follower};
use crate::effects::Pin;
use crate::names::Setting;
use crate::text;

/// How far a call of `set_config` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    None,
    Named,
    Open,
    /// Behind the string that names the setting, which begins there.
    Setting(usize),
    /// Within the second argument, in so many brackets.
    Value(usize, u32),
    Local(usize),
    True(usize),
}

impl<'t> Follower<'t> {
    /// The setting that the string names which begins there.
    pub(super) fn configured(&self, start: usize) -> Option<Cow<'t, [u8]>> {
        text::string(self.text?, start)
    }

    /// A call of `set_config` goes on.
    pub(super) fn call(&mut self, course: &mut Course, token: &Token, place: usize) {
        use Call::{Local, Named, None, Open, Setting as Name, True, Value};
        course.call = match (course.call, token) {
            (None, _) => None,
            (Named, Token::Symbol(b'(')) => Open,
            (Named, _) => None,
            (Open, Token::Literal) => Name(place),
            (Name(start), Token::Symbol(b',')) if self.configured(start).is_some() => {
                let name = self.configured(start).unwrap_or_default();
                course.is_path |= Setting::of(&name) == Setting::Path;
                Value(start, 0)
            }
            (Open | Name(_), _) => {
                self.hides_setting(course);
                None
            }
            (Value(start, 0), Token::Symbol(b',')) => Local(start),
            (Value(_, 0), Token::Symbol(b')')) => return self.end_call(course),
            (Value(start, depth), Token::Symbol(b'(' | b'[')) => Value(start, depth.saturating_add(1)),
            (Value(start, depth), Token::Symbol(b')' | b']')) => Value(start, depth.saturating_sub(1)),
            (Value(start, depth), _) => Value(start, depth),
            (Local(start), Token::Word(word)) if word.is("true") => True(start),
            (True(start), Token::Symbol(b')')) => {
                let name = self.configured(start).unwrap_or_default();
                course.change(Scope::Transaction, Setting::of(&name));
                None
            }
            (Local(_) | True(_), _) => return self.end_call(course),
        };
    }

    /// A call that is not for the transaction alone.
    pub(super) fn end_call(&mut self, course: &mut Course) {
        match std::mem::replace(&mut course.call, Call::None) {
            Call::None | Call::Named => {}
            Call::Open | Call::Setting(_) => self.hides_setting(course),
            Call::Value(start, _) | Call::Local(start) | Call::True(start) => {
                let name = self.configured(start).unwrap_or_default();
                let setting = Setting::of(&name);
                course.change(Scope::Session, setting);
                course.found.resets = true;
                if setting == Setting::Role {
                    course.found.pin(Pin::Role);
                }
                if name.contains(&b'.') {
                    self.keep(course, Some(&name));
                }
            }
        }
    }

    /// A string of a statement that sets the search path.
    pub(super) fn path(&self, course: &mut Course, place: usize) {
        match self.configured(place) {
            None => course.found.pin(Pin::Unclear),
            Some(path) if path.to_ascii_lowercase().windows(7).any(|name| name == b"pg_temp") => {
                course.found.pin(Pin::TemporaryObject);
            }
            Some(_) => {}
        }
    }
}
