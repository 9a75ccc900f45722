//! Follows one way of reading a text, statement by statement.

mod block;
mod configure;
mod setting;

use insula_sql_lexer::{Follow, Token};

use crate::effects::{Effects, Pin};
use crate::names::Known;
use crate::temporary::Before;
use crate::text;
use configure::Call;
use setting::{First, Scope};

/// What one way of reading has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub pin: Option<Pin>,
    pub settings: bool,
    pub resets: bool,
    pub drops: bool,
    pub sequences: bool,
    pub definitions: bool,
    pub reads_otherwise: bool,
}

impl Found {
    /// Takes what another has found too.
    pub fn add(&mut self, other: Self) {
        self.pin = self.pin.or(other.pin);
        self.settings |= other.settings;
        self.resets |= other.resets;
        self.drops |= other.drops;
        self.sequences |= other.sequences;
        self.definitions |= other.definitions;
        self.reads_otherwise |= other.reads_otherwise;
    }

    /// Settings may be other ones, also those that the session began with.
    pub fn sets_anything(&mut self) {
        (self.settings, self.resets) = (true, true);
    }

    pub fn pin(&mut self, pin: Pin) {
        self.pin = self.pin.or(Some(pin));
    }

    /// Together with the names of custom settings; `None` where there were too
    /// many. Some may be of readings that were dropped.
    pub fn into_effects(mut self, custom_settings: Option<Vec<String>>) -> Effects {
        let custom_settings = if self.settings { custom_settings } else { Some(Vec::new()) };
        if custom_settings.is_none() {
            self.pin(Pin::UnknownSetting);
        }
        Effects {
            pin: self.pin,
            changes_settings: self.settings,
            resets_settings: self.resets,
            custom_settings: custom_settings.unwrap_or_default(),
            drops_prepared: self.drops,
            deallocates: None,
            reads_sequences: self.sequences,
            changes_definitions: self.definitions,
            reads_otherwise: self.reads_otherwise,
        }
    }
}

/// Where a name stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

/// How far a statement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Set(Scope),
    SetName(Scope, First, Span),
    SetDot(Scope, Span),
    /// Behind `SET ROLE` or `SET SESSION AUTHORIZATION`.
    Role,
    Discard,
    Deallocate,
    /// Behind a `PREPARE` that may be the name itself.
    DeallocatePrepare(Span),
    DeallocateName(Span),
    Prepare,
    PrepareTransaction,
    Declare,
    DeclareWith,
    Explain,
    Do,
    DoLanguage,
    /// Nothing more comes of its words.
    Rest,
}

/// Where one way of reading has come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Course {
    found: Found,
    stage: Stage,
    before: Before,
    call: Call,
    /// Strings of the statement may be a search path.
    is_path: bool,
    /// It is a `SET`.
    sets: bool,
    has_statement: bool,
    has_more: bool,
    deallocated: Option<Span>,
}

impl Course {
    pub fn found(&self) -> Found {
        self.found
    }

    /// That a prepared statement is deallocated: where its name stands, where
    /// nothing else is in the text.
    pub fn deallocated(&self) -> Option<Option<(usize, usize)>> {
        let alone = |span: Span| (!self.has_more).then_some((span.start, span.end));
        self.deallocated.map(alone)
    }
}

/// Follows a text in all its readings.
#[derive(Debug)]
pub(crate) struct Follower<'t> {
    /// None where it is not held.
    text: Option<&'t [u8]>,
    /// It is the body of a `DO` block.
    is_body: bool,
    custom: Vec<String>,
    has_too_many: bool,
    /// The body that was read last: where it begins, and what was found.
    body: Option<(usize, Found)>,
}

impl<'t> Follower<'t> {
    /// Of a text that is held.
    pub fn of(text: &'t [u8]) -> Self {
        Self { text: Some(text), ..Self::of_passing() }
    }

    fn of_body(text: &'t [u8]) -> Self {
        Self { is_body: true, ..Self::of(text) }
    }

    /// Of a text that is read in pieces.
    pub fn of_passing() -> Self {
        Self { text: None, is_body: false, custom: Vec::new(), has_too_many: false, body: None }
    }

    /// The names of custom settings; none where there were too many.
    pub fn into_custom_settings(self) -> Option<Vec<String>> {
        (!self.has_too_many).then_some(self.custom)
    }

    /// Keeps the name of a custom setting, as it is written.
    fn keep(&mut self, course: &mut Course, written: Option<&[u8]>) {
        let name = written.and_then(text::custom_setting);
        match name.filter(|name| name.len() <= Effects::CUSTOM_SETTING_BYTES_MAX) {
            None => course.found.pin(Pin::UnknownSetting),
            Some(name) if self.custom.contains(&name) => {}
            Some(_) if self.custom.len() >= Effects::CUSTOM_SETTINGS_MAX => self.has_too_many = true,
            Some(name) => self.custom.push(name),
        }
    }

    fn written(&self, span: Span) -> Option<&'t [u8]> {
        self.text?.get(span.start..span.end)
    }

    /// The name that a token is: as it is compared, and where it stands.
    fn name<'a>(&self, token: &'a Token, place: usize) -> Option<(&'a [u8], Span)>
    where
        't: 'a,
    {
        let span = |start, end| Span { start, end };
        match token {
            Token::Word(word) => {
                let start = self.text.map_or(place, |text| text::word_start(text, place));
                Some((word.as_bytes().unwrap_or_default(), span(start, place)))
            }
            Token::QuotedName => {
                let Some(text) = self.text else { return Some((b"", span(place, place))) };
                let name = text::quoted(text, place).unwrap_or_default();
                Some((name, span(place.saturating_sub(1), text::quoted_end(text, place))))
            }
            _ => None,
        }
    }

    /// A name, wherever it stands.
    fn known(&self, token: &Token, place: usize) -> Option<Known> {
        match token {
            Token::Word(word) => Known::of(word.as_bytes()?),
            Token::QuotedName => Known::of(text::quoted(self.text?, place)?),
            _ => None,
        }
    }

    fn mind(&mut self, course: &mut Course, known: Known) {
        match known {
            Known::AdvisoryLock => course.found.pin(Pin::AdvisoryLock),
            Known::Dblink => course.found.pin(Pin::Dblink),
            Known::SetSeed => course.found.pin(Pin::Seed),
            Known::ReadsSequence => course.found.sequences = true,
            Known::TemporarySchema => course.found.pin(Pin::TemporaryObject),
            Known::RunsText => self.may_do_anything(course),
            Known::SetConfig if self.text.is_none() => self.hides_setting(course),
            Known::SetConfig => {
                self.end_call(course);
                course.call = Call::Named;
            }
        }
    }

    fn may_do_anything(&self, course: &mut Course) {
        course.found.pin(Pin::Unclear);
        course.found.sets_anything();
        course.found.sequences = true;
    }

    fn hides_setting(&self, course: &mut Course) {
        course.found.pin(Pin::UnknownSetting);
        course.found.sets_anything();
    }

    /// What begins with a word.
    fn head(&self, course: &mut Course, word: &[u8]) -> Option<Stage> {
        let found = &mut course.found;
        Some(match word {
            b"set" => {
                course.sets = true;
                Stage::Set(Scope::Session)
            }
            b"reset" => {
                found.sets_anything();
                Stage::Set(Scope::Default)
            }
            b"discard" => Stage::Discard,
            b"deallocate" => Stage::Deallocate,
            b"declare" => Stage::Declare,
            b"prepare" => Stage::Prepare,
            b"listen" => {
                found.pin(Pin::Listen);
                Stage::Rest
            }
            b"load" => {
                found.pin(Pin::Load);
                Stage::Rest
            }
            b"create" | b"alter" | b"drop" | b"import" => {
                found.definitions = true;
                Stage::Rest
            }
            b"execute" if self.is_body => {
                self.may_do_anything(course);
                Stage::Rest
            }
            b"explain" if !self.is_body => Stage::Explain,
            b"do" if !self.is_body => {
                found.sets_anything();
                found.definitions = true;
                if self.text.is_none() {
                    self.may_do_anything(course);
                }
                Stage::Do
            }
            _ => return None,
        })
    }

    fn stage(&mut self, course: &mut Course, token: &Token, place: usize) -> Stage {
        let word = if let Token::Word(word) = token { word.as_bytes().unwrap_or_default() } else { b"" };
        if word == b"execute" && !self.is_body {
            // A prepared statement, by itself, to be explained or for a table. It
            // may be one that the protocol has made, by the name that it has on
            // the backend.
            self.may_do_anything(course);
        }
        course.found.resets |= course.sets && word == b"default";
        if (course.stage == Stage::Start || self.is_body)
            && let Some(stage) = self.head(course, word)
        {
            return stage;
        }
        match course.stage {
            Stage::Start | Stage::Rest => Stage::Rest,
            Stage::Set(_) | Stage::SetName(..) | Stage::SetDot(..) | Stage::Role => {
                self.set(course, token, place, word)
            }
            Stage::Discard => {
                if word == b"all" {
                    course.found.sets_anything();
                    course.found.drops = true;
                }
                Stage::Rest
            }
            Stage::Deallocate | Stage::DeallocatePrepare(_) if word == b"all" => {
                course.found.drops = true;
                Stage::Rest
            }
            Stage::Deallocate | Stage::DeallocatePrepare(_) => match self.name(token, place) {
                Some((b"prepare", span)) if course.stage == Stage::Deallocate && !word.is_empty() => {
                    Stage::DeallocatePrepare(span)
                }
                Some((_, span)) => Stage::DeallocateName(span),
                None => Stage::Rest,
            },
            Stage::DeallocateName(_) => Stage::Rest,
            Stage::Prepare if word == b"transaction" => Stage::PrepareTransaction,
            Stage::PrepareTransaction if *token == Token::Literal => Stage::Rest,
            Stage::Prepare | Stage::PrepareTransaction => {
                course.found.pin(Pin::SqlPrepare);
                Stage::Rest
            }
            Stage::DeclareWith if word == b"hold" => {
                course.found.pin(Pin::HeldCursor);
                Stage::Rest
            }
            Stage::Declare | Stage::DeclareWith => match word {
                b"with" => Stage::DeclareWith,
                b"for" => Stage::Rest,
                _ => Stage::Declare,
            },
            Stage::Explain => {
                course.found.definitions |= word == b"create";
                Stage::Explain
            }
            Stage::Do => {
                if *token == Token::Literal {
                    self.body(course, place);
                }
                if word == b"language" { Stage::DoLanguage } else { Stage::Do }
            }
            Stage::DoLanguage => {
                let is_ours = match token {
                    Token::Literal => self.configured(place).is_some_and(|name| *name == *b"plpgsql"),
                    _ => self.name(token, place).is_some_and(|(name, _)| name == b"plpgsql"),
                };
                if !is_ours {
                    self.may_do_anything(course);
                }
                Stage::Do
            }
        }
    }
}

impl Follow for Follower<'_> {
    type Course = Course;

    fn begin(&self) -> Course {
        Course {
            found: Found::default(),
            stage: Stage::Start,
            before: Before::Nothing,
            call: Call::None,
            is_path: false,
            sets: false,
            has_statement: false,
            has_more: false,
            deallocated: None,
        }
    }

    fn token(&mut self, course: &mut Course, token: &Token, place: usize) {
        if course.before == Before::Nothing {
            course.has_more |= course.has_statement;
            course.has_statement = true;
        }
        if *token == Token::EscapedName {
            self.may_do_anything(course);
        }
        course.stage = self.stage(course, token, place);
        if course.call != Call::None {
            self.call(course, token, place);
        }
        if let Some(known) = self.known(token, place) {
            self.mind(course, known);
        }
        if course.is_path && *token == Token::Literal {
            self.path(course, place);
        }
        let (before, is_temporary) = course.before.next(token, self.is_body);
        course.before = before;
        course.found.definitions |= before == Before::IntoNew;
        if is_temporary {
            course.found.pin(Pin::TemporaryObject);
        }
    }

    fn end_statement(&mut self, course: &mut Course, _: usize) {
        self.end_call(course);
        match course.stage {
            Stage::SetName(scope, first, span) => self.settle(course, scope, first, span),
            Stage::DeallocateName(span) | Stage::DeallocatePrepare(span) => {
                course.has_more |= course.deallocated.is_some();
                course.deallocated = Some(span);
            }
            _ => {}
        }
        (course.stage, course.before) = (Stage::Start, Before::Nothing);
        (course.is_path, course.sets) = (false, false);
    }
}
