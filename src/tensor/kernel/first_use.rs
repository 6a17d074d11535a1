//! What is made once for the process:
//!
//! - the threads of the first product;
//! - what faer, the crate of the decompositions, finds out about the processor, and the memory it takes for its work: 64
//!   MiB of address space, without which it ends the program.
//!
//! If the process forked while another thread makes this, the child would wait for that thread for ever. So it is made
//! under a lock that fork takes.
use crate::log::{QuietGuard, lock_quietly};
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::tensor::Complex;
use core::sync::atomic::{AtomicBool, Ordering::*};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};

static MAKING: Mutex<()> = Mutex::new(());
/// Takes the lock around fork (load.rs).
pub static HOOKS: &dyn AtFork = &MAKING;
/// Takes the lock under which things are made once. Messages wait until it is released (`lock_quietly`).
pub fn making() -> QuietGuard<'static, ()> {
    lock_quietly(&MAKING)
}

static MADE: AtomicBool = AtomicBool::new(false);
/// Gets faer ready. To be called before the first decomposition.
pub fn ready() {
    if !MADE.load(Acquire) {
        make();
    }
}
#[cold]
fn make() {
    let _making = making();
    if MADE.load(Relaxed) {
        return;
    }
    // Large enough that faer does not use its code for small matrices, which prepares nothing.
    const SIZE: usize = 32;
    let zeros = Mat::<Complex>::zeros(SIZE, SIZE);
    let mut product = zeros.clone();
    matmul(&mut product, Accum::Replace, &zeros, &zeros, Complex::new(1.0, 0.0), Par::Seq);
    MADE.store(true, Release);
}
