//! Entry point of `ambit`.

use std::io::{stderr, stdin, stdout};
use std::process::ExitCode;

use ambit::Streams;
use ambit_runtime::ProcessEnv;

fn main() -> ExitCode {
    let mut streams = Streams {
        input: &mut stdin(),
        output: &mut stdout(),
        notes: &mut stderr(),
    };
    ambit::run(std::env::args_os(), &ProcessEnv, &mut streams).into()
}
