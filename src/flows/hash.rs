//! The keyed hash of the table: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, with the
//! rounds that Rust's standard library uses), so that nobody outside can choose 5-tuples that meet in one bucket.
//!
//! The standard library's takes bytes one slice at a time and costs several times as much on inputs this short; the
//! tests compare the two.

use std::hash::{BuildHasher, RandomState};

/// The secret of one table.
#[derive(Clone, Copy)]
pub(super) struct Secret(u64, u64);

impl Secret {
    /// A secret drawn from the system.
    pub fn random() -> Self {
        let draw = || RandomState::new().hash_one(());
        Self(draw(), draw())
    }

    /// The hash of `words`, little-endian, and one byte after them.
    #[inline(always)]
    pub fn hash<const N: usize>(self, words: [u64; N], last: u8) -> u64 {
        let Self(k0, k1) = self;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let length = (8 * N as u64 + 1) << 56;
        for word in words.into_iter().chain([length | u64::from(last)]) {
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        for _ in 0..3 {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    /// `DefaultHasher::new` is SipHash-1-3 with a secret of zeros.
    #[test]
    fn it_is_the_standard_librarys() {
        let bytes: Vec<u8> = (0..41u8).map(|i| i.wrapping_mul(37) + 5).collect();
        let words: Vec<u64> = bytes[..40].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        let standard = |bytes: &[u8]| {
            let mut hasher = DefaultHasher::new();
            hasher.write(bytes);
            hasher.finish()
        };
        let zero = Secret(0, 0);
        assert_eq!(zero.hash(<[u64; 5]>::try_from(words.clone()).unwrap(), bytes[40]), standard(&bytes));
        assert_eq!(zero.hash([words[0], words[1]], bytes[16]), standard(&bytes[..17]));
    }

    #[test]
    fn secrets_differ() {
        let hash = || Secret::random().hash([1, 2], 3);
        assert_ne!(hash(), hash());
    }
}
