//! A fuzzer's bytes as decisions: what is drawn depends on the bytes alone, and they come to an end.

use bytes::Bytes;

/// Numbers at which arithmetic breaks first.
const EDGES: [u64; 8] =
    [0, 1, u32::MAX as u64, (1 << 62) - 1, 1 << 62, (1 << 62) + 1, u64::MAX - 1, u64::MAX];

/// Decisions from bytes; zeros when there are none left.
#[derive(Debug)]
pub(crate) struct Draws<'a> {
    rest: &'a [u8],
}

impl<'a> Draws<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// In `0..bound`, for bounds up to 256.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// True `parts` times in 256.
    pub(crate) fn chance(&mut self, parts: u8) -> bool {
        self.byte() < parts
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Any number: eight bytes or an edge.
    pub(crate) fn number(&mut self) -> u64 {
        if self.chance(128) {
            return self.pick(&EDGES);
        }
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Near one of `anchors` most times.
    pub(crate) fn near(&mut self, anchors: &[u64]) -> u64 {
        if self.chance(12) {
            return self.number();
        }
        let anchor = self.pick(anchors);
        match self.below(8) {
            0 => anchor.saturating_sub(1),
            1 => anchor.saturating_add(1),
            2 => anchor.saturating_add(self.byte().into()),
            3 => anchor.saturating_sub(self.byte().into()),
            _ => anchor,
        }
    }

    /// Up to 255 bytes.
    pub(crate) fn bytes(&mut self) -> Bytes {
        let length = usize::from(self.byte()).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Bytes::copy_from_slice(taken)
    }
}
