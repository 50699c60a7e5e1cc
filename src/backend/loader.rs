//! Whether libraries can be loaded at run time at all.

/// Whether the process runs without the system's loader, as programs linked with -static do. The C library has its
/// `dlopen` there as well, but libraries that it opens crash.
pub fn is_missing() -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    // The C library or the loader, by whatever names they have.
    let loads = |name: &str| ["ld-", "ld64", "libc.", "libc-"].iter().any(|start| name.starts_with(start));
    !maps.lines().any(|line| line.rsplit_once('/').is_some_and(|(_, name)| loads(name)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_program_has_one() {
        assert!(!super::is_missing());
    }
}
