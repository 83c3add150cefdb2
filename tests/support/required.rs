//! Features that a machine may lack. Tests that need one are skipped, unless it is required.

use std::env;

/// Returns `None` and prints the reason if something is missing; fails if `INTEROP_REQUIRE`
/// contains `name`.
pub(crate) fn or_skip<T>(name: &str, result: Result<T, String>) -> Option<T> {
    result
        .map_err(|reason| {
            let required = env::var("INTEROP_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|word| word.trim() == name),
                "required: {reason}"
            );
            println!("skipped: {reason}");
        })
        .ok()
}
