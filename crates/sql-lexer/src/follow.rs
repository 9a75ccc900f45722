//! Who follows a text, token by token, in every way of reading.

use crate::token::Token;

/// Follows a text in all ways of reading it at once. What is known of one way
/// is its course; what is kept in `self` is shared by all.
pub trait Follow {
    /// Where one way of reading has come to. Ways with the same course become
    /// one again when they meet, so that it should forget what is over; a text
    /// in which too many stay apart is given up.
    type Course: Copy + PartialEq;

    /// The course of a text that has not begun.
    fn begin(&self) -> Self::Course;

    /// A token. Its place is the number of bytes before the end of a word or a
    /// symbol, and before the first byte within the quotation of a string or of
    /// a name.
    fn token(&mut self, course: &mut Self::Course, token: &Token, place: usize);

    /// A semicolon outside of quotations, with the number of bytes before it,
    /// or the end of the text, with all of them. There may be no token before
    /// it.
    fn end_statement(&mut self, course: &mut Self::Course, place: usize);
}
