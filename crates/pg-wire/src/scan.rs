//! Cuts a stream into messages as it passes: messages of interest are held
//! until they are whole, everything else goes on at once, so that a row of a
//! gigabyte needs no gigabyte here.

use crate::error::WireError;
use crate::message::Header;

/// What to do with a message, decided from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Its bytes go on as they come.
    Pass,
    /// It is held until it is whole. Whoever asks for it must have room for it.
    Hold,
    /// Its bytes go on as they come, and are looked at before.
    Watch,
    /// Its beginning is held, up to [`BEGINNING_BYTES_MAX`] bytes with the
    /// header; what follows goes on as it comes.
    Begin,
}

/// The longest beginning of a message that is held.
pub const BEGINNING_BYTES_MAX: usize = 4096;

/// What the buffered bytes are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first so many bytes may go on as they are.
    Pass(usize),
    /// The first bytes are a message that was to be held, whole.
    Whole(Header),
    /// The first so many bytes are a piece of a message that is looked at as it
    /// passes. Its header is in the first piece, whole.
    Watched {
        /// How many bytes.
        count: usize,
        /// Whether the message ends with them.
        is_last: bool,
    },
    /// The first so many bytes are the beginning of a message that was asked
    /// for, or all of it.
    Beginning {
        /// The message.
        header: Header,
        /// How many bytes, the header's among them.
        count: usize,
    },
    /// More bytes are needed before anything can be said.
    NeedMore,
}

/// Where a stream of messages is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scanner {
    /// Bytes of a passing message that have not come yet.
    passing: usize,
    /// Bytes of a watched message that have not come yet.
    watched: usize,
    /// A held message whose header has been decided already.
    held: Option<Header>,
    /// A message whose beginning is held.
    begun: Option<Header>,
}

impl Scanner {
    /// Looks at the buffered bytes, which begin where the last step ended: the
    /// caller takes away what the step names before it asks again. `decide` is
    /// asked once for each message.
    ///
    /// # Errors
    /// [`WireError::Length`] where a header is broken.
    pub fn step(
        &mut self,
        buffered: &[u8],
        mut decide: impl FnMut(Header) -> Handling,
    ) -> Result<Step, WireError> {
        let mut passed = 0;
        while self.held.is_none() && self.begun.is_none() && self.watched == 0 {
            let now = self.passing.min(buffered.len() - passed);
            passed += now;
            self.passing -= now;
            if self.passing > 0 {
                break;
            }
            let header = match Header::parse(&buffered[passed..]) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                // What came before the broken header is still good.
                Err(_) if passed > 0 => break,
                Err(error) => return Err(error),
            };
            match decide(header) {
                Handling::Pass => self.passing = header.message_bytes(),
                Handling::Hold => self.held = Some(header),
                Handling::Watch => self.watched = header.message_bytes(),
                Handling::Begin => self.begun = Some(header),
            }
        }
        if passed > 0 {
            return Ok(Step::Pass(passed));
        }
        if self.watched > 0 {
            let count = self.watched.min(buffered.len());
            self.watched -= count;
            let is_last = self.watched == 0;
            return Ok(if count > 0 { Step::Watched { count, is_last } } else { Step::NeedMore });
        }
        if let Some(header) = self.begun {
            let count = header.message_bytes().min(BEGINNING_BYTES_MAX);
            if buffered.len() < count {
                return Ok(Step::NeedMore);
            }
            self.begun = None;
            self.passing = header.message_bytes() - count;
            return Ok(Step::Beginning { header, count });
        }
        match self.held {
            Some(header) if buffered.len() >= header.message_bytes() => {
                self.held = None;
                Ok(Step::Whole(header))
            }
            _ => Ok(Step::NeedMore),
        }
    }

    /// Whether the stream stands between two messages, as far as it was seen.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.passing == 0 && self.watched == 0 && self.held.is_none() && self.begun.is_none()
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::put::message;

    fn stream(messages: &[(u8, Vec<u8>)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (tag, body) in messages {
            message(&mut out, *tag, |out| out.extend_from_slice(body));
        }
        out
    }

    type Messages = Vec<(u8, Vec<u8>)>;

    /// Feeds the stream in pieces; gives all bytes that went on, what was held,
    /// and how much was buffered at most.
    fn run(mut stream: BytesMut, cuts: &[usize]) -> Result<(Vec<u8>, Messages, usize), WireError> {
        let (mut scanner, mut buffer) = (Scanner::default(), BytesMut::new());
        let (mut all, mut held, mut watched, mut largest) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(7));
        while !stream.is_empty() {
            let piece = stream.split_to(cuts.next().unwrap_or(1).clamp(1, stream.len()));
            buffer.extend_from_slice(&piece);
            largest = largest.max(buffer.len());
            loop {
                let hold = |header: Header| match header.tag {
                    b'Q' => Handling::Hold,
                    b'P' => Handling::Watch,
                    b'B' => Handling::Begin,
                    _ => Handling::Pass,
                };
                match scanner.step(&buffer, hold)? {
                    Step::Pass(count) => all.extend_from_slice(&buffer.split_to(count)),
                    Step::Whole(header) => {
                        let message = buffer.split_to(header.message_bytes());
                        all.extend_from_slice(&message);
                        held.push((header.tag, message[5..].to_vec()));
                    }
                    Step::Watched { count, is_last } => {
                        let piece = buffer.split_to(count);
                        all.extend_from_slice(&piece);
                        watched.extend_from_slice(&piece);
                        if is_last {
                            held.push((watched[0], watched[5..].to_vec()));
                            watched.clear();
                        }
                    }
                    Step::Beginning { header, count } => {
                        assert_eq!(count, header.message_bytes().min(BEGINNING_BYTES_MAX));
                        let beginning = buffer.split_to(count);
                        all.extend_from_slice(&beginning);
                        held.push((header.tag, beginning[5..].to_vec()));
                    }
                    Step::NeedMore => break,
                }
            }
        }
        assert!(!buffer.has_remaining() || !scanner.is_between_messages() || buffer.len() < 5);
        Ok((all, held, largest))
    }

    fn messages() -> impl Strategy<Value = Messages> {
        let tag = prop_oneof![Just(b'Q'), Just(b'P'), Just(b'B'), Just(b'D')];
        proptest::collection::vec((tag, proptest::collection::vec(any::<u8>(), 0..60)), 0..20)
    }

    proptest! {
        #[test]
        fn every_way_of_cutting_gives_the_same(
            messages in messages(),
            cuts in proptest::collection::vec(1_usize..40, 0..50),
        ) {
            let bytes = stream(&messages);
            let (all, held, _) = run(bytes.clone(), &cuts).unwrap();
            prop_assert_eq!(&all[..], &bytes[..], "nothing is lost, added or reordered");
            let wanted: Vec<_> = messages.into_iter().filter(|(tag, _)| *tag != b'D').collect();
            prop_assert_eq!(held, wanted);
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(1_usize..40, 0..50),
        ) {
            let _ = run(BytesMut::from(&bytes[..]), &cuts);
        }
    }

    #[test]
    fn a_large_message_passes_without_being_held() {
        let (all, _, largest) = run(stream(&[(b'D', vec![1; 1_000_000])]), &[]).unwrap();
        assert_eq!(all.len(), 1_000_005);
        assert!(largest < 20, "{largest}");
        let (_, watched, largest) = run(stream(&[(b'P', vec![1; 1_000_000])]), &[]).unwrap();
        assert!(watched[0].1.len() == 1_000_000 && largest < 20, "{largest}");
        let (all, begun, largest) = run(stream(&[(b'B', vec![1; 1_000_000])]), &[]).unwrap();
        assert_eq!((all.len(), begun[0].1.len()), (1_000_005, BEGINNING_BYTES_MAX - 5));
        assert!(largest < BEGINNING_BYTES_MAX + 20, "{largest}");
        // The canary: a message that is held does need its whole size.
        let (_, held, largest) = run(stream(&[(b'Q', vec![1; 1_000_000])]), &[]).unwrap();
        assert!(held.len() == 1 && largest > 1_000_000);
    }

    #[test]
    fn what_precedes_a_broken_header_still_passes() {
        let mut bytes = stream(&[(b'D', vec![1; 3])]);
        bytes.extend_from_slice(&[b'D', 0, 0, 0, 3]);
        let mut scanner = Scanner::default();
        assert_eq!(scanner.step(&bytes, |_| Handling::Pass), Ok(Step::Pass(8)));
        assert!(scanner.step(&bytes[8..], |_| Handling::Pass).is_err());
    }
}
