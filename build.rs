//! Compiles the few lines of C that stable Rust has no words for.
fn main() {
    let sources = ["src/os/thread_pointer.c"];
    cc::Build::new().files(sources).std("c11").warnings(true).extra_warnings(true).compile("unimem_c");
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
}
