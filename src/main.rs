//! The binary: parse, configure, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    askwhen::cli::main()
}
