//! The binary `audit-trail`.

use std::process::ExitCode;

fn main() -> ExitCode {
    audit_cli::main()
}
