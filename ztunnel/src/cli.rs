//! The command line: one word, the rest is ignored (`ztunnel-contract` 8.1).

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Run.
    Proxy,
    /// Say which version this is.
    Version,
    /// Say how to use it.
    Help,
}

/// A first word that isn't a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown command {0:?}\n{HELP}")]
pub(crate) struct UnknownCommand(String);

/// The command of a command line; `proxy` if there is none.
pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, UnknownCommand> {
    match args.next().as_deref() {
        None | Some("proxy") => Ok(Command::Proxy),
        Some("version") => Ok(Command::Version),
        Some("help") => Ok(Command::Help),
        Some(other) => Err(UnknownCommand(other.to_owned())),
    }
}

pub(crate) const HELP: &str = "\
usage: ztunnel [proxy | version | help]
  proxy    serve the pods of this node (the default); configured by the
           environment, see docs/configuration-ztunnel.md
  version  print the version
  help     print this text
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_word_counts() {
        let of = |words: &[&str]| parse(words.iter().map(|w| (*w).to_owned()));
        assert_eq!(of(&[]), Ok(Command::Proxy));
        assert_eq!(of(&["proxy", "ztunnel"]), Ok(Command::Proxy));
        assert_eq!(of(&["version", "x"]), Ok(Command::Version));
        assert_eq!(of(&["help"]), Ok(Command::Help));
        assert!(of(&["ztunnel", "proxy"]).is_err());
        assert!(of(&["--help"]).is_err());
    }
}
