//! Makes what one owner wants true: by the difference with what is believed, and by verifying.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use strait_host::{
    Change, Conflict, Contention, Host, Owned, Owner, Remade, Route, Subject, Wanted, diff,
};

use crate::{Error, Event, Failure, Kernel};

/// Keeps what one owner wants of this host.
///
/// A change goes by the difference with what the host is believed to have, without reading it again; who calls
/// [`Reconciler::observe`] first verifies.
#[derive(Debug)]
pub struct Reconciler {
    kernel: Kernel,
    owner: Owner,
    believed: Option<Arc<Host>>,
    /// What was believed before the host was read, until the next pass.
    expected: Option<Arc<Host>>,
    /// What was wanted in the last pass.
    wanted: Option<Wanted>,
    /// Where somebody's route took the place of one of ours: it is ours to be restored, also after it was left alone for a while.
    altered: BTreeSet<Key>,
    contention: Contention,
    begun: Instant,
}

/// What tells two routes apart.
type Key = (u32, IpNet, u32);

/// What a pass did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes that were made.
    pub made: Vec<Change>,
    /// How many of them, by kind of object, nothing but somebody else's doing made necessary.
    pub repaired: BTreeMap<&'static str, u64>,
    /// Changes that failed; the next pass tries them again.
    pub failures: Vec<Failure>,
    /// Foreign objects in the way.
    pub conflicts: Vec<Conflict>,
    /// What would be changed, but that somebody else changes these objects again and again: they are left alone for a while.
    pub contended: Vec<Change>,
    /// Links that were made anew.
    pub remade: Vec<Remade>,
    /// How long until they are tried again.
    pub retry_after: Option<Duration>,
}

impl Reconciler {
    /// For the namespace of the calling thread.
    #[must_use]
    pub fn new(kernel: Kernel, owner: Owner) -> Self {
        Self {
            kernel,
            owner,
            believed: None,
            expected: None,
            wanted: None,
            altered: BTreeSet::new(),
            contention: Contention::default(),
            begun: Instant::now(),
        }
    }

    /// Whether an event may be about what is wanted. Neighbours of others' links come and go all the time.
    #[must_use]
    pub fn concerns(&self, event: &Event) -> bool {
        match event {
            Event::Neighbour(Some(link)) => self.owner.links.contains(link),
            Event::Link(_)
            | Event::Address(_)
            | Event::Route
            | Event::Rule
            | Event::Neighbour(None)
            | Event::Sysctl
            | Event::Nft
            | Event::Overrun => true,
        }
    }

    /// Reads the host. What is compared with the wish is that without somebody's routes that took the place of ours: there, ours are missing.
    ///
    /// # Errors
    /// What the kernel says; what was believed stays.
    pub async fn observe(&mut self) -> Result<Arc<Host>, Error> {
        let host = Arc::new(self.kernel.observe(&self.owner.tables).await?);
        self.altered = self.altered_in(&host);
        let mut believed = host.clone();
        if !self.altered.is_empty() {
            let (owner, altered) = (&self.owner, &self.altered);
            Arc::make_mut(&mut believed)
                .routes
                .retain(|r| owner.owns_route(r) || !altered.contains(&r.key()));
        }
        self.expected = self.believed.replace(believed);
        Ok(host)
    }

    /// Where somebody's route stands in the place of one of ours that is wanted, and was believed to be there. One that was there before
    /// ours is in the way instead, and stays.
    fn altered_in(&self, host: &Host) -> BTreeSet<Key> {
        let theirs = host.routes.iter().filter(|r| !self.owner.owns_route(r));
        let mut theirs: BTreeSet<Key> = theirs.map(Route::key).collect();
        let Some(Owned::Set(wanted)) = self.wanted.as_ref().map(|wanted| &wanted.routes) else {
            return BTreeSet::new();
        };
        let believed = self.believed.iter().flat_map(|host| &host.routes);
        let ours = believed.filter(|r| self.owner.owns_route(r) && theirs.contains(&r.key()));
        let ours: BTreeSet<Key> = ours.map(Route::key).collect();
        theirs.retain(|key| ours.contains(key) || self.altered.contains(key));
        let wanted = wanted.iter().map(Route::key);
        wanted.filter(|key| theirs.contains(key)).collect()
    }

    /// What would be changed; `None` before the host was read.
    #[must_use]
    pub fn pending(&self, wanted: &Wanted) -> Option<strait_host::Difference> {
        Some(diff(self.believed.as_ref()?, wanted, &self.owner))
    }

    /// Makes it so. Nothing happens before the host was read once.
    pub async fn make(&mut self, wanted: Wanted) -> Outcome {
        let Some(believed) = &mut self.believed else {
            return Outcome::default();
        };
        let difference = diff(believed, &wanted, &self.owner);
        let expected = self.expected.take();
        let now = self.begun.elapsed();
        let before = self.wanted.as_ref().filter(|before| **before != wanted);
        if let Some(before) = before {
            self.contention.forget(before, &wanted);
        }
        let same_wish = self.wanted.is_some() && before.is_none();
        let changes = self.contention.admit(difference.changes, now);
        let failures = self.kernel.apply(&changes).await;
        let mut made = changes;
        made.retain(|change| !failures.iter().any(|f| f.change == *change));
        if !made.is_empty() {
            let believed = Arc::make_mut(believed);
            made.iter().for_each(|change| believed.apply(change));
        }
        let mut remade = difference.remade;
        let new = |name: &String| {
            let mut created = made.iter();
            created.any(|change| matches!(change, Change::CreateLink(link, _) if link == name))
        };
        remade.retain(|remade| new(&remade.link));
        let mut repaired = BTreeMap::new();
        if same_wish {
            self.contention.repaired(&made, now);
        }
        if let (Some(expected), false) = (expected, made.is_empty()) {
            // What was asked for and could not be made, or not yet, or is asked for now, nobody took away.
            let asked = diff(&expected, &wanted, &self.owner).changes;
            let asked: BTreeSet<Subject> = asked.iter().map(Change::subject).collect();
            let taken = made.iter().filter(|c| !asked.contains(&c.subject()));
            if !same_wish {
                self.contention.repaired(taken.clone(), now);
            }
            for change in taken {
                *repaired.entry(change.object()).or_default() += 1;
            }
        }
        self.wanted = Some(wanted);
        Outcome {
            made,
            repaired,
            failures,
            conflicts: difference.conflicts,
            remade,
            contended: self.contention.held().cloned().collect(),
            retry_after: self.contention.deadline().map(|at| at.saturating_sub(now)),
        }
    }
}
