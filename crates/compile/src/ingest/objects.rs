//! Objects that are kept as they were written, and what follows from a change of one.

use std::sync::Arc;

use ambit_kube::{
    Action, AuthorizationPolicy, Kind, Located, Object, ObjectKey, PolicyTargetReference, Reach,
};
use ambit_translate::gateway_api;
use ambit_types::NamespacedName;

use super::Ingest;
use crate::dirty::Unit;
use crate::input::{Gateway, Labels};
use crate::policy::Policy;
use crate::reads::Read;
use crate::store::Objects;
use crate::waypoint::attaches;

impl Ingest<'_> {
    /// Keeps an object as it is written, and marks whoever asked for it.
    pub(super) fn keep(&mut self, key: &ObjectKey, new: Option<Located<Object>>) {
        let known = self.store.objects.get(key);
        if known == new.as_ref() {
            return;
        }
        let existed = known.is_some();
        let exists = new.is_some();
        let in_force = |objects: &Objects| objects.in_force(key).map(|of| of.object.clone());
        let was = in_force(&self.store.objects);
        match &new {
            Some(new) if self.is_good(key, &new.object) => {
                self.store.objects.keep_good(key, Some(new.clone()));
            }
            Some(_) => {}
            None => self.store.objects.keep_good(key, None),
        }
        self.store.objects.replace(key, new);
        let is = in_force(&self.store.objects);
        if existed != exists {
            self.count(key, exists);
            self.touch(&Read::Spaces(key.kind));
        }
        self.touch(&Read::Object(key.clone()));
        self.touch(&Read::Kind(key.kind, Arc::clone(&key.namespace)));
        self.attach(key, was.as_ref(), false);
        self.attach(key, is.as_ref(), true);
        let claims = |object: Option<&Object>| object.map(gateway_api::claims).unwrap_or_default();
        let claimed = &mut self.store.objects.claims;
        for service in claimed.replace(key, claims(was.as_ref()), claims(is.as_ref())) {
            let namespace = Arc::clone(&key.namespace);
            self.touch(&Read::Claims(key.kind, namespace, service));
        }
        let selects = [was.as_ref(), is.as_ref()].map(|object| object.and_then(selector));
        if let [before, now] = selects
            && before != now
        {
            self.store.objects.select(key, now);
            self.touch(&Read::Selecting(Arc::clone(&key.namespace)));
        }
        if key.kind == Kind::Gateway {
            self.gateway(key, was.as_ref(), is.as_ref());
        }
        self.dirty.object(key.clone());
    }

    /// Whether a policy can be used as it is written; other kinds have no last good form here.
    fn is_good(&self, key: &ObjectKey, object: &Object) -> bool {
        match object {
            Object::AuthorizationPolicy(policy) => {
                let dry_runs = self.store.settings.dry_run_policies;
                Policy::read(policy, &key.namespace, dry_runs).is_ok()
            }
            Object::RequestAuthentication(_) => true,
            _ => false,
        }
    }

    /// Marks whoever asked this.
    pub(super) fn touch(&mut self, read: &Read) {
        self.readers.touch(read, self.dirty);
    }

    fn count(&mut self, key: &ObjectKey, exists: bool) {
        if key.namespace.is_empty() {
            return;
        }
        let new = !self.store.spaces.contains_key(&key.namespace);
        let others = &mut self.space(&key.namespace).others;
        *others = if exists {
            others.saturating_add(1)
        } else {
            others.saturating_sub(1)
        };
        self.prune(&key.namespace);
        if new || !self.store.spaces.contains_key(&key.namespace) {
            self.touch(&Read::Space(Arc::clone(&key.namespace)));
        }
    }

    /// What a policy is attached to, as far as that decides whom workloads admit.
    fn attach(&mut self, key: &ObjectKey, policy: Option<&Object>, now: bool) {
        for target in policy.iter().flat_map(|policy| targets(key, policy)) {
            self.touch(&Read::Attached(target.clone()));
            self.store.objects.attach(target, key, now);
        }
    }

    fn gateway(&mut self, key: &ObjectKey, was: Option<&Object>, is: Option<&Object>) {
        let at = NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(&key.name));
        self.dirty.mark(Unit::Waypoint(at.clone()));
        self.dirty.mark(Unit::Gateway(at));
        let account = |object: Option<&Object>| match object {
            Some(Object::Gateway(gateway)) => Gateway::new(gateway).for_account,
            _ => None,
        };
        let (was, is) = (account(was), account(is));
        if was == is {
            return;
        }
        let accounts = self.store.accounts.entry(Arc::clone(&key.namespace));
        let accounts = accounts.or_default();
        if let Some(was) = &was
            && let Some(gateways) = accounts.get_mut(was)
        {
            gateways.remove(&key.name);
            if gateways.is_empty() {
                accounts.remove(was);
            }
        }
        if let Some(is) = &is {
            let gateways = accounts.entry(Arc::clone(is)).or_default();
            gateways.insert(Arc::clone(&key.name));
        }
        if accounts.is_empty() {
            self.store.accounts.remove(&key.namespace);
        }
        self.touch(&Read::Accounts(Arc::clone(&key.namespace)));
        for account in was.iter().chain(&is) {
            self.marks().account(&key.namespace, account);
        }
    }
}

/// What a policy names by reference, in its own namespace; those that refuse nothing don't count.
fn targets(key: &ObjectKey, policy: &Object) -> Vec<ObjectKey> {
    let references: Vec<&PolicyTargetReference> = match policy {
        Object::AuthorizationPolicy(policy) if refuses(policy) => {
            let spec = &policy.spec;
            spec.target_ref.iter().chain(&spec.target_refs).collect()
        }
        Object::RequestAuthentication(policy) => {
            let spec = &policy.spec;
            spec.target_ref.iter().chain(&spec.target_refs).collect()
        }
        Object::Broken(broken) => match &broken.reach {
            Reach::Targets(targets) => targets.iter().collect(),
            Reach::Unknown | Reach::Namespace | Reach::Selector(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    let targets = references
        .into_iter()
        .filter_map(|reference| attaches(reference, &key.namespace));
    targets.collect()
}

/// What a policy selects that refuses, and that node proxies don't know at all. Of those with HTTP rules, they get
/// what stands in (`waypoint::stand_in`).
fn selector(policy: &Object) -> Option<Labels> {
    let (selector, targets) = match policy {
        Object::AuthorizationPolicy(policy)
            if refuses(policy) && policy.spec.action == Action::Custom =>
        {
            let spec = &policy.spec;
            let targets = spec.target_ref.is_some() || !spec.target_refs.is_empty();
            (spec.selector.as_ref(), targets)
        }
        Object::RequestAuthentication(policy) => {
            let spec = &policy.spec;
            let targets = spec.target_ref.is_some() || !spec.target_refs.is_empty();
            (spec.selector.as_ref(), targets)
        }
        _ => return None,
    };
    // Without a selector, it is about all of the namespace.
    let labels = selector.map(|selector| Labels::of(&selector.match_labels));
    (!targets).then(|| labels.unwrap_or_default())
}

fn refuses(policy: &AuthorizationPolicy) -> bool {
    let annotations = policy.metadata.annotations.as_ref();
    let dry_run = annotations
        .and_then(|annotations| annotations.get("istio.io/dry-run"))
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
    !dry_run && policy.spec.action != Action::Audit
}
