//! The RAM the tiers may hold, shared with the instance's plain blocks.
use crate::os::lock::Mutex;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What the instance may hold. Its functions, except `make_room`, are called with all signals of the thread blocked,
/// with a lock of the engine held, and also from fault handlers. So they must neither allocate nor call back into the
/// engine.
pub trait Budget: Send + Sync {
    /// Charges `bytes` to the instance. Returns false, with nothing charged, if it may not hold so much more.
    fn try_charge(&self, bytes: usize) -> bool;
    /// Charges `bytes`, even beyond the limit. Until as much has been given back, nobody else is granted anything.
    fn charge_anyway(&self, bytes: usize);
    /// Gives `bytes` back.
    fn discharge(&self, bytes: usize);
    /// The most bytes that the instance may hold; 0: no limit.
    fn limit(&self) -> usize;
    /// Gives back what the instance holds without using it. Returns false if there is nothing. Unlike the others,
    /// this is called with no lock held.
    fn make_room(&self) -> bool {
        false
    }
}

/// A budget without a limit.
pub struct Unlimited;
impl Budget for Unlimited {
    fn try_charge(&self, _bytes: usize) -> bool {
        true
    }
    fn charge_anyway(&self, _bytes: usize) {}
    fn discharge(&self, _bytes: usize) {}
    fn limit(&self) -> usize {
        0
    }
}

/// How many chunks there is always room for: see [`BudgetAccount`].
pub const GUARANTEED: usize = 2;

/// What an engine holds of its instance's budget.
///
/// Some bytes are held whether they are used or not:
/// - The *guarantee* is room for two chunks. Neither plain blocks nor acquired chunks may take it, because chunks
///   could not move without it. It is two chunks because one access may span two chunks, and goes on only when both
///   are in place.
/// - The *reserve*, if there is a limit, is room for encoded chunks: an eviction needs room for the encoded bytes
///   before it can give up the chunk's own pages.
///
/// While a plain block waits for room, chunks get no more than is held already ([`BudgetAccount::let_others_first`]):
/// one that comes in takes the place of another. Otherwise chunks could take all that comes free, again and again.
pub struct BudgetAccount {
    budget: Box<dyn Budget>,
    balance: Mutex<Balance>,
    /// How many plain blocks wait for room.
    others: AtomicUsize,
    /// Copies of values of the balance, to be read without the lock.
    held: AtomicUsize,
    guaranteed: AtomicUsize,
}
/// What is held whether it is used or not: see [`BudgetAccount`].
#[derive(Clone, Copy, Default)]
pub struct Reservation {
    guarantee: usize,
    reserve: usize,
}
#[derive(Clone, Copy, Default)]
struct Balance {
    /// Bytes in use, including the reserve.
    used: usize,
    /// Bytes charged to the instance: the greater of `used` and the sum of all guaranteed and all encoded bytes.
    held: usize,
    guarantee: usize,
    /// Chunks that the program has acquired; part of `used`. The guarantee is beside these, as far as there are other
    /// chunks.
    acquired: usize,
    /// All chunks of all regions, in place or not.
    extent: usize,
    /// Chunks that are in place for good; part of `extent` and of `used`. Room for other chunks is beside them.
    resident: usize,
    /// Encoded chunks; part of `used`. They add to what is guaranteed, because an encoded chunk keeps its room while
    /// it is decoded.
    encoded: usize,
    /// Records of chunks; part of `used`. They stay as long as their region.
    records: usize,
    reserve: usize,
    reserve_target: usize,
    /// Whole chunks in the clear; part of `used`.
    pages: usize,
    /// How often the balance was changed.
    changes: u64,
}
impl Balance {
    /// Bytes that are never given back while there are regions.
    fn guaranteed(&self) -> usize {
        let others = self.extent.saturating_sub(self.resident);
        self.resident + (self.guarantee + self.acquired).min(others) + self.records
    }
    /// Bytes that have to be held when `used` bytes are in use.
    fn needed(&self, used: usize) -> usize {
        used.max(self.guaranteed() + self.encoded)
    }
    fn take(&mut self, budget: &dyn Budget, bytes: usize, may_grow: bool) -> bool {
        let needed = self.needed(self.used + bytes);
        if needed > self.held && !(may_grow && budget.try_charge(needed - self.held)) {
            return false;
        }
        self.held = self.held.max(needed);
        self.used += bytes;
        true
    }
    /// Puts into the reserve what it lacks, `bytes` at most.
    fn fill_reserve(&mut self, bytes: usize) {
        let more = bytes.min(self.reserve_target.saturating_sub(self.reserve));
        self.reserve += more;
        self.used += more;
    }
    /// Takes `bytes` at most out of the reserve. Returns how many.
    fn take_from_reserve(&mut self, bytes: usize) -> usize {
        let less = bytes.min(self.reserve);
        self.reserve -= less;
        self.used -= less;
        less
    }
    /// Sets the reservation to `before`.
    fn reserve_again(&mut self, before: Reservation) {
        (self.guarantee, self.reserve_target) = (before.guarantee, before.reserve);
        self.take_from_reserve(self.reserve.saturating_sub(before.reserve));
    }
    fn give(&mut self, budget: &dyn Budget, bytes: usize) {
        self.used -= bytes;
        let needed = self.needed(self.used);
        if needed < self.held {
            budget.discharge(self.held - needed);
            self.held = needed;
        }
    }
}

impl BudgetAccount {
    /// An empty account on `budget`.
    pub fn new(budget: Box<dyn Budget>) -> BudgetAccount {
        BudgetAccount {
            budget,
            balance: Mutex::sheltered(Balance::default()),
            others: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            guaranteed: AtomicUsize::new(0),
        }
    }
    /// The budget's limit; 0: none.
    pub fn limit(&self) -> usize {
        self.budget.limit()
    }
    /// Asks the instance to make room. Returns whether there is more than before. To be called with no lock held.
    pub fn make_room(&self) -> bool {
        self.budget.make_room()
    }
    /// For `extent` more bytes of chunks: raises the guarantee to at least `bytes`, and the target of the reserve to
    /// at least `reserve`. Returns false, with nothing changed, if there is no room.
    pub fn guarantee(&self, extent: usize, bytes: usize, reserve: usize) -> bool {
        let reserve = if self.budget.limit() == 0 { 0 } else { reserve };
        self.take(0, |balance| {
            balance.extent += extent;
            balance.guarantee = balance.guarantee.max(bytes);
            balance.reserve_target = balance.reserve_target.max(reserve);
        })
    }
    /// Counts `bytes` more of chunks. Returns false if there is no room for what is guaranteed then.
    pub fn extend(&self, bytes: usize) -> bool {
        self.take(0, |balance| balance.extent += bytes)
    }
    /// Counts `bytes` less of chunks.
    pub fn shorten(&self, bytes: usize) {
        self.give(0, |balance| balance.extent -= bytes);
    }
    /// Counts a chunk as acquired. Returns false if there would be no room beside it for what is guaranteed.
    pub fn acquire(&self, chunk: usize) -> bool {
        self.take(0, |balance| balance.acquired += chunk)
    }
    /// Whether a chunk could be acquired if nothing were encoded. If not even then, there is nothing to wait for.
    pub fn could_acquire(&self, chunk: usize) -> bool {
        let balance = self.balance.lock();
        let then = Balance { acquired: balance.acquired + chunk, ..*balance };
        let more = then.guaranteed().saturating_sub(balance.held);
        let there = more == 0 || self.budget.try_charge(more);
        if there {
            self.budget.discharge(more);
        }
        there
    }
    /// Counts a chunk as no longer acquired.
    pub fn release(&self, chunk: usize) {
        self.give(0, |balance| balance.acquired -= chunk);
    }
    /// Charges a chunk's pages. Returns false if there is no room.
    pub fn charge_pages(&self, bytes: usize) -> bool {
        self.take_after_others(bytes, |balance| balance.pages += bytes)
    }
    /// Gives a chunk's pages back: to the reserve until it is full, then to the budget.
    pub fn discharge_pages(&self, bytes: usize) {
        self.give(bytes, |balance| {
            balance.pages -= bytes;
            balance.fill_reserve(bytes);
        });
    }
    /// Charges the pages of chunks that are in place for good and are counted in the extent already. Returns false if
    /// there is no room for them beside what is guaranteed to other chunks.
    pub fn charge_resident(&self, bytes: usize) -> bool {
        self.take(bytes, |balance| {
            balance.resident += bytes;
            balance.pages += bytes;
        })
    }
    /// Gives these pages back. To be called before the extent is shortened by them.
    pub fn discharge_resident(&self, bytes: usize) {
        self.give(bytes, |balance| {
            balance.resident -= bytes;
            balance.pages -= bytes;
        });
    }
    /// Charges encoded bytes: to the reserve first, then to the budget. Returns false if there is no room.
    pub fn charge_encoded(&self, bytes: usize) -> bool {
        self.take_after_others(bytes, |balance| {
            balance.encoded += bytes;
            balance.take_from_reserve(bytes);
        })
    }
    /// Gives encoded bytes back: to the reserve until it is full, then to the budget.
    pub fn discharge_encoded(&self, bytes: usize) {
        self.give(bytes, |balance| {
            balance.encoded -= bytes;
            balance.fill_reserve(bytes);
        });
    }
    /// Charges records of chunks. Returns false if there is no room.
    pub fn charge_records(&self, bytes: usize) -> bool {
        self.take(bytes, |balance| balance.records += bytes)
    }
    /// Charges records of chunks, even beyond the limit.
    pub fn charge_records_anyway(&self, bytes: usize) {
        let mut balance = self.balance.lock();
        balance.records += bytes;
        balance.used += bytes;
        let missing = balance.needed(balance.used).saturating_sub(balance.held);
        self.budget.charge_anyway(missing);
        balance.held += missing;
        self.publish(&mut balance);
    }
    /// Gives records of chunks back.
    pub fn discharge_records(&self, bytes: usize) {
        self.give(bytes, |balance| balance.records -= bytes);
    }
    /// Whether the reserve is below its target.
    pub fn wants_reserve(&self) -> bool {
        let balance = self.balance.lock();
        balance.reserve < balance.reserve_target
    }
    /// Gives the reserve back to the budget. Returns how many bytes it was.
    pub fn drop_reserve(&self) -> usize {
        let mut bytes = 0;
        self.give(0, |balance| bytes = balance.take_from_reserve(usize::MAX));
        bytes
    }
    /// Bytes of whole chunks in the clear.
    pub fn pages(&self) -> usize {
        self.balance.lock().pages
    }
    /// Bytes of whole pages that hold encoded chunks.
    pub fn encoded(&self) -> usize {
        self.balance.lock().encoded
    }
    /// Bytes charged to the instance.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
    /// Bytes that are never given back while there are regions.
    pub fn guaranteed(&self) -> usize {
        self.guaranteed.load(Relaxed)
    }
    /// Bytes that would be given back if nothing were kept in place, and how often the balance was changed so far.
    pub fn movable(&self) -> (usize, u64) {
        let balance = self.balance.lock();
        (balance.held.saturating_sub(balance.guaranteed()), balance.changes)
    }
    /// For a plain block that waits for room: until the returned value is dropped, chunks get nothing beyond what is
    /// held. To be called inside the gate, which the caller does not leave before that.
    pub fn let_others_first(&self) -> impl Drop + '_ {
        struct First<'a>(&'a AtomicUsize);
        impl Drop for First<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        self.others.fetch_add(1, Relaxed);
        First(&self.others)
    }
    /// Changes the balance, and takes `bytes` more into use. Returns false, with nothing changed, if there is no room.
    fn take(&self, bytes: usize, change: impl FnOnce(&mut Balance)) -> bool {
        self.take_if(true, bytes, change)
    }
    /// Like `take`, for what can do with what is held while others wait for room.
    fn take_after_others(&self, bytes: usize, change: impl FnOnce(&mut Balance)) -> bool {
        self.take_if(self.others.load(Relaxed) == 0, bytes, change)
    }
    fn take_if(&self, may_grow: bool, bytes: usize, change: impl FnOnce(&mut Balance)) -> bool {
        let mut balance = self.balance.lock();
        let before = *balance;
        change(&mut balance);
        let there = balance.take(&*self.budget, bytes, may_grow);
        if !there {
            *balance = before;
        }
        self.publish(&mut balance);
        there
    }
    /// Changes the balance, and gives back `bytes` that were in use.
    fn give(&self, bytes: usize, change: impl FnOnce(&mut Balance)) {
        let mut balance = self.balance.lock();
        change(&mut balance);
        balance.give(&*self.budget, bytes);
        self.publish(&mut balance);
    }
    fn publish(&self, balance: &mut Balance) {
        balance.changes += 1;
        self.held.store(balance.held, Relaxed);
        self.guaranteed.store(balance.guaranteed(), Relaxed);
    }
    /// What is reserved now.
    pub fn reservation(&self) -> Reservation {
        let balance = self.balance.lock();
        Reservation { guarantee: balance.guarantee, reserve: balance.reserve_target }
    }
    /// Sets the reservation to `before`, and gives back what is held beyond it without being used.
    pub fn restore_reservation(&self, before: Reservation) {
        self.give(0, |balance| balance.reserve_again(before));
    }
    /// Reserves no more than chunks of up to `chunk` bytes need.
    pub fn reserve_at_most(&self, chunk: usize) {
        let Reservation { guarantee, reserve } = self.reservation();
        self.restore_reservation(Reservation {
            guarantee: guarantee.min(GUARANTEED * chunk),
            reserve: reserve.min(chunk),
        });
    }
    /// Gives back everything that is held without being used. For when no region is left.
    pub fn close(&self) {
        self.restore_reservation(Reservation::default());
    }
    /// The same as `close`, by the owner that drops the account, without taking the lock: this runs outside the gate,
    /// and a lock taken there could stay taken for ever in a forked child.
    pub fn end(&mut self) {
        let balance = self.balance.get_mut();
        balance.reserve_again(Reservation::default());
        balance.give(&*self.budget, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::gate;
    use std::sync::Arc;
    struct Fixed(Arc<AtomicUsize>, usize);
    impl Budget for Fixed {
        fn try_charge(&self, bytes: usize) -> bool {
            self.0
                .fetch_update(Relaxed, Relaxed, |used| (used + bytes <= self.1).then_some(used + bytes))
                .is_ok()
        }
        fn charge_anyway(&self, bytes: usize) {
            self.0.fetch_add(bytes, Relaxed);
        }
        fn discharge(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Relaxed);
        }
        fn limit(&self) -> usize {
            self.1
        }
    }
    #[test]
    fn the_account_balances() {
        let _inside = gate::enter();
        let used = Arc::new(AtomicUsize::new(0));
        let account = BudgetAccount::new(Box::new(Fixed(used.clone(), 100)));
        assert!(account.guarantee(200, 20, 10));
        assert_eq!(used.load(Relaxed), 20);
        assert!(account.charge_pages(15), "inside the guarantee");
        assert_eq!(used.load(Relaxed), 20);
        assert!(!account.charge_pages(86), "over the limit");
        assert!(account.charge_pages(85));
        assert_eq!((used.load(Relaxed), account.pages()), (100, 100));
        assert!(!account.charge_encoded(1) && account.wants_reserve());
        account.discharge_pages(50);
        assert_eq!(used.load(Relaxed), 60, "10 stay in the reserve");
        assert!(!account.wants_reserve() && account.charge_encoded(30));
        assert_eq!(used.load(Relaxed), 80);
        assert!(!account.acquire(60) && account.could_acquire(60) && !account.could_acquire(81));
        assert_eq!((used.load(Relaxed), account.held()), (80, 80));
        account.discharge_encoded(30);
        account.discharge_pages(50);
        assert_eq!(used.load(Relaxed), 20);
        assert!(account.acquire(80) && used.load(Relaxed) == 100, "beside the guarantee");
        assert!(!account.acquire(1) && account.guaranteed() == 100);
        assert!(!account.charge_records(5), "beside all that");
        account.charge_records_anyway(5);
        assert_eq!((used.load(Relaxed), account.held(), account.guaranteed()), (105, 105, 105));
        assert!(!account.charge_pages(101), "beyond the limit");
        account.release(80);
        assert_eq!((used.load(Relaxed), account.guaranteed()), (25, 25));
        assert!(account.charge_records(10) && used.load(Relaxed) == 35);
        account.discharge_records(15);
        assert_eq!((used.load(Relaxed), account.guaranteed()), (20, 20));
        account.shorten(105);
        assert!(account.acquire(95) && used.load(Relaxed) == 95, "all there is");
        assert!(!account.extend(6) && account.extend(5));
        assert_eq!((used.load(Relaxed), account.guaranteed()), (100, 100));
        account.release(95);
        // In place for good: what is guaranteed to others is beside it.
        assert!(account.extend(50) && !account.charge_resident(90), "no room beside it");
        assert!(account.guaranteed() == 20 && account.charge_resident(40));
        assert_eq!((used.load(Relaxed), account.guaranteed(), account.pages()), (60, 60, 40));
        assert!(account.charge_pages(10) && used.load(Relaxed) == 60, "of what is guaranteed");
        account.discharge_pages(10);
        account.discharge_resident(40);
        assert_eq!((used.load(Relaxed), account.guaranteed(), account.pages()), (20, 20, 0));
        account.close();
        assert_eq!(used.load(Relaxed), 0);
        assert!(!BudgetAccount::new(Box::new(Fixed(used, 5))).guarantee(6, 6, 0));
    }
}
