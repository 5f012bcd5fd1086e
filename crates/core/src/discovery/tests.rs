//! Two gateways and what is between them: NATs, loss, and liars.

mod nat;
mod protocol;

use std::time::Duration;

use super::*;
use crate::Time;

/// The port of discovery on all machines.
const PORT: u16 = 4490;

fn at(milliseconds: u64) -> Time {
    Time(Duration::from_millis(milliseconds))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn own(cluster: &str, private: &[&str]) -> Own {
    let addresses = private.iter().map(|text| ip(text));
    Own {
        cluster: cluster.parse().unwrap(),
        cable_name: format!("submariner-cable-{cluster}"),
        port: PORT,
        addresses: addresses.map(|ip| (Family::of(ip), ip)).collect(),
    }
}

fn target(cluster: &str, private: &str, public: Option<&str>) -> Target {
    Target {
        key: Key {
            cluster: cluster.parse().unwrap(),
            cable_name: format!("submariner-cable-{cluster}"),
            family: Family::of(ip(private)),
        },
        private: Some(ip(private)),
        public: public.map(ip),
        port: Some(PORT),
        nat_enabled: true,
        load_balancer: false,
        dead: false,
        unwatched: false,
    }
}

fn wanted(own: Own, target: &Target) -> Wanted {
    Wanted {
        own: Some(own),
        targets: [target.clone()].into(),
    }
}

/// The one path of a finder with one target.
fn path(finder: &Finder) -> Path {
    *finder.results().values().next().unwrap()
}
