//! Decides where one block ends and the next begins.
//!
//! The rules, for an item of some size and what is pending:
//!
//! 1. An item above the preferred size is a batch of its own; what is pending is cut before it.
//! 2. If the item would bring what is pending above the preferred size, what is pending is cut, and the item is
//!    pending. Exactly the preferred size still fits.
//! 3. When the number of pending items reaches its bound, they are cut.
//!
//! One item never leads to more than two batches, and never to two batches and something pending. The
//! deadline starts with the first pending item, is not moved by later ones, ends when nothing is pending, and
//! starts anew for an item that is left over. Time is the caller's: the cutter only names the deadline.

use crate::limits::LimitsError;

/// Encoding of one transaction in an entry, beyond its id and payload, is at most this many bytes.
const TRANSACTION_OVERHEAD_BYTES: u64 = 16;

/// When batches are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutterConfig {
    /// Transactions in a block at most, 1..=65536.
    pub messages_max: u32,
    /// Bytes that a block shall not exceed unless a single transaction does, 1..=`absolute_bytes`.
    pub preferred_bytes: u64,
    /// Bytes of id and payload that no transaction may exceed, at most 1 GiB.
    pub absolute_bytes: u64,
    /// Milliseconds that the first pending transaction waits at most, 1..=3600000.
    pub timeout_ms: u64,
}

impl Default for CutterConfig {
    fn default() -> Self {
        Self { messages_max: 500, preferred_bytes: 2 << 20, absolute_bytes: 10 << 20, timeout_ms: 2000 }
    }
}

impl CutterConfig {
    /// Checks each bound and those that depend on each other.
    ///
    /// # Errors
    /// The first bound that does not hold, with its value and what it must be.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let within = |name, value: u64, least: u64, most: u64, note: &str| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(LimitsError { name, value, bound: format!("between {least} and {most}{note}") })
        };
        within("messages_max", u64::from(self.messages_max), 1, 65_536, "")?;
        within("absolute_bytes", self.absolute_bytes, 1, 1 << 30, "")?;
        within("preferred_bytes", self.preferred_bytes, 1, self.absolute_bytes, " (absolute_bytes)")?;
        within("timeout_ms", self.timeout_ms, 1, 3_600_000, "")
    }

    /// The largest entry that a batch can become; `Limits::entry_bytes_max` must not be below it.
    pub fn entry_bytes_max(&self) -> u64 {
        self.absolute_bytes + TRANSACTION_OVERHEAD_BYTES * (u64::from(self.messages_max) + 1)
    }
}

/// What one item led to: at most two batches, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut<T> {
    /// The earlier batch.
    pub first: Option<Vec<T>>,
    /// The later batch; only after an earlier one.
    pub second: Option<Vec<T>>,
    /// Whether something is pending now.
    pub pending: bool,
}

impl<T> Cut<T> {
    /// The batches in order.
    pub fn into_batches(self) -> impl Iterator<Item = Vec<T>> {
        self.first.into_iter().chain(self.second)
    }
}

/// Collects items to batches.
#[derive(Debug)]
pub struct Cutter<T> {
    config: CutterConfig,
    pending: Vec<T>,
    pending_bytes: u64,
    deadline_ms: Option<u64>,
}

impl<T> Cutter<T> {
    /// An empty cutter.
    ///
    /// # Errors
    /// The bound of the configuration that does not hold.
    pub fn new(config: CutterConfig) -> Result<Self, LimitsError> {
        config.validate()?;
        Ok(Self { config, pending: Vec::new(), pending_bytes: 0, deadline_ms: None })
    }

    /// Adds an item of `bytes` at the time `now_ms`.
    pub fn push(&mut self, item: T, bytes: u64, now_ms: u64) -> Cut<T> {
        if bytes > self.config.preferred_bytes {
            let alone = vec![item];
            let (first, second) = match self.take() {
                Some(pending) => (Some(pending), Some(alone)),
                None => (Some(alone), None),
            };
            return Cut { first, second, pending: false };
        }
        let mut first = None;
        if self.pending_bytes + bytes > self.config.preferred_bytes {
            first = self.take();
        }
        if self.pending.is_empty() {
            self.deadline_ms = Some(now_ms.saturating_add(self.config.timeout_ms));
        }
        self.pending.push(item);
        self.pending_bytes += bytes;
        let mut second = None;
        if self.pending.len() >= self.config.messages_max as usize {
            second = self.take();
        }
        if first.is_none() {
            first = second.take();
        }
        Cut { first, second, pending: !self.pending.is_empty() }
    }

    /// Cuts what is pending; `None` if nothing is.
    pub fn cut(&mut self) -> Option<Vec<T>> {
        self.take()
    }

    /// Makes room for `additional` items that are about to come, as far as one batch can use it.
    pub fn reserve(&mut self, additional: usize) {
        let room = (self.config.messages_max as usize).saturating_sub(self.pending.len());
        self.pending.reserve(additional.min(room));
    }

    /// When what is pending must be cut at the latest; `None` if nothing is.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Pending items.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of the pending items.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    fn take(&mut self) -> Option<Vec<T>> {
        self.pending_bytes = 0;
        self.deadline_ms = None;
        (!self.pending.is_empty()).then(|| std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: CutterConfig =
        CutterConfig { messages_max: 4, preferred_bytes: 100, absolute_bytes: 200, timeout_ms: 50 };

    fn cutter() -> Cutter<u32> {
        Cutter::new(CONFIG).unwrap()
    }

    fn cut(first: Option<Vec<u32>>, second: Option<Vec<u32>>, pending: bool) -> Cut<u32> {
        Cut { first, second, pending }
    }

    #[test]
    fn c01_below_all_bounds_items_are_only_pending() {
        let mut cutter = cutter();
        assert_eq!(cutter.push(1, 30, 0), cut(None, None, true));
        assert_eq!(cutter.push(2, 30, 0), cut(None, None, true));
        assert_eq!((cutter.pending_count(), cutter.pending_bytes()), (2, 60));
    }

    #[test]
    fn c02_the_item_that_reaches_the_count_is_in_the_batch() {
        let mut cutter = cutter();
        for item in 1..=3 {
            assert_eq!(cutter.push(item, 1, 0), cut(None, None, true));
        }
        assert_eq!(cutter.push(4, 1, 0), cut(Some(vec![1, 2, 3, 4]), None, false));
        assert!(cutter.is_empty());
    }

    #[test]
    fn c02_with_a_count_of_one_every_item_is_a_batch() {
        let mut cutter = Cutter::new(CutterConfig { messages_max: 1, ..CONFIG }).unwrap();
        assert_eq!(cutter.push(1, 100, 0), cut(Some(vec![1]), None, false));
        assert_eq!(cutter.push(2, 1, 0), cut(Some(vec![2]), None, false));
    }

    #[test]
    fn c03_a_single_item_above_the_preferred_size_is_a_batch_at_once() {
        let mut cutter = cutter();
        assert_eq!(cutter.push(1, 101, 0), cut(Some(vec![1]), None, false));
        assert_eq!((cutter.pending_count(), cutter.pending_bytes(), cutter.deadline_ms()), (0, 0, None));
    }

    #[test]
    fn c04_an_overflow_cuts_the_old_batch_and_leaves_the_new_item_pending() {
        let mut cutter = cutter();
        cutter.push(1, 60, 0);
        assert_eq!(cutter.push(2, 41, 0), cut(Some(vec![1]), None, true));
        assert_eq!((cutter.pending_count(), cutter.pending_bytes()), (1, 41));
    }

    #[test]
    fn c04_exactly_the_preferred_size_still_fits() {
        let mut cutter = cutter();
        cutter.push(1, 60, 0);
        assert_eq!(cutter.push(2, 40, 0), cut(None, None, true));
        assert_eq!(cutter.push(3, 1, 0), cut(Some(vec![1, 2]), None, true));
    }

    #[test]
    fn c05_pending_items_and_one_above_the_preferred_size_are_two_batches() {
        let mut cutter = cutter();
        cutter.push(1, 10, 0);
        cutter.push(2, 10, 0);
        assert_eq!(cutter.push(3, 101, 0), cut(Some(vec![1, 2]), Some(vec![3]), false));
        assert!(cutter.is_empty());
    }

    #[test]
    fn c06_cutting_an_empty_cutter_gives_nothing() {
        let mut cutter = cutter();
        assert_eq!(cutter.cut(), None);
        cutter.push(1, 10, 0);
        assert_eq!(cutter.cut(), Some(vec![1]));
        assert_eq!(cutter.cut(), None);
    }

    #[test]
    fn c07_a_configuration_that_cannot_work_is_an_error_that_names_it() {
        let refused = |config: CutterConfig| Cutter::<u32>::new(config).unwrap_err().to_string();
        assert_eq!(
            refused(CutterConfig { messages_max: 0, ..CONFIG }),
            "messages_max is 0, must be between 1 and 65536"
        );
        assert_eq!(
            refused(CutterConfig { preferred_bytes: 0, ..CONFIG }),
            "preferred_bytes is 0, must be between 1 and 200 (absolute_bytes)"
        );
        assert_eq!(
            refused(CutterConfig { preferred_bytes: 201, ..CONFIG }),
            "preferred_bytes is 201, must be between 1 and 200 (absolute_bytes)"
        );
        assert_eq!(
            refused(CutterConfig { absolute_bytes: 0, ..CONFIG }),
            "absolute_bytes is 0, must be between 1 and 1073741824"
        );
        assert_eq!(
            refused(CutterConfig { timeout_ms: 0, ..CONFIG }),
            "timeout_ms is 0, must be between 1 and 3600000"
        );
        CutterConfig::default().validate().unwrap();
    }

    #[test]
    fn s09_a_later_item_does_not_move_the_deadline() {
        let mut cutter = cutter();
        assert_eq!(cutter.deadline_ms(), None);
        cutter.push(1, 10, 1000);
        assert_eq!(cutter.deadline_ms(), Some(1050));
        cutter.push(2, 10, 1040);
        assert_eq!(cutter.deadline_ms(), Some(1050));
    }

    #[test]
    fn s11_a_cut_by_count_ends_the_deadline_and_the_next_item_starts_a_full_one() {
        let mut cutter = cutter();
        for item in 1..=4 {
            cutter.push(item, 1, 1000);
        }
        assert_eq!(cutter.deadline_ms(), None);
        cutter.push(5, 1, 1049);
        assert_eq!(cutter.deadline_ms(), Some(1099));
    }

    #[test]
    fn a_left_over_item_starts_a_fresh_deadline() {
        let mut cutter = cutter();
        cutter.push(1, 60, 1000);
        assert_eq!(cutter.push(2, 60, 1030), cut(Some(vec![1]), None, true));
        assert_eq!(cutter.deadline_ms(), Some(1080));
    }

    #[test]
    fn s12_an_item_that_does_not_fit_leads_to_two_batches_at_once_in_order() {
        let mut cutter = Cutter::new(CutterConfig { messages_max: 2, ..CONFIG }).unwrap();
        cutter.push(1, 60, 0);
        let batches: Vec<_> = cutter.push(2, 150, 0).into_batches().collect();
        assert_eq!(batches, [vec![1], vec![2]]);
    }

    /// The rules as sentences, over all items at once.
    fn expected(sizes: &[u64], config: &CutterConfig) -> Vec<Vec<u32>> {
        let mut batches: Vec<Vec<u32>> = vec![Vec::new()];
        let mut bytes = 0;
        for (item, &size) in sizes.iter().enumerate() {
            let open = batches.last_mut().unwrap();
            if !open.is_empty() && (bytes + size > config.preferred_bytes) {
                batches.push(Vec::new());
                bytes = 0;
            }
            let open = batches.last_mut().unwrap();
            open.push(item as u32);
            bytes += size;
            if size > config.preferred_bytes || open.len() == config.messages_max as usize {
                batches.push(Vec::new());
                bytes = 0;
            }
        }
        batches.retain(|batch| !batch.is_empty());
        batches
    }

    proptest! {
        #[test]
        fn any_items_are_cut_by_the_rules_with_order_kept(
            sizes in proptest::collection::vec(0u64..=150, 0..60),
            messages_max in 1u32..6,
        ) {
            let config = CutterConfig { messages_max, ..CONFIG };
            let mut cutter = Cutter::new(config).unwrap();
            let mut batches = Vec::new();
            for (item, &size) in sizes.iter().enumerate() {
                let cut = cutter.push(item as u32, size, item as u64);
                prop_assert!(cut.second.is_none() || (cut.first.is_some() && !cut.pending));
                prop_assert_eq!(cut.pending, !cutter.is_empty());
                prop_assert_eq!(cutter.deadline_ms().is_some(), cut.pending);
                batches.extend(cut.into_batches());
            }
            batches.extend(cutter.cut());
            prop_assert_eq!(batches, expected(&sizes, &config));
        }
    }
}
