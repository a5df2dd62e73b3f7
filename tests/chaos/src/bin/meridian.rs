//! The program under test: the same as `meridian`, built with the tests.

fn main() -> std::process::ExitCode {
    node::main()
}
