//! The RAM the tiers may hold, shared with the instance's plain blocks.
use crate::os::lock::Mutex;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The instance's account. Called with all signals of the thread blocked and with a lock of the engine held, also
/// from fault handlers: it must neither allocate nor call back into the engine.
pub trait Budget: Send + Sync {
    /// Takes `bytes` out of what the instance may still hold. False if there is not that much.
    fn try_charge(&self, bytes: usize) -> bool;
    /// Takes `bytes` whether there is room or not. What is held beyond the limit is the next that nobody else gets.
    fn charge_anyway(&self, bytes: usize);
    /// Gives `bytes` back.
    fn discharge(&self, bytes: usize);
    /// What the instance may hold in all; 0: no limit.
    fn limit(&self) -> usize;
    /// Gives back what the instance holds without using it; false if there is nothing. Not called as the others are, but
    /// with no lock held.
    fn make_room(&self) -> bool {
        false
    }
}

/// An account without a limit.
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

/// What an engine holds of its instance's budget.
///
/// A little is kept whether it is used or not, so that neither plain blocks nor acquired chunks can take the last memory
/// with which chunks move (`guarantee`): two chunks, since one access may span two and goes on only with both in place.
/// And where there is a limit, a *reserve* is set aside for encoded chunks: an eviction needs
/// room for the encoded bytes before it can give up the chunk's own.
pub struct Purse {
    budget: Box<dyn Budget>,
    account: Mutex<Account>,
    /// Copy of the account's, to be read without the lock.
    held: AtomicUsize,
    guaranteed: AtomicUsize,
}
/// What is held whether it is used or not.
#[derive(Clone, Copy, Default)]
pub struct Promise {
    guarantee: usize,
    reserve: usize,
}
#[derive(Clone, Copy, Default)]
struct Account {
    /// In use, the reserve included.
    used: usize,
    /// Charged to the instance: the greater of `used` and what is guaranteed beside encoded chunks and records.
    held: usize,
    guarantee: usize,
    /// Of what is used: chunks that the program has acquired. The guarantee is beside these, as far as there are others.
    acquired: usize,
    /// Bytes of all chunks.
    extent: usize,
    /// Of what is used: encoded chunks. One that is wanted in the clear needs its room as long as it is decoded.
    encoded: usize,
    /// Of what is used: records of chunks. They stay as long as their region.
    records: usize,
    reserve: usize,
    reserve_target: usize,
    /// Of what is used: whole chunks in the clear.
    pages: usize,
}
impl Account {
    /// What never goes while there are regions.
    fn guaranteed(&self) -> usize {
        (self.guarantee + self.acquired).min(self.extent) + self.records
    }
    /// What has to be held with so much in use.
    fn needed(&self, used: usize) -> usize {
        used.max(self.guaranteed() + self.encoded)
    }
    fn take(&mut self, budget: &dyn Budget, bytes: usize) -> bool {
        let needed = self.needed(self.used + bytes);
        if needed > self.held && !budget.try_charge(needed - self.held) {
            return false;
        }
        self.held = self.held.max(needed);
        self.used += bytes;
        true
    }
    /// Fills the reserve; gives what is over.
    fn set_aside(&mut self, bytes: usize) -> usize {
        let kept = bytes.min(self.reserve_target.saturating_sub(self.reserve));
        self.reserve += kept;
        bytes - kept
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

impl Purse {
    /// An empty purse on `budget`.
    pub fn new(budget: Box<dyn Budget>) -> Purse {
        Purse {
            budget,
            account: Mutex::new(Account::default()),
            held: AtomicUsize::new(0),
            guaranteed: AtomicUsize::new(0),
        }
    }
    /// The budget's limit; 0: none.
    pub fn limit(&self) -> usize {
        self.budget.limit()
    }
    /// Whether there is more room than before. With no lock held.
    pub fn make_room(&self) -> bool {
        self.budget.make_room()
    }
    /// For `extent` bytes more of chunks: raises what is held in any case to `bytes`, and the reserve aimed at to
    /// `reserve`. False if there is no room.
    pub fn guarantee(&self, extent: usize, bytes: usize, reserve: usize) -> bool {
        let reserve = if self.budget.limit() == 0 { 0 } else { reserve };
        self.guarantee_more(|account| {
            account.extent += extent;
            account.guarantee = account.guarantee.max(bytes);
            account.reserve_target = account.reserve_target.max(reserve);
        })
    }
    /// There are chunks of so many bytes more. False if what is guaranteed then is not there.
    pub fn extend(&self, bytes: usize) -> bool {
        self.guarantee_more(|account| account.extent += bytes)
    }
    /// So many bytes less.
    pub fn shorten(&self, bytes: usize) {
        self.guarantee_less(|account| account.extent -= bytes);
    }
    /// A chunk is acquired. False if what is guaranteed would not be left beside it.
    pub fn acquire(&self, chunk: usize) -> bool {
        self.guarantee_more(|account| account.acquired += chunk)
    }
    /// It is not any more.
    pub fn release(&self, chunk: usize) {
        self.guarantee_less(|account| account.acquired -= chunk);
    }
    /// Charges a chunk's pages.
    pub fn charge_pages(&self, bytes: usize) -> bool {
        let mut account = self.account.lock();
        let charged = self.take(&mut account, bytes);
        if charged {
            account.pages += bytes;
        }
        charged
    }
    /// Gives a chunk's pages back, to the reserve first.
    pub fn discharge_pages(&self, bytes: usize) {
        let mut account = self.account.lock();
        account.pages -= bytes;
        let excess = account.set_aside(bytes);
        self.give(&mut account, excess);
    }
    /// Charges encoded bytes, out of the reserve first.
    pub fn charge_encoded(&self, bytes: usize) -> bool {
        let mut account = self.account.lock();
        let reserved = bytes.min(account.reserve);
        account.encoded += bytes;
        let charged = self.take(&mut account, bytes - reserved);
        match charged {
            true => account.reserve -= reserved,
            false => account.encoded -= bytes,
        }
        charged
    }
    /// Gives encoded bytes back, to the reserve first.
    pub fn discharge_encoded(&self, bytes: usize) {
        let mut account = self.account.lock();
        account.encoded -= bytes;
        let excess = account.set_aside(bytes);
        self.give(&mut account, excess);
    }
    /// Charges records of chunks.
    pub fn charge_records(&self, bytes: usize) -> bool {
        let mut account = self.account.lock();
        account.records += bytes;
        let charged = self.take(&mut account, bytes);
        if !charged {
            account.records -= bytes;
        }
        self.guaranteed.store(account.guaranteed(), Relaxed);
        charged
    }
    /// Charges them whether there is room or not.
    pub fn charge_records_anyway(&self, bytes: usize) {
        let mut account = self.account.lock();
        account.records += bytes;
        account.used += bytes;
        let missing = account.needed(account.used).saturating_sub(account.held);
        self.budget.charge_anyway(missing);
        account.held += missing;
        self.held.store(account.held, Relaxed);
        self.guaranteed.store(account.guaranteed(), Relaxed);
    }
    /// Gives them back.
    pub fn discharge_records(&self, bytes: usize) {
        let mut account = self.account.lock();
        account.records -= bytes;
        self.guaranteed.store(account.guaranteed(), Relaxed);
        self.give(&mut account, bytes);
    }
    /// Whether the reserve is below its target.
    pub fn wants_reserve(&self) -> bool {
        let account = self.account.lock();
        account.reserve < account.reserve_target
    }
    /// Empties the reserve into the budget; gives the bytes.
    pub fn drop_reserve(&self) -> usize {
        let mut account = self.account.lock();
        let bytes = core::mem::take(&mut account.reserve);
        self.give(&mut account, bytes);
        bytes
    }
    /// Bytes of whole chunks in the clear.
    pub fn pages(&self) -> usize {
        self.account.lock().pages
    }
    /// Bytes charged to the instance.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
    /// Bytes that are never given back while there are regions.
    pub fn guaranteed(&self) -> usize {
        self.guaranteed.load(Relaxed)
    }
    fn guarantee_more(&self, change: impl FnOnce(&mut Account)) -> bool {
        let mut account = self.account.lock();
        let before = *account;
        change(&mut account);
        let there = self.take(&mut account, 0);
        if !there {
            *account = before;
        }
        self.guaranteed.store(account.guaranteed(), Relaxed);
        there
    }
    fn guarantee_less(&self, change: impl FnOnce(&mut Account)) {
        let mut account = self.account.lock();
        change(&mut account);
        self.guaranteed.store(account.guaranteed(), Relaxed);
        self.give(&mut account, 0);
    }
    fn take(&self, account: &mut Account, bytes: usize) -> bool {
        let taken = account.take(&*self.budget, bytes);
        self.held.store(account.held, Relaxed);
        taken
    }
    fn give(&self, account: &mut Account, bytes: usize) {
        account.give(&*self.budget, bytes);
        self.held.store(account.held, Relaxed);
    }
    /// What is promised now.
    pub fn promise(&self) -> Promise {
        let account = self.account.lock();
        Promise { guarantee: account.guarantee, reserve: account.reserve_target }
    }
    /// Promises no more than before. Gives back what was held for it without being used.
    pub fn promise_only(&self, before: Promise) {
        let mut account = self.account.lock();
        account.guarantee = before.guarantee;
        self.guaranteed.store(account.guaranteed(), Relaxed);
        account.reserve_target = before.reserve;
        let excess = account.reserve.saturating_sub(before.reserve);
        account.reserve -= excess;
        self.give(&mut account, excess);
    }
    /// Gives everything back that is held without being used. Once nothing is left.
    pub fn close(&self) {
        self.promise_only(Promise::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let used = Arc::new(AtomicUsize::new(0));
        let purse = Purse::new(Box::new(Fixed(used.clone(), 100)));
        assert!(purse.guarantee(200, 20, 10));
        assert_eq!(used.load(Relaxed), 20);
        assert!(purse.charge_pages(15), "inside the guarantee");
        assert_eq!(used.load(Relaxed), 20);
        assert!(!purse.charge_pages(86), "over the limit");
        assert!(purse.charge_pages(85));
        assert_eq!((used.load(Relaxed), purse.pages()), (100, 100));
        assert!(!purse.charge_encoded(1) && purse.wants_reserve());
        purse.discharge_pages(50);
        assert_eq!(used.load(Relaxed), 60, "10 stay in the reserve");
        assert!(!purse.wants_reserve() && purse.charge_encoded(30));
        assert_eq!(used.load(Relaxed), 80);
        purse.discharge_encoded(30);
        purse.discharge_pages(50);
        assert_eq!(used.load(Relaxed), 20);
        assert!(purse.acquire(80) && used.load(Relaxed) == 100, "beside the guarantee");
        assert!(!purse.acquire(1) && purse.guaranteed() == 100);
        assert!(!purse.charge_records(5), "beside all that");
        purse.charge_records_anyway(5);
        assert_eq!((used.load(Relaxed), purse.held(), purse.guaranteed()), (105, 105, 105));
        assert!(!purse.charge_pages(101), "beyond the limit");
        purse.release(80);
        assert_eq!((used.load(Relaxed), purse.guaranteed()), (25, 25));
        assert!(purse.charge_records(10) && used.load(Relaxed) == 35);
        purse.discharge_records(15);
        assert_eq!((used.load(Relaxed), purse.guaranteed()), (20, 20));
        purse.shorten(105);
        assert!(purse.acquire(95) && used.load(Relaxed) == 95, "all there is");
        assert!(!purse.extend(6) && purse.extend(5));
        assert_eq!((used.load(Relaxed), purse.guaranteed()), (100, 100));
        purse.release(95);
        purse.close();
        assert_eq!(used.load(Relaxed), 0);
        assert!(!Purse::new(Box::new(Fixed(used, 5))).guarantee(6, 6, 0));
    }
}
