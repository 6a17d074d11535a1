//! The calling thread's floating-point environment: how it rounds, whether it has subnormals, and which exceptions are
//! signals.
//!
//! A program may set another one than it began with, also for threads that it starts later. It asks for that for its own
//! arithmetic. What the library computes would depend on which thread computes it; an infinity that a coder meets, or a
//! quotient that a decomposition does not need, would be the program's SIGFPE. So the library computes in the default one,
//! and calls the program in the program's own.

/// An environment, with the exceptions that have been seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Environment(
    #[cfg(all(target_arch = "x86_64", not(miri)))] u32,
    /// FPCR, how the thread computes, and FPSR, the exceptions that have been seen.
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    [u64; 2],
);

/// While this lives, the thread is in the environment that was entered; afterwards again in the one before, as if nothing
/// had been computed.
pub struct Entered {
    before: Environment,
    of_this_thread: core::marker::PhantomData<*mut ()>,
}

impl Environment {
    /// Takes the thread there.
    pub fn enter(self) -> Entered {
        let before = Environment::current();
        before.change_to(self);
        Entered { before, of_this_thread: core::marker::PhantomData }
    }
    /// Takes the thread from this environment to another one. To set the register takes longer than to read it.
    fn change_to(self, other: Environment) {
        if self != other {
            other.set();
        }
    }
}
impl Entered {
    /// The environment before.
    pub fn before(&self) -> Environment {
        self.before
    }
}
impl Drop for Entered {
    fn drop(&mut self) {
        Environment::current().change_to(self.before);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl Environment {
    /// What a program begins with: it rounds to nearest, has subnormals, no exception is a signal, and none was seen.
    pub const DEFAULT: Environment = Environment(0x1F80);

    fn current() -> Environment {
        let mut register = 0u32;
        // SAFETY: this stores four bytes there.
        unsafe {
            core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack, preserves_flags))
        };
        Environment(register)
    }
    fn set(self) {
        // SAFETY: the value is the default, or was in the register before.
        unsafe {
            core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const self.0, options(nostack, preserves_flags))
        };
    }
}
#[cfg(all(target_arch = "aarch64", not(miri)))]
impl Environment {
    /// As above.
    pub const DEFAULT: Environment = Environment([0, 0]);

    fn current() -> Environment {
        let (control, status): (u64, u64);
        // SAFETY: this only reads two registers.
        unsafe {
            core::arch::asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) control, out(reg) status, options(nostack, preserves_flags))
        };
        Environment([control, status])
    }
    fn set(self) {
        let [control, status] = self.0;
        // SAFETY: the values are the default, or were in the registers before.
        unsafe {
            core::arch::asm!("msr fpcr, {}", "msr fpsr, {}", in(reg) control, in(reg) status, options(nostack, preserves_flags))
        };
    }
}
/// Elsewhere all environments are the one that the thread has.
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
impl Environment {
    /// What a program begins with.
    pub const DEFAULT: Environment = Environment();

    fn current() -> Environment {
        Environment()
    }
    fn set(self) {}
}
