//! Tests of the engine as a whole: by values, by simulation, and with the real
//! worker on a log in memory.

mod memory_log;
mod planning;
mod simulation;
mod support;
mod working;
mod world;
