//! The RAM the tiers may hold, shared with the instance's plain blocks.
use crate::os::lock::Mutex;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The instance's account. Called with all signals of the thread blocked and with a lock of the engine held, also
/// from fault handlers: it must neither allocate nor call back into the engine.
pub trait Budget: Send + Sync {
    /// Takes `bytes` out of what the instance may still hold. False if there is not that much.
    fn try_charge(&self, bytes: usize) -> bool;
    /// Gives `bytes` back.
    fn discharge(&self, bytes: usize);
    /// What the instance may hold in all; 0: no limit.
    fn limit(&self) -> usize;
}

/// An account without a limit.
pub struct Unlimited;
impl Budget for Unlimited {
    fn try_charge(&self, _bytes: usize) -> bool {
        true
    }
    fn discharge(&self, _bytes: usize) {}
    fn limit(&self) -> usize {
        0
    }
}

/// What an engine holds of its instance's budget.
///
/// A little is kept whether it is used or not, so that plain blocks cannot take the last memory with which chunks
/// move (`guarantee`). And where there is a limit, a *reserve* is set aside for encoded chunks: an eviction needs
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
#[derive(Default)]
struct Account {
    /// In use, the reserve included.
    used: usize,
    /// Charged to the instance: the greater of `used` and `guarantee`.
    held: usize,
    guarantee: usize,
    reserve: usize,
    reserve_target: usize,
    /// Of what is used: whole chunks in the clear.
    pages: usize,
}
impl Account {
    fn take(&mut self, budget: &dyn Budget, bytes: usize) -> bool {
        let needed = (self.used + bytes).max(self.guarantee);
        if needed > self.held && !budget.try_charge(needed - self.held) {
            return false;
        }
        self.held = self.held.max(needed);
        self.used += bytes;
        true
    }
    fn give(&mut self, budget: &dyn Budget, bytes: usize) {
        self.used -= bytes;
        let needed = self.used.max(self.guarantee);
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
    /// Raises what is held in any case to `bytes`, and the reserve aimed at to `reserve`. False if there is no room.
    pub fn guarantee(&self, bytes: usize, reserve: usize) -> bool {
        let mut account = self.account.lock();
        let old = account.guarantee;
        account.guarantee = old.max(bytes);
        if !self.take(&mut account, 0) {
            account.guarantee = old;
            return false;
        }
        self.guaranteed.store(account.guarantee, Relaxed);
        if self.budget.limit() != 0 {
            account.reserve_target = account.reserve_target.max(reserve);
        }
        true
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
        let kept = bytes.min(account.reserve_target.saturating_sub(account.reserve));
        account.reserve += kept;
        self.give(&mut account, bytes - kept);
    }
    /// Charges encoded bytes, out of the reserve first.
    pub fn charge_encoded(&self, bytes: usize) -> bool {
        let mut account = self.account.lock();
        let reserved = bytes.min(account.reserve);
        if !self.take(&mut account, bytes - reserved) {
            return false;
        }
        account.reserve -= reserved;
        true
    }
    /// Gives encoded bytes back, to the reserve first.
    pub fn discharge_encoded(&self, bytes: usize) {
        let mut account = self.account.lock();
        let kept = bytes.min(account.reserve_target.saturating_sub(account.reserve));
        account.reserve += kept;
        self.give(&mut account, bytes - kept);
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
        self.guaranteed.store(before.guarantee, Relaxed);
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
        assert!(purse.guarantee(20, 10));
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
        purse.close();
        assert_eq!(used.load(Relaxed), 0);
        assert!(!Purse::new(Box::new(Fixed(used, 5))).guarantee(6, 0));
    }
}
