//! The command `vicino`, also as `kubectl-vicino`: hands the command line to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vicino_operator::cli::main(std::env::args_os().collect())
}
