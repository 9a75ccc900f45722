//! Bodies of `DO` blocks: PL/pgSQL has the lexical rules of SQL.

use insula_sql_lexer::{Follow, Walk};

use super::{Course, Follower, Found};
use crate::effects::Pin;

impl Follower<'_> {
    /// The body of a `DO` block, or the name of its language.
    pub(super) fn body(&mut self, course: &mut Course, start: usize) {
        if let Some((before, found)) = self.body
            && before == start
        {
            return course.found.add(found);
        }
        let found = match self.configured(start) {
            Some(body) => self.read_body(&body),
            None => Found { pin: Some(Pin::Unclear), sequences: true, ..Found::default() },
        };
        self.body = Some((start, found));
        course.found.add(found);
    }

    fn read_body(&mut self, body: &[u8]) -> Found {
        let mut walk = Walk::new(Follower::of_body(body));
        walk.feed(body);
        let mut found = Found::default();
        let Some((follower, courses)) = walk.finish() else {
            found.pin(Pin::Unclear);
            return found;
        };
        for course in courses {
            found.add(course.found);
            if course.deallocated.is_some() {
                found.pin(Pin::Unclear);
            }
        }
        let mut course = self.begin();
        self.has_too_many |= follower.has_too_many;
        for name in follower.custom {
            self.keep(&mut course, Some(name.as_bytes()));
        }
        found.add(course.found);
        found
    }
}
