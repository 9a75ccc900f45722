//! Live moves. A tenant's rows are copied while it works, followed, compared,
//! and then it is held for some milliseconds and switched over. This crate has
//! the cutover, as a plan of acts that can all be taken back up to the one that
//! commits, and the streams that keep one end of a move equal to the other.

pub mod cutover;
mod live;
mod pace;
mod under_way;

pub use live::{Live, Pause, Task, Tools};
pub use under_way::{Moving, UnderWay};
