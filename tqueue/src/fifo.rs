//! A queue that is filled and emptied by turns: what is taken leaves its room behind until all is taken, or room is needed.

/// First in, first out. Allocates when made, or when it holds more than it was made for.
#[derive(Debug)]
pub(crate) struct Fifo<T> {
    items: Vec<T>,
    /// So many of them, the first ones, are no longer there.
    taken: usize,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            taken: 0,
        }
    }
}

impl<T: Copy> Fifo<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            items: Vec::with_capacity(capacity),
            ..Self::default()
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        if self.items.len() == self.items.capacity() {
            self.move_up();
        }
        self.items.push(item);
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = *self.items.get(self.taken)?;
        self.taken += 1;
        if self.taken == self.items.len() {
            self.items.clear();
            self.taken = 0;
        }
        Some(item)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.taken
    }

    #[cold]
    fn move_up(&mut self) {
        self.items.drain(..self.taken);
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_goes_first_and_room_is_used_again() {
        let mut fifo = Fifo::with_capacity(3);
        let mut next_out = 0;
        for next_in in 0..100 {
            fifo.push(next_in);
            while fifo.len() > next_in * 7 % 4 {
                assert_eq!(fifo.pop(), Some(next_out));
                next_out += 1;
            }
        }
        assert_eq!((fifo.items.capacity(), fifo.len()), (3, 100 - next_out));
        while fifo.pop().is_some() {}
        assert!(fifo.is_empty());
    }
}
