//! What the parts of a stream of changes are called on servers: its
//! publication, its slot and the origin of its progress have one name, by
//! which they are known as a move's whatever becomes of the move's record.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

const MOVE: &str = "insula_move_";
const BACK: &str = "insula_back_";

const LOOKING: &str = "_look";
const KNOWN: &str = "_known";
const MOVER: &str = "_mover";

/// Which way a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// From the source to the target.
    Forward,
    /// Back, so that the source stays current after the cutover.
    Back,
}

/// The name of a stream's publication, slot and origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    /// Which way it goes.
    pub way: Way,
    /// The move's id.
    pub move_id: Uuid,
}

impl StreamName {
    /// The name of a move's stream.
    #[must_use]
    pub const fn new(way: Way, move_id: Uuid) -> Self {
        Self { way, move_id }
    }

    /// The name of the temporary slot that shows where the stream's source is.
    pub(super) fn looking(self) -> String {
        format!("{self}{LOOKING}")
    }

    /// The name of the origin that is where all before it is known to be committed.
    pub(super) fn known(self) -> String {
        format!("{self}{KNOWN}")
    }

    /// The name of the origin that says which transaction moves the stream's own.
    pub(super) fn mover(self) -> String {
        format!("{self}{MOVER}")
    }

    /// All its origins, its own first.
    pub(super) fn origins(self) -> [String; 3] {
        [self.to_string(), self.known(), self.mover()]
    }
}

/// How many of its origins a stream has at a server, by the server's
/// `server_version_num`: from version 16 on it needs those that say how far its own
/// can be relied on.
pub(super) const fn origins_at(version: i32) -> u8 {
    if version >= 160_000 { 3 } else { 1 }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.way {
            Way::Forward => MOVE,
            Way::Back => BACK,
        };
        write!(f, "{prefix}{}", self.move_id.simple())
    }
}

/// A text that is no stream's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no name of a move's stream")]
pub struct NotAStream(String);

impl FromStr for StreamName {
    type Err = NotAStream;

    /// Reads a name, or one that is made of it.
    fn from_str(name: &str) -> Result<Self, NotAStream> {
        let whole = [LOOKING, KNOWN, MOVER].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let split = |way, prefix| Some((way, whole.strip_prefix(prefix)?));
        let (way, id) = split(Way::Forward, MOVE)
            .or_else(|| split(Way::Back, BACK))
            .ok_or_else(|| NotAStream(name.to_owned()))?;
        let move_id = Uuid::try_parse(id).map_err(|_| NotAStream(name.to_owned()))?;
        let read = Self { way, move_id };
        if read.to_string() == whole { Ok(read) } else { Err(NotAStream(name.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_is_short_enough_for_a_slot() {
        let id = Uuid::from_u128(0x0199_a1c2_7d5e_7000_8000_5b1c_0e3f_9a21);
        for way in [Way::Forward, Way::Back] {
            let name = StreamName::new(way, id);
            assert_eq!(name.to_string().parse(), Ok(name));
            for made in [name.looking(), name.known(), name.mover()] {
                assert_eq!(made.parse(), Ok(name));
                assert!(made.len() < 64);
            }
        }
        let name = StreamName::new(Way::Forward, id).to_string();
        for wrong in [
            &name[..43],
            &format!("{name}_known_mover"),
            &name.to_uppercase(),
            "insula_move_",
            "pg_move_0",
            &id.to_string(),
        ] {
            assert!(wrong.parse::<StreamName>().is_err(), "{wrong}");
        }
        assert!(format!("insula_move_{id}").parse::<StreamName>().is_err(), "with dashes");
    }
}
