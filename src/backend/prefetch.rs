//! Asks the processor for memory before it is needed. Hints: they change nothing but time, and do nothing where there is no such
//! instruction.

/// Brings the cache line at `value` near.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    ask::<true, T>(value);
}

/// Brings the cache line at `value` as near as the second cache, which leaves the first to what is read now.
#[inline(always)]
pub fn prefetch_far<T>(value: &T) {
    ask::<false, T>(value);
}

#[inline(always)]
fn ask<const NEAR: bool, T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let at = std::ptr::from_ref(value).cast();
        // SAFETY: a prefetch reads nothing that the program could see, from any address; SSE is part of x86-64.
        unsafe { if NEAR { _mm_prefetch::<_MM_HINT_T0>(at) } else { _mm_prefetch::<_MM_HINT_T1>(at) } };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
