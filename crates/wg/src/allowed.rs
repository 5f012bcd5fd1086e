//! Cryptokey routing: which peers an address belongs to.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix; the longest prefix that holds an address counts. One prefix may hold several.
#[derive(Debug, Clone)]
pub(crate) struct Allowed<T> {
    v4: BTreeMap<Reverse<u8>, BTreeMap<u32, Vec<T>>>,
    v6: BTreeMap<Reverse<u8>, BTreeMap<u128, Vec<T>>>,
}

impl<T> Default for Allowed<T> {
    fn default() -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
        }
    }
}

impl<T> Allowed<T> {
    pub(crate) fn add(&mut self, prefix: IpNet, value: T) {
        let length = Reverse(prefix.prefix_len());
        match prefix.network() {
            IpAddr::V4(network) => {
                let of_length = self.v4.entry(length).or_default();
                of_length.entry(network.into()).or_default().push(value);
            }
            IpAddr::V6(network) => {
                let of_length = self.v6.entry(length).or_default();
                of_length.entry(network.into()).or_default().push(value);
            }
        }
    }

    pub(crate) fn find(&self, address: IpAddr) -> &[T] {
        let found = match address {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                let mut lengths = self.v4.iter();
                lengths.find_map(|(length, of_length)| {
                    let host = 32 - u32::from(length.0);
                    of_length.get(&(bits & u32::MAX.checked_shl(host).unwrap_or(0)))
                })
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                let mut lengths = self.v6.iter();
                lengths.find_map(|(length, of_length)| {
                    let host = 128 - u32::from(length.0);
                    of_length.get(&(bits & u128::MAX.checked_shl(host).unwrap_or(0)))
                })
            }
        };
        found.map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let mut allowed = Allowed::default();
        let nets = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3/32",
            "::/0",
            "fd00::/8",
        ];
        for net in nets {
            allowed.add(net.parse().unwrap(), net);
        }
        allowed.add("10.1.0.0/16".parse().unwrap(), "another");
        let find = |address: &str| allowed.find(address.parse().unwrap()).to_vec();
        assert_eq!(find("10.1.2.3"), ["10.1.2.3/32"]);
        assert_eq!(find("10.1.2.4"), ["10.1.0.0/16", "another"]);
        assert_eq!(find("10.2.0.0"), ["10.0.0.0/8"]);
        assert_eq!(find("192.0.2.1"), ["0.0.0.0/0"]);
        assert_eq!(find("fd00::1"), ["fd00::/8"]);
        assert_eq!(find("2001:db8::1"), ["::/0"]);
        assert!(
            Allowed::<u8>::default()
                .find("10.0.0.1".parse().unwrap())
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_search(nets in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..40), near in any::<u32>()) {
            let mut allowed = Allowed::default();
            let nets: Vec<IpNet> = nets.into_iter().map(|(bits, length)| {
                ipnet::Ipv4Net::new((bits & near).into(), length).unwrap().trunc().into()
            }).collect();
            for net in &nets {
                allowed.add(*net, *net);
            }
            let address = IpAddr::V4(near.into());
            let best = nets.iter().filter(|net| net.contains(&address)).max_by_key(|net| net.prefix_len());
            prop_assert_eq!(allowed.find(address).first(), best);
        }
    }
}
