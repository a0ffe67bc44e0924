//! What one stream wants of one type, and what it still has to be told.

use std::collections::HashSet;
use std::sync::Arc;

use ambit_proto::discovery::DeltaDiscoveryRequest;

use super::audience::Visible;
use super::resource::Resource;

/// Everything, or what was named.
#[derive(Debug)]
pub(super) enum Interest {
    Wildcard,
    /// On demand: `keys` as the client asked, `held` the names it was sent.
    Named {
        keys: HashSet<Arc<str>>,
        held: HashSet<Arc<str>>,
    },
}

/// Names that the client has to be told about: sent if they exist when it
/// happens, reported as removed if they don't. Merging two is a union, which
/// is what keeps a slow client's backlog small.
pub(super) type Due = HashSet<Arc<str>>;

/// The first request of a type, understood.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) interest: Interest,
    pub(super) due: Due,
    /// Everything is due, whatever there is when it is sent.
    pub(super) everything: bool,
}

const STAR: &str = "*";

impl Interest {
    /// The first request of a type: the interest and what is due at once.
    pub(super) fn open(request: &DeltaDiscoveryRequest, view: Visible<'_>) -> Opened {
        let subscribe = &request.resource_names_subscribe;
        let gives_up_star = is_listed(&request.resource_names_unsubscribe, STAR);
        let wildcard = (subscribe.is_empty() || is_listed(subscribe, STAR)) && !gives_up_star;
        let versions = &request.initial_resource_versions;
        let is_current = |name: &str| {
            let held = versions.get(name).filter(|version| !version.is_empty());
            held.zip(view.named(name))
                .is_some_and(|(held, now)| **held == *now.version)
        };
        let opened = |interest, due| Opened {
            interest,
            due,
            everything: false,
        };
        if wildcard && versions.is_empty() {
            return Opened {
                everything: true,
                ..opened(Self::Wildcard, Due::new())
            };
        }
        if wildcard {
            let changed = view.names().filter(|name| !is_current(name)).cloned();
            let gone = versions.keys().filter(|name| view.named(name).is_none());
            let due = changed
                .chain(gone.map(|name| Arc::from(name.as_str())))
                .collect();
            return opened(Self::Wildcard, due);
        }
        let mut interest = Self::Named {
            keys: HashSet::new(),
            held: HashSet::new(),
        };
        let mut due = interest.subscribe(subscribe.iter().filter(|key| *key != STAR), view);
        due.extend(interest.subscribe(versions.keys(), view));
        let Self::Named { held, .. } = &mut interest else {
            return opened(interest, due);
        };
        // What it holds at the current version it keeps: held, not due.
        due.retain(|name| {
            let keep = is_current(name) && !is_listed(subscribe, name);
            if keep {
                held.insert(Arc::clone(name));
            }
            !keep
        });
        opened(interest, due)
    }

    /// A later request. Returns what it makes due.
    pub(super) fn change(&mut self, request: &DeltaDiscoveryRequest, view: Visible<'_>) -> Due {
        let subscribe = &request.resource_names_subscribe;
        let unsubscribe = &request.resource_names_unsubscribe;
        let to_wildcard = is_listed(subscribe, STAR) && !is_listed(unsubscribe, STAR);
        if to_wildcard && !matches!(self, Self::Wildcard) {
            *self = Self::Wildcard;
            return view.names().cloned().collect();
        }
        if is_listed(unsubscribe, STAR) && matches!(self, Self::Wildcard) {
            *self = Self::Named {
                keys: HashSet::new(),
                held: HashSet::new(),
            };
        }
        self.unsubscribe(unsubscribe, view);
        self.subscribe(subscribe.iter().filter(|key| *key != STAR), view)
    }

    /// Which of the published names matter to this stream, which saw the type
    /// as `before` until now.
    pub(super) fn due(&self, touched: &[Arc<str>], before: Visible<'_>, view: Visible<'_>) -> Due {
        let matter = |name: &&Arc<str>| match (before.named(name), view.named(name)) {
            // Only for whom it exists is not as it was.
            (Some(old), Some(new)) if old.version == new.version => false,
            (_, Some(resource)) => self.wants(resource, view),
            (Some(_), None) => self.holds(name),
            (None, None) => false,
        };
        touched.iter().filter(matter).cloned().collect()
    }

    /// A due name, resolved when it is sent: what to send, or nothing if the
    /// client is to be told that it is gone.
    pub(super) fn resolve(&self, name: &str, view: Visible<'_>) -> Vec<Arc<Resource>> {
        match self {
            Self::Wildcard if view.named(name).is_some() => {
                view.named(name).cloned().into_iter().collect()
            }
            Self::Wildcard | Self::Named { .. } => view.asked(name),
        }
    }

    /// These were sent.
    pub(super) fn on_sent<'a>(
        &mut self,
        sent: impl Iterator<Item = &'a Arc<str>>,
        removed: &[Arc<str>],
    ) {
        let Self::Named { held, .. } = self else {
            return;
        };
        held.extend(sent.cloned());
        for name in removed {
            held.remove(name);
        }
    }

    fn subscribe<'a>(&mut self, asked: impl Iterator<Item = &'a String>, view: Visible<'_>) -> Due {
        let asked = asked.map(|key| Arc::<str>::from(key.as_str()));
        let Self::Named { keys, held } = self else {
            // Already subscribed to everything: asking again means sending again.
            return asked.collect();
        };
        let mut due = Due::new();
        for key in asked {
            let found = view.asked(&key);
            if found.is_empty() {
                due.insert(Arc::clone(&key));
            }
            due.extend(found.iter().map(|r| Arc::clone(&r.name)));
            keys.insert(key);
        }
        let own = view.at_home();
        due.extend(own.filter(|name| !held.contains(*name)).cloned());
        due
    }

    fn unsubscribe(&mut self, names: &[String], view: Visible<'_>) {
        let Self::Named { keys, held } = self else {
            return;
        };
        let before = keys.len();
        keys.retain(|key| !is_listed(names, key));
        if keys.len() == before {
            return;
        }
        let asked = keys.iter().flat_map(|key| view.asked(key));
        let mut wanted: HashSet<Arc<str>> = asked.map(|r| Arc::clone(&r.name)).collect();
        wanted.extend(view.at_home().cloned());
        held.retain(|name| wanted.contains(name));
    }

    fn wants(&self, resource: &Resource, view: Visible<'_>) -> bool {
        let Self::Named { keys, held } = self else {
            return true;
        };
        view.is_at_home(resource)
            || held.contains(&resource.name)
            || keys.contains(&resource.name)
            || resource.aliases.iter().any(|alias| keys.contains(alias))
            // Members follow what was asked for, though nobody named them.
            || resource.groups.iter().any(|group| held.contains(group))
    }

    fn holds(&self, name: &Arc<str>) -> bool {
        match self {
            Self::Wildcard => true,
            Self::Named { keys, held } => held.contains(name) || keys.contains(name),
        }
    }
}

fn is_listed(names: &[String], name: &str) -> bool {
    names.iter().any(|each| each == name)
}
