//! Compiles the few lines of C that stable Rust has no words for, each explained in its own file.
use std::env;

fn compile(library: &str, sources: &[&str]) {
    let mut build = cc::Build::new();
    build.std("c11").include("include").warnings(true).extra_warnings(true).flag_if_supported("-pedantic");
    build.files(sources).compile(library);
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
}

/// Whether Cargo builds for a system that the library can run on.
fn is_supported() -> bool {
    let is = |name: &str, value: &str| {
        env::var(format!("CARGO_CFG_TARGET_{name}")).is_ok_and(|found| found == value)
    };
    is("OS", "linux") && is("ENV", "gnu") && is("POINTER_WIDTH", "64") && is("ENDIAN", "little")
}

fn main() {
    if !is_supported() {
        let target = env::var("TARGET").unwrap_or_default();
        println!(
            "cargo::error=libunimem needs Linux with glibc on a little-endian processor of 64 bits, which {target} is not"
        );
        return;
    }
    println!("cargo::rustc-check-cfg=cfg(unimem_hwloc)");
    compile("unimem_c", &["src/c_api/seam.c", "src/os/thread_pointer.c"]);
    let processor = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if env::var_os("CARGO_FEATURE_HWLOC").is_some() && matches!(processor.as_str(), "x86_64" | "aarch64") {
        // The archive's name answers the `-lhwloc` that hwlocality-sys asks for.
        compile("hwloc", &["src/os/hwloc_shim.c"]);
        println!("cargo::rerun-if-changed=src/os/hwloc_functions.h");
        println!("cargo::rustc-cfg=unimem_hwloc");
    }
    println!("cargo::rerun-if-changed=include/unimem");
}
