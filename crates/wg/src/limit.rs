//! How many handshakes an address may begin while there are too many.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Handshakes a second, and at once (as the kernel has them).
const EVERY: Duration = Duration::from_millis(50);
const AT_ONCE: u32 = 5;
/// Addresses that are remembered.
const ADDRESSES: usize = 8192;

/// For each address, when what it has used up will have come back.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    full_at: BTreeMap<IpAddr, Duration>,
}

impl Limit {
    /// Whether this address may begin one more.
    pub(crate) fn allow(&mut self, address: IpAddr, now: Duration) -> bool {
        if self.full_at.len() >= ADDRESSES {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= ADDRESSES {
                return false;
            }
        }
        let full_at = self.full_at.entry(subscriber(address)).or_insert(now);
        let next = (*full_at).max(now) + EVERY;
        let allowed = next <= now + AT_ONCE * EVERY;
        if allowed {
            *full_at = next;
        }
        allowed
    }
}

/// One subscriber has 64 bits of IPv6.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_five_at_once_and_twenty_a_second() {
        let mut limit = Limit::default();
        let address = "2001:db8::1".parse().unwrap();
        let neighbour = "2001:db8::2".parse().unwrap();
        let allowed = (0..100).filter(|_| limit.allow(address, Duration::ZERO));
        assert_eq!(allowed.count(), 5);
        assert!(!limit.allow(neighbour, Duration::ZERO));
        assert!(limit.allow("2001:db8:0:1::1".parse().unwrap(), Duration::ZERO));
        let second = (1..=1000).filter(|ms| limit.allow(address, Duration::from_millis(*ms)));
        assert_eq!(second.count(), 20);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut limit = Limit::default();
        for address in 0..20_000u32 {
            limit.allow(IpAddr::V4(address.into()), Duration::ZERO);
        }
        assert!(limit.full_at.len() <= ADDRESSES);
        assert!(limit.allow("192.0.2.1".parse().unwrap(), Duration::from_secs(1)));
    }
}
