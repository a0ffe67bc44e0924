//! Single values of a rule: strings with wildcards, address blocks, ports, service accounts.

use std::net::IpAddr;

use ambit_proto::security::string_match::{MatchType, Presence};
use ambit_proto::security::{Address, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

use super::Fault;

/// Reads values of a policy in a namespace, collecting what can't be used.
pub(super) struct Values<'a> {
    pub(super) namespace: &'a str,
    pub(super) faults: &'a mut Vec<Fault>,
}

impl Values<'_> {
    pub(super) fn fault(&mut self, field: &str, value: &str, wrong: &str, remedy: &'static str) {
        self.faults.push(Fault {
            field: field.to_owned(),
            value: Some(value.to_owned()),
            wrong: wrong.to_owned(),
            remedy,
        });
    }

    /// Something that must be there and isn't.
    pub(super) fn gap(&mut self, field: &str, wrong: &str, remedy: &'static str) {
        self.faults.push(Fault {
            field: field.to_owned(),
            value: None,
            wrong: wrong.to_owned(),
            remedy,
        });
    }

    pub(super) fn strings(&mut self, field: &str, list: &[String]) -> Vec<StringMatch> {
        self.each(field, list, Self::string)
    }

    pub(super) fn principals(&mut self, field: &str, list: &[String]) -> Vec<StringMatch> {
        self.each(field, list, |values, field, text| {
            if text.starts_with("spiffe://") {
                values.fault(
                    field,
                    text,
                    "principals are compared without spiffe://, so this one never matches",
                    "leave spiffe:// out",
                );
                return None;
            }
            values.string(field, text)
        })
    }

    pub(super) fn blocks(&mut self, field: &str, list: &[String]) -> Vec<Address> {
        self.each(field, list, |values, field, text| {
            let block = text
                .parse::<IpAddr>()
                .map(IpNet::from)
                .or_else(|_| text.parse());
            let Ok(block) = block else {
                values.fault(
                    field,
                    text,
                    "neither an address nor a block of addresses",
                    "write an address, or a block such as 10.0.0.0/8",
                );
                return None;
            };
            let block = canonical(block).trunc();
            let address = match block.addr() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            Some(Address {
                address,
                length: block.prefix_len().into(),
            })
        })
    }

    pub(super) fn ports(&mut self, field: &str, list: &[String]) -> Vec<u32> {
        self.each(field, list, |values, field, text| {
            let port = text.parse::<u16>().ok().map(u32::from);
            if port.is_none() {
                values.fault(field, text, "not a port", "write a number from 0 to 65535");
            }
            port
        })
    }

    pub(super) fn accounts(&mut self, field: &str, list: &[String]) -> Vec<ServiceAccountMatch> {
        self.each(field, list, |values, field, text| {
            let (namespace, account) = text.split_once('/').unwrap_or((values.namespace, text));
            let unusable = |part: &str| part.is_empty() || part.contains(['/', '*']);
            if unusable(namespace) || unusable(account) {
                values.fault(
                    field,
                    text,
                    "not a service account",
                    "write NAMESPACE/NAME, or NAME for one of the policy's namespace",
                );
                return None;
            }
            Some(ServiceAccountMatch {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
            })
        })
    }

    /// `*`, `*x`, `x*` or `x`.
    fn string(&mut self, field: &str, text: &str) -> Option<StringMatch> {
        let (kind, rest) = if text == "*" {
            (MatchType::Presence(Presence {}), "")
        } else if let Some(suffix) = text.strip_prefix('*') {
            (MatchType::Suffix(suffix.to_owned()), suffix)
        } else if let Some(prefix) = text.strip_suffix('*') {
            (MatchType::Prefix(prefix.to_owned()), prefix)
        } else {
            (MatchType::Exact(text.to_owned()), text)
        };
        if text.is_empty() {
            self.fault(
                field,
                text,
                "an empty text matches nobody",
                "write a name, or * for anybody",
            );
            return None;
        }
        if rest.contains('*') {
            self.fault(
                field,
                text,
                "* stands at the beginning or at the end only, so this never matches",
                "write *x, x* or * alone",
            );
            return None;
        }
        Some(StringMatch {
            match_type: Some(kind),
        })
    }

    fn each<T>(
        &mut self,
        field: &str,
        list: &[String],
        read: impl Fn(&mut Self, &str, &str) -> Option<T>,
    ) -> Vec<T> {
        let numbered = list.iter().enumerate();
        numbered
            .filter_map(|(at, text)| read(self, &format!("{field}[{at}]"), text))
            .collect()
    }
}

/// A block of IPv4-mapped IPv6 addresses as the IPv4 block that it is.
fn canonical(block: IpNet) -> IpNet {
    let (IpAddr::V4(ip), IpNet::V6(_)) = (block.addr().to_canonical(), block) else {
        return block;
    };
    let length = block.prefix_len().checked_sub(96);
    length
        .and_then(|length| IpNet::new(ip.into(), length).ok())
        .unwrap_or(block)
}
