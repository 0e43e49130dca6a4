//! Legs whose memory is a list: each part is a request at the device, and the leg ends with the last of them.

use iomgr_core::{Errno, Tag};

/// The parts that are at devices. Their tags lie above those of legs.
#[derive(Debug)]
pub(super) struct Lists {
    /// The leg of each part that a device has.
    legs: Box<[Option<u32>]>,
    free: Vec<u32>,
    /// Parts that requests may still take.
    unreserved: u32,
    first_tag: u32,
    /// By leg.
    fans: Box<[Fan]>,
}

/// A leg of several parts.
#[derive(Clone, Copy, Debug)]
struct Fan {
    /// Parts that were handed to the device.
    submitted: u32,
    outstanding: u32,
    all: u32,
    error: Option<Errno>,
}

impl Lists {
    pub(super) fn new(legs: u32, parts: u32) -> Self {
        let fan = Fan {
            submitted: 0,
            outstanding: 0,
            all: 0,
            error: None,
        };
        Self {
            legs: vec![None; parts as usize].into(),
            free: (0..parts).rev().collect(),
            unreserved: parts,
            first_tag: legs,
            fans: vec![fan; legs as usize].into(),
        }
    }

    pub(super) fn is_room_for(&self, parts: u32) -> bool {
        parts <= self.unreserved
    }

    pub(super) fn reserve(&mut self, parts: u32) {
        self.unreserved -= parts;
    }

    pub(super) fn unreserve(&mut self, parts: u32) {
        self.unreserved += parts;
    }

    /// A leg of so many parts is to be submitted.
    pub(super) fn begin(&mut self, leg: u32, all: u32) {
        self.fans[leg as usize] = Fan {
            submitted: 0,
            outstanding: 0,
            all,
            error: None,
        };
    }

    /// The next part of a leg to submit: which of the list, and its tag. After an error none are begun.
    pub(super) fn next(&mut self, leg: u32) -> Option<(usize, Tag)> {
        let fan = &mut self.fans[leg as usize];
        if fan.submitted == fan.all || fan.error.is_some() {
            return None;
        }
        let part = self.free.pop().expect("parts were reserved");
        self.legs[part as usize] = Some(leg);
        fan.submitted += 1;
        fan.outstanding += 1;
        Some((fan.submitted as usize - 1, Tag(self.first_tag + part)))
    }

    /// The part was handed back.
    pub(super) fn undo(&mut self, tag: Tag) {
        let (_, fan) = self.give(tag).expect("it was just taken");
        fan.submitted -= 1;
    }

    /// Was nothing of the leg submitted?
    pub(super) fn is_unbegun(&self, leg: u32) -> bool {
        self.fans[leg as usize].submitted == 0
    }

    /// A part has ended: the leg that ends with it, and how.
    pub(super) fn end(&mut self, tag: Tag, result: Result<(), Errno>) -> Option<(u32, Result<(), Errno>)> {
        let Some((leg, fan)) = self.give(tag) else {
            tracing::error!(?tag, ?result, "answer_unknown: the device does not have this request");
            return None;
        };
        fan.error = fan.error.or(result.err());
        fan.end().map(|result| (leg, result))
    }

    /// No more parts of a leg are to be begun: how it ends, if it does so at once.
    pub(super) fn give_up(&mut self, leg: u32, errno: Errno) -> Option<Result<(), Errno>> {
        let fan = &mut self.fans[leg as usize];
        fan.error = fan.error.or(Some(errno));
        fan.end()
    }

    /// Is it the tag of a part?
    pub(super) fn is_part(&self, tag: Tag) -> bool {
        tag.0 >= self.first_tag
    }

    /// Has the device begun the leg in parts, each of which ends by its own tag? Where no request has a list, that is soon said.
    pub(super) fn is_in_parts(&self, leg: u32) -> bool {
        let has_lists = (self.unreserved as usize) < self.legs.len();
        has_lists && {
            let fan = &self.fans[leg as usize];
            fan.submitted > 0 && fan.end().is_none()
        }
    }

    /// Takes a part back from its device, if that has it.
    fn give(&mut self, tag: Tag) -> Option<(u32, &mut Fan)> {
        let part = tag.0.checked_sub(self.first_tag)?;
        let leg = self.legs.get_mut(part as usize)?.take()?;
        self.free.push(part);
        let fan = &mut self.fans[leg as usize];
        fan.outstanding -= 1;
        Some((leg, fan))
    }
}

impl Fan {
    /// How the leg ends, if no part is at the device and none is to follow.
    fn end(&self) -> Option<Result<(), Errno>> {
        let is_over = self.outstanding == 0 && (self.submitted == self.all || self.error.is_some());
        is_over.then(|| self.error.map_or(Ok(()), Err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_ends_with_its_last_part() {
        let mut lists = Lists::new(4, 8);
        lists.reserve(3);
        lists.begin(2, 3);
        let tags: Vec<_> = std::iter::from_fn(|| lists.next(2)).collect();
        assert_eq!(tags, [(0, Tag(4)), (1, Tag(5)), (2, Tag(6))]);
        assert_eq!(lists.end(Tag(5), Ok(())), None);
        assert_eq!(lists.end(Tag(4), Ok(())), None);
        assert_eq!(lists.end(Tag(6), Ok(())), Some((2, Ok(()))));
        lists.unreserve(3);
        assert!(lists.is_room_for(8) && !lists.is_room_for(9));
    }

    #[test]
    fn a_part_that_was_handed_back_comes_again() {
        let mut lists = Lists::new(1, 2);
        lists.reserve(2);
        lists.begin(0, 2);
        let (first, tag) = lists.next(0).unwrap();
        lists.undo(tag);
        assert!(first == 0 && lists.is_unbegun(0));
        assert!(!lists.is_in_parts(0), "it may be given up, and the leg be another's");
        let (again, tag) = lists.next(0).unwrap();
        assert!(again == 0 && !lists.is_unbegun(0));
        assert_eq!(lists.end(tag, Ok(())), None, "there is one more");
        assert!(lists.is_in_parts(0));
        let (second, tag) = lists.next(0).unwrap();
        assert_eq!((second, lists.end(tag, Ok(()))), (1, Some((0, Ok(())))));
        assert!(!lists.is_in_parts(0));
    }

    #[test]
    fn after_an_error_no_part_begins_and_the_first_error_counts() {
        let mut lists = Lists::new(1, 4);
        lists.reserve(4);
        lists.begin(0, 4);
        let tags = [lists.next(0).unwrap().1, lists.next(0).unwrap().1];
        assert_eq!(lists.end(tags[0], Err(Errno::IO)), None);
        assert_eq!(lists.next(0), None);
        assert_eq!(lists.end(tags[1], Err(Errno::NOSPC)), Some((0, Err(Errno::IO))));
    }

    #[test]
    fn what_no_device_has_and_what_ends_twice_is_dropped() {
        let mut lists = Lists::new(1, 2);
        lists.reserve(2);
        lists.begin(0, 2);
        let tags = [lists.next(0).unwrap().1, lists.next(0).unwrap().1];
        assert_eq!(lists.end(Tag(3), Ok(())), None, "there are two parts only");
        assert_eq!(lists.end(Tag(u32::MAX), Ok(())), None);
        assert_eq!(lists.end(tags[0], Ok(())), None);
        assert_eq!(lists.end(tags[0], Err(Errno::IO)), None, "it has ended");
        assert_eq!(lists.end(tags[1], Ok(())), Some((0, Ok(()))));
        assert_eq!(lists.end(tags[1], Ok(())), None);
        lists.begin(0, 2);
        let tags = [lists.next(0).unwrap().1, lists.next(0).unwrap().1];
        assert_ne!(tags[0], tags[1], "each is free once");
    }
}
