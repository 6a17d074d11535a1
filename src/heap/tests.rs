//! Tests of the heap as a whole, by subject.
use super::*;
use crate::error::Error;

mod blocks;
mod front;
mod late_frees;
mod limits;
mod model;
mod threads;
