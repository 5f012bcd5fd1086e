//! What a node's own path needs, among all that is wanted of it.

use strait_host::{Change, Conflict};

/// Whether without this change nothing gets through at all: devices, their addresses, packet filters, rules, and the sysctls that let
/// packets pass. One route is about one remote subnet, one entry about one peer, and what goes away is in nobody's way.
#[must_use]
pub fn needs(change: &Change) -> bool {
    match change {
        Change::CreateLink(..)
        | Change::ChangeLink(..)
        | Change::AddAddress(_)
        | Change::Nft(_)
        | Change::SetAccepts(..)
        | Change::AddRule(_) => true,
        Change::SetSysctl(path, value) => lets_pass(path, value),
        Change::SetNeighbour(_)
        | Change::SetFdb(_)
        | Change::SetRoute(_)
        | Change::RemoveLink(_)
        | Change::RemoveAddress(_)
        | Change::RemoveNeighbour(_)
        | Change::RemoveFdb(_)
        | Change::RemoveRoute(_)
        | Change::RemoveRule(_) => false,
    }
}

/// Whether a sysctl lets packets pass; others tune, or set back what was there before.
fn lets_pass(path: &str, value: &str) -> bool {
    match path.rsplit('/').next() {
        Some("forwarding") => value == "1",
        Some("rp_filter") => value == "2",
        Some(_) | None => false,
    }
}

/// The same of what stands in the way.
#[must_use]
pub fn blocks(conflict: &Conflict) -> bool {
    match conflict {
        Conflict::Link(_) | Conflict::Vxlan { .. } | Conflict::Table(_) => true,
        Conflict::Route { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_that_tune_or_set_back_are_not_the_way() {
        for (path, value, expected) in [
            ("net/ipv4/conf/vx-submariner/forwarding", "1", true),
            ("net/ipv4/conf/vx-submariner/send_redirects", "0", false),
            ("net/ipv4/conf/cni0/rp_filter", "2", true),
            ("net/ipv4/conf/cni0/rp_filter", "1", false),
            ("net/ipv6/conf/all/forwarding", "1", true),
            ("net/ipv6/conf/all/forwarding", "0", false),
        ] {
            let change = Change::SetSysctl(path.to_owned(), value.to_owned());
            assert_eq!(needs(&change), expected, "{path} = {value}");
        }
    }
}
