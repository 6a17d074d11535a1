//! What is made once for the process, by the first product: the pool's threads, and what the crate that multiplies finds
//! out about the processor.
//!
//! A child that is forked while another thread makes it would wait for that thread for ever. So fork makes it too, once a
//! product has begun: either it waits until all is made, or there is nothing left to make.
use super::threads;
use crate::os::fork::{Hooks, Rank, register};
use crate::tensor::Complex;
use faer::{Accum, Mat, Par, linalg::matmul::matmul};
use std::sync::OnceLock;

static MADE: OnceLock<()> = OnceLock::new();
static HOOKS: Hooks = Hooks { prepare: finish, parent: || (), child: || () };

/// Before anything that uses the pool or multiplies.
pub fn ready() {
    if MADE.get().is_none() {
        register(Rank::Products, &HOOKS);
        make();
    }
}
fn finish() {
    make();
    threads::finish();
}
fn make() {
    MADE.get_or_init(|| {
        // Large enough not to be multiplied by the code for small matrices, which asks for nothing.
        const SIZE: usize = 32;
        let zeros = Mat::<Complex>::zeros(SIZE, SIZE);
        let mut product = zeros.clone();
        matmul(&mut product, Accum::Replace, &zeros, &zeros, Complex::new(1.0, 0.0), Par::Seq);
    });
}
