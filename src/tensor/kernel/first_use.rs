//! What is made once for the process: the threads of the first product, and what the crate of the decompositions finds out
//! about the processor and takes for its work (64 MiB of address space, without which it ends the program).
//!
//! A child that is forked while another thread makes it would wait for that thread for ever. So it is made under a lock
//! that fork takes.
use crate::log::{QuietGuard, lock_quietly};
use crate::os::fork::AtFork;
use crate::os::lock::Mutex;
use crate::tensor::Complex;
use core::sync::atomic::{AtomicBool, Ordering::*};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};

static MAKING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub static HOOKS: &dyn AtFork = &MAKING;
/// The lock under which things are made once.
pub fn making() -> QuietGuard<'static, ()> {
    lock_quietly(&MAKING)
}

static MADE: AtomicBool = AtomicBool::new(false);
/// Before anything that is decomposed.
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
    // Large enough not to be multiplied by the code for small matrices, which asks for nothing.
    const SIZE: usize = 32;
    let zeros = Mat::<Complex>::zeros(SIZE, SIZE);
    let mut product = zeros.clone();
    matmul(&mut product, Accum::Replace, &zeros, &zeros, Complex::new(1.0, 0.0), Par::Seq);
    MADE.store(true, Release);
}
