//! mimalloc 2 with guard pages, encoded free lists and randomised allocation (`MI_SECURE=4`), as an archive: the Makefile
//! makes a shared library of it, whose C functions are mimalloc's own.
extern crate libmimalloc_sys;
