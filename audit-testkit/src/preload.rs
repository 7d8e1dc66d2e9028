//! Libraries that are loaded before libc into a process under test.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compiles C source into the shared library `name` in `scratch`.
///
/// # Errors
///
/// If there is no C compiler, or it refuses.
pub(crate) fn compile(scratch: &Path, name: &str, source: &str) -> io::Result<PathBuf> {
    let library = scratch.join(format!("{name}.so"));
    let mut compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-x", "c", "-o"])
        .arg(&library)
        .args(["-", "-lpthread"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cc can't be run: {e}; hint: install gcc and libc6-dev"),
            )
        })?;
    if let Some(stdin) = &mut compiler.stdin {
        stdin.write_all(source.as_bytes())?;
    }
    let done = compiler.wait_with_output()?;
    if done.status.success() {
        Ok(library)
    } else {
        Err(io::Error::other(format!(
            "cc refuses {name}.c: {}; hint: install gcc and libc6-dev",
            String::from_utf8_lossy(&done.stderr)
        )))
    }
}
