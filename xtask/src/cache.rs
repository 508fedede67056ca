//! What is fetched once for all clones of the repository: kernels of guests, captures.

use std::{env, path::PathBuf};

use crate::workspace;

/// Where it is kept: `flowprobe` in the user's directory of caches, or beside what cargo builds where
/// the user has none.
pub(crate) fn directory() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.filter(|path| path.is_absolute()).or_else(home);
    cache.unwrap_or_else(workspace::target).join("flowprobe")
}
