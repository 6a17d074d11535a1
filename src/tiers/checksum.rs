//! The checksum of chunks: of encoded bytes, to find damage; of bytes in the clear, to know whether a chunk that leaves was
//! written to while it was in place. CRC-64/NVME: where the processor multiplies polynomials it is as fast as memory is read.
//!
//! Not seeing a change would lose a write. Two contents whose differences lie within 64 bits never have the same checksum, nor
//! have those that differ by the same bits in any number of like places, such as a chunk of numbers whose signs were turned;
//! of all others one pair in 2^64 has.
use crc_fast::CrcAlgorithm::Crc64Nvme;

/// The checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Nvme, bytes)
}
/// Finds out what this processor has. Before any chunk moves: the first checksum must not be made in a signal handler.
pub fn prepare() {
    checksum(&[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    const CHUNK: usize = 1 << 20;
    #[test]
    fn it_is_the_published_one() {
        assert_eq!(checksum(b"123456789"), 0xAE8B_1486_0A79_9888);
    }
    #[test]
    fn any_change_of_one_bit_or_word_is_seen() {
        let mut bytes: Vec<u8> = (0..CHUNK).map(|i| ((i * i) >> 7) as u8).collect();
        let before = checksum(&bytes);
        for bit in (0..CHUNK * 8).step_by(8 * 4099 + 1) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&bytes), before, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for start in (0..CHUNK - 8).step_by(4099) {
            let word = bytes[start..start + 8].to_vec();
            bytes[start..start + 8].reverse();
            assert_eq!(checksum(&bytes) == before, bytes[start..start + 8] == word[..], "word at {start}");
            bytes[start..start + 8].copy_from_slice(&word);
        }
        assert_eq!(checksum(&bytes), before);
    }
    #[test]
    fn the_same_change_in_many_places_is_seen() {
        let bytes: Vec<u8> = (0..CHUNK).map(|i| ((i * i) >> 7) as u8).collect();
        for period in [2, 4, 8, 16, 64, 4096] {
            for count in [2, 3, 4, 64, CHUNK / period] {
                let count = count.min(CHUNK / period);
                let mut changed = bytes.clone();
                (0..count).for_each(|i| changed[i * period + period - 1] ^= 0x80);
                assert_ne!(checksum(&changed), checksum(&bytes), "{count} signs, one in {period} bytes");
            }
        }
    }
    #[test]
    fn zeroes_count() {
        let zeroes = vec![0; CHUNK];
        assert!((1..4096).all(|length| checksum(&zeroes[..length]) != checksum(&zeroes[..length - 1])));
    }
}
