//! The calling thread's floating-point environment: how it rounds, whether it has subnormals, and which exceptions are
//! signals.
//!
//! A program may set another one than it began with, also for threads that it starts later. It asks for that for its own
//! arithmetic. What the library computes would depend on which thread computes it; an infinity that a coder meets, or a
//! quotient that a decomposition does not need, would be the program's SIGFPE. So the library computes in the default one
//! ([`Computing`]), and calls the program in the program's own ([`programs`]).
use core::cell::Cell;

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
impl Drop for Entered {
    fn drop(&mut self) {
        Environment::current().change_to(self.before);
    }
}

std::thread_local! {
    /// The program's environment, while a call of it computes in the default one.
    static PROGRAMS: Cell<Option<Environment>> = const { Cell::new(None) };
}
/// While this lives, the thread computes for a call of the program.
pub struct Computing {
    outer: Option<Environment>,
    _entered: Entered,
}
impl Computing {
    /// Takes the thread to the default environment.
    pub fn begin() -> Computing {
        let entered = Environment::DEFAULT.enter();
        Computing { outer: PROGRAMS.replace(Some(entered.before)), _entered: entered }
    }
}
impl Drop for Computing {
    fn drop(&mut self) {
        PROGRAMS.set(self.outer);
    }
}
/// While this lives, the thread runs code of the program.
pub struct Programs {
    computing: Option<Environment>,
    _entered: Option<Entered>,
}
/// Takes the thread to the program's environment, if it computes for a call of the program. Elsewhere it is there already.
pub fn programs() -> Programs {
    let computing = PROGRAMS.take();
    Programs { computing, _entered: computing.map(Environment::enter) }
}
impl Drop for Programs {
    fn drop(&mut self) {
        PROGRAMS.set(self.computing);
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

#[cfg(all(test, target_arch = "x86_64", not(miri)))]
mod tests {
    use super::*;
    #[test]
    fn the_program_is_called_in_its_own_environment_at_any_depth() {
        let upward = Environment(Environment::DEFAULT.0 | 0x4000);
        let downward = Environment(Environment::DEFAULT.0 | 0x2000);
        let is = |expected: Environment| assert!(Environment::current() == expected);
        let program = upward.enter();
        drop(programs());
        is(upward);
        let call = Computing::begin();
        is(Environment::DEFAULT);
        let callback = programs();
        is(upward);
        {
            // The callback sets another one, and calls the library, which calls it back.
            let _changed = downward.enter();
            let _inner = Computing::begin();
            is(Environment::DEFAULT);
            let _callback = programs();
            is(downward);
        }
        is(upward);
        drop(callback);
        is(Environment::DEFAULT);
        drop(programs());
        is(Environment::DEFAULT);
        drop(call);
        is(upward);
        drop(program);
    }
}
