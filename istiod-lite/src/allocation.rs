//! Addresses for hosts of ServiceEntries that have none (`control-plane-contract` 3.5): who gets which.
//!
//! Pure: entries in, wanted allocations out. What is allocated lives in the entries' statuses and nowhere else, so a
//! replica that begins to lead knows all of it from the objects. Writing is the writer's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ambit_kube::{Change, Kind, Object, ObjectKey, Resolution, ServiceEntry};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod pool;

use pool::Pool;

/// What an entry is for the allocation.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Hosts that want addresses, in order; none if it isn't eligible.
    hosts: Vec<Arc<str>>,
    /// Of another revision: what it has stays.
    foreign: bool,
    /// What it has: host and address, as written.
    has: Vec<(Arc<str>, IpAddr)>,
    /// Something of its status isn't an address.
    broken: bool,
    /// What users wrote, in the entry itself.
    own: Vec<IpNet>,
    /// When it was made, then what it is called: the oldest keeps what two have.
    age: (String, ObjectKey),
    generation: Option<i64>,
}

/// All entries, and who has what.
#[derive(Debug)]
pub(crate) struct Allocation {
    entries: HashMap<ObjectKey, Entry>,
    /// What has been decided and isn't seen in the objects yet.
    decided: HashMap<ObjectKey, Vec<(Arc<str>, IpAddr)>>,
    ranges: (Ipv4Net, Ipv6Net),
    revision: Arc<str>,
}

/// What the status of an entry should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// The entry.
    pub(crate) entry: ObjectKey,
    /// Host and address, both families for each host.
    pub(crate) addresses: Vec<(Arc<str>, IpAddr)>,
    /// The generation that the entry had.
    pub(crate) generation: Option<i64>,
}

impl Allocation {
    /// None yet. Entries of another revision are somebody else's.
    pub(crate) fn new(v4: Ipv4Net, v6: Ipv6Net, revision: &str) -> Self {
        Self {
            entries: HashMap::new(),
            decided: HashMap::new(),
            ranges: (v4, v6),
            revision: revision.into(),
        }
    }

    /// Takes what changed; whether that may matter.
    pub(crate) fn learn(&mut self, changes: &[Change]) -> bool {
        let mut matters = false;
        for change in changes {
            match change {
                Change::Apply(located) => {
                    let Object::ServiceEntry(entry) = &located.object else {
                        continue;
                    };
                    let key = located.object.key();
                    let entry = Entry::read(&key, entry, &self.revision);
                    matters |= self.entries.get(&key) != Some(&entry);
                    if self.decided.get(&key) == Some(&entry.has) {
                        self.decided.remove(&key);
                    }
                    self.entries.insert(key, entry);
                }
                Change::Delete(key) if key.kind == Kind::ServiceEntry => {
                    matters |= self.entries.remove(key).is_some();
                    self.decided.remove(key);
                }
                _ => {}
            }
        }
        matters
    }

    /// For who begins to lead: another has decided since, and only what it wrote counts.
    pub(crate) fn forget_decisions(&mut self) {
        self.decided.clear();
    }

    /// What has to be written. What was decided before holds while it isn't seen in the objects.
    pub(crate) fn wanted(&mut self) -> Vec<Allocated> {
        let wanted = self.decide();
        for one in &wanted {
            self.decided
                .insert(one.entry.clone(), one.addresses.clone());
        }
        wanted
    }

    fn decide(&self) -> Vec<Allocated> {
        let (v4, v6) = self.ranges;
        let own: Vec<_> = self.entries.values().flat_map(|entry| &entry.own).collect();
        let theirs = |ip: IpAddr| own.iter().any(|net| net.contains(&ip));
        let mut oldest: Vec<_> = self.entries.iter().collect();
        oldest.sort_by(|(_, one), (_, other)| one.age.cmp(&other.age));

        // First who keeps what, then what is left for the others.
        let mut pools = (Pool::new(v4.into()), Pool::new(v6.into()));
        let mut kept: BTreeMap<&ObjectKey, BTreeMap<(&str, bool), IpAddr>> = BTreeMap::new();
        for ip in oldest.iter().flat_map(|(_, entry)| entry.reserved()) {
            let pool = if ip.is_ipv4() {
                &mut pools.0
            } else {
                &mut pools.1
            };
            pool.take(ip);
        }
        oldest.retain(|(_, entry)| !entry.foreign);
        for (key, entry) in &oldest {
            for (host, ip) in self.decided.get(key).unwrap_or(&entry.has) {
                let wants = entry.hosts.iter().any(|wanted| wanted == host);
                let pool = if ip.is_ipv4() {
                    &mut pools.0
                } else {
                    &mut pools.1
                };
                let slot = (&**host, ip.is_ipv4());
                let of_entry = kept.entry(key).or_default();
                let keeps = wants && !of_entry.contains_key(&slot) && pool.holds(*ip);
                if keeps && !theirs(*ip) && pool.take(*ip) {
                    of_entry.insert(slot, *ip);
                }
            }
        }
        let mut wanted = Vec::new();
        for (key, entry) in oldest {
            let kept = kept.remove(key).unwrap_or_default();
            let mut addresses = Vec::new();
            for host in &entry.hosts {
                for (is_v4, pool) in [(true, &mut pools.0), (false, &mut pools.1)] {
                    let kept = kept.get(&(&**host, is_v4)).copied();
                    let ip = kept.or_else(|| pool.next_free(theirs));
                    addresses.extend(ip.map(|ip| (Arc::clone(host), ip)));
                }
            }
            if addresses != entry.has || entry.broken {
                wanted.push(Allocated {
                    entry: key.clone(),
                    addresses,
                    generation: entry.generation,
                });
            }
        }
        wanted
    }
}

impl Entry {
    /// What nobody else may get, whatever it is.
    fn reserved(&self) -> impl Iterator<Item = IpAddr> {
        let has = self.has.iter().filter(|_| self.foreign);
        has.map(|(_, ip)| *ip)
    }

    fn read(key: &ObjectKey, object: &ServiceEntry, revision: &str) -> Self {
        let (meta, spec) = (&object.metadata, &object.spec);
        let label = |name: &str| meta.labels.as_ref()?.get(name).map(String::as_str);
        let foreign = label("istio.io/rev").is_some_and(|theirs| theirs != revision);
        let foreign = foreign && !revision.is_empty();
        let eligible = !foreign
            && spec.resolution != Resolution::None
            && spec.addresses.is_empty()
            && label("networking.istio.io/enable-autoallocate-ip") != Some("false");
        let wants =
            |host: &&String| !host.starts_with('*') || spec.resolution == Resolution::DynamicDns;
        let mut seen = BTreeSet::new();
        let hosts = spec.hosts.iter().filter(|_| eligible).filter(wants);
        let hosts = hosts.filter(|host| seen.insert(*host));
        let status = object.status.iter();
        let written: Vec<_> = status.flat_map(|status| &status.addresses).collect();
        let has: Vec<_> = written
            .iter()
            .filter_map(|address| Some((address.host.as_str().into(), address.value.parse().ok()?)))
            .collect();
        let own = spec.addresses.iter().filter_map(|text| {
            let ip = text.parse::<IpAddr>().ok().map(IpNet::from);
            ip.or_else(|| text.parse().ok())
        });
        let created = meta.creation_timestamp.as_ref();
        Self {
            hosts: hosts.map(|host| host.as_str().into()).collect(),
            foreign,
            broken: has.len() != written.len(),
            has,
            own: own.collect(),
            age: (
                created.map(|time| time.0.to_string()).unwrap_or_default(),
                key.clone(),
            ),
            generation: meta.generation,
        }
    }
}

#[cfg(test)]
mod tests;
