//! Sequences that went wrong once, cut down to what is needed, and some that nobody should have to find again.

use strait_host::Family;

use super::world::{Deed, Event, Foreign, Remote, Which};

type Case = (&'static str, Vec<Family>, Vec<Event>);

pub(crate) fn all() -> Vec<Case> {
    let v4 = || vec![Family::V4];
    vec![
        (
            "the CNI comes after the agent, on a gateway that moves",
            Family::ALL.to_vec(),
            vec![
                Event::CniLink(0, false),
                Event::Restart,
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::CniLink(0, true),
                Event::CniUp(0, true),
                Event::CniAddress(0, Some(2)),
                Event::Gateway(Some(1), Which::Usual),
                Event::CniAddress(0, Some(3)),
            ],
        ),
        (
            "all that is ours is taken away while the agent is not there",
            v4(),
            vec![
                Event::Deed(Deed::RemoveLinks),
                Event::Deed(Deed::FlushRuleset),
                Event::Restart,
            ],
        ),
        (
            "a gateway with two nodes that differ in their first octet",
            v4(),
            vec![
                Event::Gateway(Some(0), Which::Usual),
                Event::Node(2, Some(Which::Twin)),
                Event::Agent(2, Some(true)),
            ],
        ),
        (
            "a worker that has its gateway's address inside the VXLAN",
            v4(),
            vec![Event::HostAddress(Which::Twin)],
        ),
        (
            "two clusters' gateways with one address inside the cable",
            v4(),
            vec![
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::Remote(1, twin(1)),
            ],
        ),
        (
            "another cluster that announces the nodes' network",
            v4(),
            vec![
                Event::Remote(2, announcing(17)),
                Event::Remote(3, announcing(18)),
            ],
        ),
        (
            "somebody's link of our name, on a node that becomes the gateway",
            Family::ALL.to_vec(),
            vec![
                Event::Foreign(Foreign::Namesake, true),
                Event::Gateway(Some(0), Which::Usual),
                Event::Foreign(Foreign::Namesake, false),
                Event::Foreign(Foreign::SameVni, true),
                Event::Foreign(Foreign::SameVni, false),
            ],
        ),
        (
            "somebody's table of our name, while the gateway moves",
            Family::ALL.to_vec(),
            vec![
                Event::Foreign(Foreign::Table, true),
                Event::Gateway(Some(2), Which::Usual),
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::Foreign(Foreign::Table, false),
                Event::Foreign(Foreign::Table, true),
                Event::Restart,
                Event::Foreign(Foreign::Table, false),
            ],
        ),
        (
            "somebody's reverse-path filter, on a worker, on the gateway, and on one that stands by",
            Family::ALL.to_vec(),
            vec![
                Event::Foreign(Foreign::ReversePath, true),
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::Gateway(Some(1), Which::Usual),
                Event::CniUp(0, false),
                Event::Foreign(Foreign::ReversePath, false),
            ],
        ),
        (
            "a peer whose address is in its own subnet",
            v4(),
            vec![
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::Remote(2, in_own_subnet(2)),
            ],
        ),
        (
            "somebody's link of our name, on a gateway without an address to stand on",
            v4(),
            vec![
                Event::Node(0, None),
                Event::DefaultRoute(None),
                Event::Gateway(Some(0), Which::Usual),
                Event::Foreign(Foreign::Namesake, true),
            ],
        ),
        (
            "two clusters' gateways with one address, of a family that this cluster does not have",
            v4(),
            vec![
                Event::Remote(1, in_own_subnet(5)),
                Event::Remote(0, in_own_subnet(5)),
            ],
        ),
        (
            "a gateway that is like neither of two nodes that differ in their first octet",
            v4(),
            vec![
                Event::Node(0, None),
                Event::DefaultRoute(Some(1)),
                Event::Node(2, Some(Which::Twin)),
                Event::Gateway(Some(0), Which::Usual),
            ],
        ),
        (
            "a Node that comes after its agent",
            v4(),
            vec![
                Event::Agent(3, Some(true)),
                Event::Node(3, Some(Which::Usual)),
                Event::Gateway(Some(0), Which::Usual),
            ],
        ),
        (
            "a gateway's agent that may not list the others, and a node that comes meanwhile",
            Family::ALL.to_vec(),
            vec![
                Event::Cable(Some(true)),
                Event::Gateway(Some(0), Which::Usual),
                Event::AgentsRefused(true),
                Event::Restart,
                Event::Node(3, Some(Which::Usual)),
                Event::Agent(3, Some(true)),
                Event::Deed(Deed::FlushNeighbours),
                Event::AgentsRefused(false),
            ],
        ),
        (
            "a worker's agent that starts on an empty node and may not list the others",
            v4(),
            vec![
                Event::Deed(Deed::RemoveLinks),
                Event::AgentsRefused(true),
                Event::Restart,
                Event::Gateway(Some(2), Which::Usual),
            ],
        ),
    ]
}

fn announcing(subnet: usize) -> Option<Remote> {
    Some(Remote {
        address: Which::Usual,
        subnets: [subnet].into(),
    })
}

fn in_own_subnet(subnet: usize) -> Option<Remote> {
    announcing(subnet).map(|remote| Remote {
        address: Which::InOwnSubnet,
        ..remote
    })
}

fn twin(subnet: usize) -> Option<Remote> {
    announcing(subnet).map(|remote| Remote {
        address: Which::Twin,
        ..remote
    })
}
