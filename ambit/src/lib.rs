//! The command line: analyse, explain, inspect.
