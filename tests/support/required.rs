//! What a machine may lack: tests that need it are skipped, unless they are required.

use std::env;

/// `None`, and says why, if something is missing here; fails if `INTEROP_REQUIRE` has the name of what it is needed for.
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
