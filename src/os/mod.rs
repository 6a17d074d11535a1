//! The operating system: mapped memory, locks, threads, fork. Only this layer makes system calls. All of them that can fail
//! are in one file, `system`, where tests make them fail.
pub mod atomic;
pub mod environment;
pub mod errno;
#[cfg(debug_assertions)]
pub mod findings;
pub mod floating_point;
pub mod fork;
pub mod injection;
pub mod lock;
pub mod map;
pub mod numa;
pub mod placement;
pub mod private_file;
pub mod records;
pub mod stack;
pub mod system;
pub mod thread;
pub mod watch;

/// Makes the compiler hold the address of a static in a register. Otherwise it loads the address from the global offset
/// table each time the static is indexed, because another library might define the static too.
#[inline(always)]
pub fn in_register<T>(of: &'static T) -> &'static T {
    let mut address: *const T = of;
    // SAFETY: the assembly does nothing.
    #[cfg(not(miri))]
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) address, options(pure, readonly, nostack, preserves_flags));
    }
    // SAFETY: the address is still that of `of`.
    unsafe { &*address }
}
