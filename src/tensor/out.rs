//! Elements that are to be written.
use super::Complex;
use core::mem::MaybeUninit;
use core::slice::SliceIndex;

/// Elements to write. Nothing need have been written there before: a fresh block holds no numbers yet, so there may be no
/// slice of numbers over it. Safe code can only write numbers here.
pub struct Out<'a>(&'a mut [MaybeUninit<Complex>]);

impl<'a> Out<'a> {
    /// The `count` elements from `start` on.
    ///
    /// # Safety
    /// They are aligned and can be written, and nobody else uses them while the result lives.
    pub unsafe fn new(start: *mut Complex, count: usize) -> Out<'a> {
        // SAFETY: by the caller's promise. Memory that was not written is valid as what may be uninitialised.
        Out(unsafe { core::slice::from_raw_parts_mut(start.cast(), count) })
    }
    /// How many elements there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
    /// The first of them. Through the pointer only numbers may be written.
    pub fn as_mut_ptr(&mut self) -> *mut Complex {
        self.0.as_mut_ptr().cast()
    }
    /// Some of them.
    ///
    /// # Panics
    /// If the range goes beyond them.
    pub fn part(
        &mut self,
        range: impl SliceIndex<[MaybeUninit<Complex>], Output = [MaybeUninit<Complex>]>,
    ) -> Out<'_> {
        Out(&mut self.0[range])
    }
    /// Writes all of them.
    ///
    /// # Panics
    /// If there are not as many `elements`.
    pub fn copy_from(&mut self, elements: &[Complex]) {
        assert_eq!(self.count(), elements.len());
        // SAFETY: there are as many of both, and nobody else uses these.
        unsafe { self.as_mut_ptr().copy_from_nonoverlapping(elements.as_ptr(), elements.len()) };
    }
    /// Makes all of them 0.
    pub fn clear(&mut self) {
        self.0.fill(MaybeUninit::new(Complex::new(0.0, 0.0)));
    }
    /// What was written.
    ///
    /// # Safety
    /// All elements have been written.
    pub unsafe fn written(&self) -> &[Complex] {
        // SAFETY: all are initialised, by the caller's promise.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), self.count()) }
    }
    /// What was written, to be changed.
    ///
    /// # Safety
    /// All elements have been written.
    pub unsafe fn written_mut(&mut self) -> &mut [Complex] {
        // SAFETY: all are initialised, by the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.as_mut_ptr(), self.count()) }
    }
}
impl<'a> From<&'a mut [Complex]> for Out<'a> {
    fn from(elements: &'a mut [Complex]) -> Out<'a> {
        // SAFETY: a slice can be written, and is borrowed exclusively.
        unsafe { Out::new(elements.as_mut_ptr(), elements.len()) }
    }
}
