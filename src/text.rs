//! Text in a buffer of fixed size, made without allocating.
use core::ffi::CStr;
use core::fmt;

/// A text that is written into a buffer. A zero always ends it. What does not fit is cut off, between two characters.
pub struct Text<'a> {
    buffer: &'a mut [u8],
    used: usize,
}
impl<'a> Text<'a> {
    /// An empty text. The buffer must have at least one byte.
    pub fn new(buffer: &'a mut [u8]) -> Text<'a> {
        buffer[0] = 0;
        Text { buffer, used: 0 }
    }
    /// Adds all of `bytes`, or nothing if they do not fit.
    pub fn add(&mut self, bytes: &[u8]) -> fmt::Result {
        let end = self.used + bytes.len();
        if end >= self.buffer.len() {
            return Err(fmt::Error);
        }
        self.buffer[self.used..end].copy_from_slice(bytes);
        self.buffer[end] = 0;
        self.used = end;
        Ok(())
    }
    /// The text so far, without the zero.
    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }
    /// The text up to its first zero.
    pub fn finish(self) -> &'a CStr {
        CStr::from_bytes_until_nul(self.buffer).unwrap_or_default()
    }
}
impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut taken = text.len().min(self.buffer.len() - 1 - self.used);
        while !text.is_char_boundary(taken) {
            taken -= 1;
        }
        self.add(&text.as_bytes()[..taken])?;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write;
    #[test]
    fn what_has_no_room_is_cut_between_characters() {
        let mut buffer = [0xFF; 6];
        let mut text = Text::new(&mut buffer);
        assert!(text.write_str("aüüü").is_err());
        assert_eq!(text.as_bytes(), "aüü".as_bytes());
        assert_eq!(text.finish().to_bytes(), "aüü".as_bytes());
    }
    #[test]
    fn bytes_are_added_whole_or_not_at_all() {
        let mut buffer = [0xFF; 4];
        let mut text = Text::new(&mut buffer);
        assert!(text.add(b"abcd").is_err() && text.add(b"ab").is_ok() && text.add(b"cd").is_err());
        assert!(text.add(b"c").is_ok() && text.add(b"").is_ok());
        assert_eq!(text.finish(), c"abc");
        assert_eq!(Text::new(&mut buffer).finish(), c"");
    }
}
