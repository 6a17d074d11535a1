//! Which vector instructions the coders run with. This is chosen once; tests run each choice.
//!
//! The kernels are plain loops marked `#[inline(always)]`. [`Isa::run`] compiles them once for each instruction set,
//! and the compiler makes vector code of them.
use std::sync::OnceLock;

/// An instruction set this processor has.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// What every processor of the architecture has.
    Baseline,
    /// AVX2 and its contemporaries (x86-64-v3).
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// AVX-512 F, BW, CD, DQ, VL (x86-64-v4).
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
}
impl Isa {
    /// All instruction sets that this processor has, the best last.
    pub fn all() -> Vec<Isa> {
        let all = core::iter::once(Isa::Baseline);
        #[cfg(target_arch = "x86_64")]
        let all = all
            .chain(pulp::x86::V3::try_new().map(Isa::Avx2))
            .chain(pulp::x86::V4::try_new().map(Isa::Avx512));
        all.collect()
    }
    /// The best this processor has.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::all().pop().unwrap_or(Isa::Baseline))
    }
    /// The same without AVX-512, for loops over rows of lanes: with AVX-512 the compiler makes gathers down the lanes
    /// of them.
    pub fn narrow(self) -> Isa {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(token) => Isa::Avx2(*token),
            isa => isa,
        }
    }
    /// The instructions of AVX2, if they are among these.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn avx2(self) -> Option<pulp::core_arch::x86::Avx2> {
        match self {
            Isa::Baseline => None,
            Isa::Avx2(token) => Some(token.avx2),
            Isa::Avx512(token) => Some(token.avx2),
        }
    }
    /// Runs `kernel` compiled for this instruction set.
    #[inline(always)]
    pub fn run<R>(self, kernel: impl FnOnce() -> R) -> R {
        match self {
            Isa::Baseline => kernel(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => token.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(token) => token.vectorize(kernel),
        }
    }
}

/// Prefetches bytes that will be read or written soon. The processor's own prefetching stops at the end of a page,
/// and while it computes.
#[inline(always)]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it reads nothing the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
