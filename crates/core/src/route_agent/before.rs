//! What sysctls of others' links were before we changed them, so that they can be set back.
//!
//! It is remembered in maps of our own nftables table: they are there as long as the table, whoever restarts, they belong to the network
//! namespace as the links do, and they are written before the sysctl is. A value that is no longer the one that we set is somebody
//! else's by now, and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strait_api::names::LINK_ALIAS;
use strait_host::nft::{Element, ElementType, Set, Table};
use strait_host::{Host, rp_filter_path};

use super::{owner, table};
use crate::local::every_link;
use crate::time::Time;

/// How long a link is not wanted so before it is set back: CNIs take their routes away and bring them back.
const GRACE: Duration = Duration::from_secs(60);

/// What stands for all links below `/proc/sys/net/ipv6/conf`.
pub(super) const ALL_LINKS: &str = "all";

/// What is changed on links of others, or on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Loose (2) where replies arrive.
    RpFilter,
    /// On (1) on a cable.
    Forwarding,
    /// Off (0) on a cable.
    SendRedirects,
    /// On (1) for IPv6, of [`ALL_LINKS`]: there is no other that counts.
    Forwarding6,
}

impl Key {
    const ALL: [Self; 4] = [
        Self::RpFilter,
        Self::Forwarding,
        Self::SendRedirects,
        Self::Forwarding6,
    ];

    /// The map that remembers it.
    fn map(self) -> &'static str {
        match self {
            Self::RpFilter => "before-rp_filter",
            Self::Forwarding => "before-forwarding",
            Self::SendRedirects => "before-send_redirects",
            Self::Forwarding6 => "before-forwarding6",
        }
    }

    /// The value that we set.
    pub(super) fn ours(self) -> i64 {
        match self {
            Self::RpFilter => 2,
            Self::Forwarding | Self::Forwarding6 => 1,
            Self::SendRedirects => 0,
        }
    }

    /// Its path below `/proc/sys`.
    pub(super) fn path(self, link: &str) -> String {
        match self {
            Self::RpFilter => rp_filter_path(link),
            Self::Forwarding => format!("net/ipv4/conf/{link}/forwarding"),
            Self::SendRedirects => format!("net/ipv4/conf/{link}/send_redirects"),
            Self::Forwarding6 => format!("net/ipv6/conf/{link}/forwarding"),
        }
    }

    /// The value on a host.
    fn value(self, host: &Host, link: &str) -> Option<i64> {
        host.sysctl(&self.path(link))
    }

    /// What is about to be changed: the value that it has, if it is not as we want it.
    fn to_change(self, host: &Host, link: &str) -> Option<u32> {
        let own = self.value(host, link)?;
        let changes = match self {
            Self::RpFilter => own.max(host.sysctl(&rp_filter_path("all")).unwrap_or(0)) == 1,
            Self::Forwarding | Self::SendRedirects | Self::Forwarding6 => own != self.ours(),
        };
        u32::try_from(own).ok().filter(|_| changes)
    }
}

/// A sysctl of a link.
pub(super) type Item = (Key, String);

/// Values by sysctl.
type Values = BTreeMap<Item, u32>;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Before {
    values: Values,
    /// Since when what we changed is not wanted so.
    unwanted: BTreeMap<Item, Time>,
    /// What is set back.
    back: BTreeSet<Item>,
}

impl Before {
    /// The host was read.
    pub(super) fn observe(&mut self, host: &Host) {
        // Somebody may have emptied the table: what this process knows counts too.
        self.values.extend(remembered(host));
        self.values
            .retain(|(key, link), _| key.value(host, link) == Some(key.ours()));
    }

    /// What is wanted as we set it.
    pub(super) fn want(&mut self, wanted: &BTreeSet<Item>, now: Time) {
        let values = &self.values;
        let lapsed = |item: &Item| values.contains_key(item) && !wanted.contains(item);
        self.unwanted.retain(|item, _| lapsed(item));
        self.back.retain(lapsed);
        for item in values.keys().filter(|item| lapsed(item)) {
            self.unwanted.entry(item.clone()).or_insert(now);
        }
    }

    pub(super) fn tick(&mut self, now: Time) {
        let due = self.unwanted.iter().filter(|(_, at)| **at + GRACE <= now);
        self.back.extend(due.map(|(item, _)| item.clone()));
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let pending = self
            .unwanted
            .iter()
            .filter(|(i, _)| !self.back.contains(*i));
        pending.map(|(_, at)| *at + GRACE).min()
    }

    /// What is to be set back: path and value.
    pub(super) fn set_back(&self, wanted: &BTreeSet<Item>) -> BTreeMap<String, String> {
        let back = self.back.iter().filter(|item| !wanted.contains(*item));
        back.filter_map(|item| Some((item, self.values.get(item)?)))
            .map(|((key, link), value)| (key.path(link), value.to_string()))
            .collect()
    }

    /// The maps that remember, by name: what was changed, and what is about to be.
    pub(super) fn maps(&self, host: &Host, wanted: &BTreeSet<Item>) -> BTreeMap<String, Set> {
        let mut values = self.values.clone();
        for (key, link) in wanted {
            if let Some(value) = key.to_change(host, link) {
                values.insert((*key, link.clone()), value);
            }
        }
        let map = |key: Key| Set {
            keys: ElementType::Name,
            interval: false,
            values: Some(ElementType::Mark),
            elements: values
                .iter()
                .filter(|((k, _), _)| *k == key)
                .map(|((_, link), value)| {
                    (Element::Name(link.clone()), Some(Element::Mark(*value)))
                })
                .collect(),
        };
        Key::ALL.map(|key| (key.map().to_owned(), map(key))).into()
    }
}

/// Whether a link is somebody else's: ours go with all that they have.
pub(super) fn is_foreign(host: &Host, (key, link): &Item) -> bool {
    if *key == Key::Forwarding6 {
        return link == ALL_LINKS;
    }
    let ours = |l: &strait_host::Link| l.alias.as_deref() == Some(LINK_ALIAS);
    host.links
        .get(link)
        .is_some_and(|l| !(ours(l) && every_link().contains(link)))
}

/// What an uninstallation sets back: path below `/proc/sys`, and value.
#[must_use]
pub fn set_back(host: &Host) -> BTreeMap<String, String> {
    let mut before = Before::default();
    before.observe(host);
    let values = before.values.into_iter();
    values
        .map(|((key, link), value)| (key.path(&link), value.to_string()))
        .collect()
}

fn remembered(host: &Host) -> Values {
    let id = table();
    let ours = |table: &&Table| owner().owns_table(&id, table);
    let table = host.nft.get(&id).filter(ours);
    table.map(read).unwrap_or_default()
}

fn read(table: &Table) -> Values {
    let mut values = Values::new();
    for key in Key::ALL {
        let elements = table.sets.get(key.map()).map(|set| &set.elements);
        for (element, value) in elements.into_iter().flatten() {
            if let (Element::Name(link), Some(Element::Mark(value))) = (element, value)
                && *value <= 2
                && (link == ALL_LINKS) == (key == Key::Forwarding6)
            {
                values.insert((key, link.clone()), *value);
            }
        }
    }
    values
}
