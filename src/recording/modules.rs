//! The files that code of this process was loaded from. `unimem report` uses them to find names for
//! addresses.
use crate::os::system::{self, FileState};
use core::ffi::{CStr, c_int, c_void};

/// One such file.
pub struct Module<'a> {
    /// What is added to the file's addresses.
    pub bias: usize,
    /// First address, and one past the last.
    pub range: (usize, usize),
    /// Size and time of the file, if the system tells them.
    pub file: Option<FileState>,
    /// The path of the file.
    pub path: &'a [u8],
}

/// Calls `each` with every file. Does not allocate.
pub fn for_each(mut each: impl FnMut(&Module)) {
    let mut each: &mut dyn FnMut(&Module) = &mut each;
    // SAFETY: `visit` gets the pointer to `each` that it expects, and only during the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut each).cast()) };
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, each: *mut c_void) -> c_int {
    // SAFETY: `info` is the loader's description of one file, and `each` is what `for_each` passed.
    let (info, each) = unsafe { (&*info, &mut *each.cast::<&mut dyn FnMut(&Module)>()) };
    // SAFETY: the loader's table has that many headers.
    let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let bias = info.dlpi_addr as usize;
    let start = loaded.clone().map(|header| bias + header.p_vaddr as usize).min();
    let end = loaded.map(|header| bias + (header.p_vaddr + header.p_memsz) as usize).max();
    let (Some(start), Some(end)) = (start, end) else { return 0 };
    // SAFETY: the loader's name is terminated by a zero. The program's own name is empty.
    let mut name = unsafe { CStr::from_ptr(info.dlpi_name) };
    if name.is_empty() {
        name = c"/proc/self/exe";
    }
    let mut buffer = [0; libc::PATH_MAX as usize];
    let path = system::real_path(name, &mut buffer).unwrap_or(name);
    each(&Module { bias, range: (start, end), file: system::file_state(path).ok(), path: path.to_bytes() });
    0
}
