//! The calling thread's floating-point environment: how it rounds, and which exceptions are signals.

/// While this lives, the thread computes in the environment that programs begin with: it rounds to nearest, has
/// subnormals, and no exception is a signal. A program may have set another one, also for threads that it starts later, but
/// it did not ask for the arithmetic of coders: an infinity that is coded must not be its SIGFPE.
pub struct DefaultEnvironment(#[cfg(all(target_arch = "x86_64", not(miri)))] u32);

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod control {
    /// What a program begins with.
    const DEFAULT: u32 = 0x1F80;
    /// The exceptions that have been seen. They control nothing.
    const FLAGS: u32 = 0x3F;

    fn get() -> u32 {
        let mut control = 0u32;
        // SAFETY: this stores four bytes there.
        unsafe {
            core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags))
        };
        control
    }
    fn set(control: u32) {
        // SAFETY: `control` is the default, or was in the register before.
        unsafe {
            core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, preserves_flags))
        };
    }
    impl super::DefaultEnvironment {
        /// Takes the thread there.
        pub fn enter() -> Self {
            let before = get();
            if before & !FLAGS != DEFAULT {
                set(DEFAULT);
            }
            Self(before)
        }
    }
    impl Drop for super::DefaultEnvironment {
        fn drop(&mut self) {
            if self.0 & !FLAGS != DEFAULT {
                set(self.0);
            }
        }
    }
}
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
impl DefaultEnvironment {
    /// Nothing: other processors are not tested.
    pub fn enter() -> Self {
        Self()
    }
}
