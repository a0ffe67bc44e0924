//! The server name of a ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), read
//! without taking part in the handshake.

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// Too few to tell.
    Partial,
    /// No ClientHello, or one that names nobody.
    Nameless,
    /// This server is meant.
    Name(Box<str>),
}

/// Reads a server name.
pub(super) fn server_name(seen: &[u8]) -> Hello {
    match read(seen) {
        Ok(name) => name.map_or(Hello::Nameless, Hello::Name),
        Err(Short) => Hello::Partial,
    }
}

/// The bytes end before the part does.
struct Short;

fn read(seen: &[u8]) -> Result<Option<Box<str>>, Short> {
    let mut record = Bytes(seen);
    if record.take(1)? != [HANDSHAKE] {
        return Ok(None);
    }
    record.take(2)?;
    let length = record.number(2)?;
    // A hello in several records is rare, and goes on without a name.
    let mut hello = Bytes(record.take(length)?);
    let name = hello.fields();
    Ok(name.unwrap_or(None))
}

/// What is left of some bytes.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Short> {
        let bytes = self.take(bytes)?;
        Ok(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    /// Skips a field that starts with its length.
    fn skip(&mut self, bytes: usize) -> Result<(), Short> {
        let length = self.number(bytes)?;
        self.take(length).map(drop)
    }

    fn fields(&mut self) -> Result<Option<Box<str>>, Short> {
        if self.take(1)? != [CLIENT_HELLO] {
            return Ok(None);
        }
        self.take(3 + 2 + 32)?;
        self.skip(1)?;
        self.skip(2)?;
        self.skip(1)?;
        let length = self.number(2)?;
        let mut extensions = Self(self.take(length)?);
        while !extensions.0.is_empty() {
            let kind = extensions.number(2)?;
            let length = extensions.number(2)?;
            let mut extension = Self(extensions.take(length)?);
            if kind != SERVER_NAME {
                continue;
            }
            extension.number(2)?;
            if extension.number(1)? != 0 {
                return Ok(None);
            }
            let length = extension.number(2)?;
            let name = std::str::from_utf8(extension.take(length)?).ok();
            let plain = |name: &&str| {
                let mut bytes = name.bytes();
                !name.is_empty() && bytes.all(|b| b.is_ascii_graphic())
            };
            return Ok(name
                .filter(plain)
                .map(|name| name.to_ascii_lowercase().into()));
        }
        Ok(None)
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(ambit_identity::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn names_of_real_hellos() {
        let bytes = hello("Cart.example.com");
        assert_eq!(server_name(&bytes), Hello::Name("cart.example.com".into()));
        assert_eq!(server_name(&hello("10.0.0.1")), Hello::Nameless);
        assert_eq!(server_name(b"GET / HTTP/1.1"), Hello::Nameless);
        for n in 0..bytes.len() {
            assert_eq!(server_name(&bytes[..n]), Hello::Partial, "{n}");
        }
    }
}
